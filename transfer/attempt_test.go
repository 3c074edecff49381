package transfer_test

import (
	"bytes"
	"context"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/nbd"
	"github.com/vmferry/vmferry/transfer"
)

const (
	roomMiB  = 1 << 20
	roomSize = 32 * roomMiB // of each disk
)

// room has frozen disks that are files named like their snapshots, and a target that is a file. Disks are read by a
// real nbdkit and copied by the real engine.
type room struct {
	t         *testing.T
	dir       string
	target    *nbd.Target
	permits   *transfer.Permits
	transfers *transfer.Transfers
	changed   map[[2]string]job.Extents // by snapshot, and the change ID since when
}

func newRoom(t *testing.T) *room {
	t.Helper()
	if _, err := exec.LookPath("nbdkit"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("nbdkit is not installed")
		}
		t.Skip("nbdkit is not installed")
	}
	run, err := os.MkdirTemp("", "run") //nolint:usetesting // the path of a socket must be short
	r := &room{
		t: t, dir: t.TempDir(), permits: transfer.NewPermits(job.Limits{Disks: 1}),
		changed: map[[2]string]job.Extents{},
	}
	r.check(err)
	t.Cleanup(func() { r.check(os.RemoveAll(run)) })
	r.transfers = transfer.New(transfer.Config{
		Source: r, Targets: r, RunDir: run, Checkpoints: filepath.Join(r.dir, "checkpoints"),
	}, r.permits)
	f, err := os.OpenFile(r.path("target"), os.O_RDWR|os.O_CREATE, 0o600)
	r.check(err)
	r.check(f.Truncate(roomSize))
	r.target, err = nbd.FileTarget(f, f.Close)
	r.check(err)
	t.Cleanup(func() { r.check(r.target.Close()) })
	return r
}

func (r *room) check(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *room) path(name string) string { return filepath.Join(r.dir, name) }

func (r *room) Export(_ context.Context, _ job.VM, snap job.VMSnapshot, _ job.DiskID) (job.Export, error) {
	return job.Export{
		Transport: "file", Plugin: "file", Params: []job.Param{{Key: "file", Value: r.path(snap.Ref)}}, Connections: 1,
	}, nil
}

func (r *room) SessionCookie(context.Context) (job.Secret, error) { return job.Secret{}, nil }

func (r *room) ChangedAreas(_ context.Context, _ job.VM, snap job.VMSnapshot, _ job.DiskID, since string) (job.Extents,
	error,
) {
	return r.changed[[2]string{snap.Ref, since}], nil
}

func (r *room) Handle(_ context.Context, _ job.VolumeRef, _ string, zero, _ bool) (*nbd.Target, bool, error) {
	return r.target, zero, nil
}

func (r *room) Settle(context.Context, job.VolumeRef) error { return nil }

// freeze makes a frozen disk with 1 MiB of noise at every third MiB from that one on; all else is zero.
func (r *room) freeze(snapshot string, first int64) {
	r.t.Helper()
	b := make([]byte, roomSize)
	noise := rand.NewChaCha8([32]byte{byte(first)})
	var data job.Extents
	for off := first * roomMiB; off < roomSize; off += 3 * roomMiB {
		_, _ = noise.Read(b[off : off+roomMiB])
		data = append(data, job.Extent{Offset: off, Length: roomMiB})
	}
	r.check(os.WriteFile(r.path(snapshot), b, 0o600))
	r.changed[[2]string{snapshot, "*"}] = data
}

// spoil writes over bytes of a file.
func (r *room) spoil(name string, off int64, n int) {
	r.t.Helper()
	f, err := os.OpenFile(r.path(name), os.O_WRONLY, 0)
	r.check(err)
	_, err = f.WriteAt(bytes.Repeat([]byte{0xaa}, n), off)
	r.check(err)
	r.check(f.Close())
}

// flip changes one bit of a file.
func (r *room) flip(name string, off int64) {
	r.t.Helper()
	b, err := os.ReadFile(r.path(name))
	r.check(err)
	b[off] ^= 1
	r.check(os.WriteFile(r.path(name), b, 0o600))
}

func (r *room) equal(snapshot string) {
	r.t.Helper()
	want, err := os.ReadFile(r.path(snapshot))
	r.check(err)
	got, err := os.ReadFile(r.path("target"))
	r.check(err)
	for off := 0; off < roomSize; off += roomMiB {
		if !bytes.Equal(got[off:off+roomMiB], want[off:off+roomMiB]) {
			r.t.Errorf("MiB %d of the target differs from %s", off/roomMiB, snapshot)
		}
	}
}

// task is an attempt at a full copy of a frozen disk onto a target that the plan found to be all zero.
func (r *room) task(snapshot string) job.TransferTask {
	return job.TransferTask{
		Job: "job-1", Round: 1, VM: job.VM{UUID: "50-1", Host: "esx-1"}, Snapshot: job.VMSnapshot{Ref: snapshot},
		Disk: job.DiskState{
			Disk:   job.Disk{ID: "disk-2000", Capacity: roomSize, ChangeID: "52/1"},
			Target: r.path("target"), TargetIdentity: "it", Mode: job.Full, Zero: true, Attempt: 1,
		},
	}
}

func (r *room) run(t job.TransferTask) (job.Counters, error) {
	r.t.Helper()
	return r.transfers.Run(r.t.Context(), t, func(job.TransferView) {})
}

// cutOff runs an attempt, and ends it when more than 4 MiB are on the target.
func (r *room) cutOff(task job.TransferTask) {
	r.t.Helper()
	ctx, cancel := context.WithCancel(r.t.Context())
	defer cancel()
	task.Limits.Bandwidth = 256 << 10 // the limiter lets 8 MiB pass at once
	watch := func(v job.TransferView) {
		if v.SourcePID == 0 {
			return
		}
		go func() {
			tick := time.NewTicker(5 * time.Millisecond)
			defer tick.Stop()
			for ctx.Err() == nil && v.Counters().Transferred <= 4*roomMiB {
				<-tick.C
			}
			cancel()
		}()
	}
	c, err := r.transfers.Run(ctx, task, watch)
	if job.KindOf(err) != job.Cancelled || c.Durable < 4*roomMiB {
		r.t.Fatalf("the first attempt ended with %v, %d bytes are durable", err, c.Durable)
	}
	r.permits.LimitJob(task.Job, job.TransferLimits{})
}

func TestACopyThatRefusesItsCheckpointBelievesNoZeros(t *testing.T) {
	for name, tc := range map[string]struct {
		first string // the snapshot that the first attempt copied
		after func(r *room)
	}{
		"one bit of it is wrong": {"snapshot-2", func(r *room) {
			r.flip("checkpoints/job-1/disk-2000-1.checkpoint", 20)
			r.spoil("target", 2*roomMiB, roomMiB) // zero on the disk
		}},
		"it is of another snapshot": {"snapshot-1", func(*room) {}},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRoom(t)
			r.freeze("snapshot-1", 0)
			r.freeze("snapshot-2", 1)
			r.cutOff(r.task(tc.first))
			tc.after(r)
			c, err := r.run(r.task("snapshot-2"))
			r.check(err)
			if c.ResumedTransferred != 0 {
				t.Errorf("%d bytes were taken from the checkpoint", c.ResumedTransferred)
			}
			r.equal("snapshot-2")
		})
	}
}

func TestACopyGoesOnFromItsCheckpoint(t *testing.T) {
	r := newRoom(t)
	r.freeze("snapshot-1", 0)
	r.cutOff(r.task("snapshot-1"))
	c, err := r.run(r.task("snapshot-1"))
	r.check(err)
	if c.ResumedTransferred < 4*roomMiB {
		t.Errorf("only %d bytes were there already", c.ResumedTransferred)
	}
	r.equal("snapshot-1")
}

func TestATargetThatWasNeverReadBackIsReadAsAWhole(t *testing.T) {
	for name, changed := range map[string]job.Extents{
		"nothing changed since": {}, "a MiB changed since": {{Offset: 30 * roomMiB, Length: roomMiB}},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRoom(t)
			r.freeze("snapshot-1", 0)
			_, err := r.run(r.task("snapshot-1"))
			r.check(err)
			r.changed[[2]string{"snapshot-1", "51/7"}] = changed
			verify := r.task("snapshot-1")
			verify.Disk.Mode, verify.Since = job.Incremental, "51/7"
			verify.Verify, verify.Unverified = job.VerifyFull, true
			c, err := r.run(verify)
			r.check(err)
			if c.Verified != roomSize {
				t.Errorf("%d bytes were read back, not %d", c.Verified, roomSize)
			}
			r.spoil("target", 7*roomMiB+123, 1)
			if _, err = r.run(verify); job.KindOf(err) != job.Corrupt {
				t.Errorf("a byte that is wrong outside of what changed gives %v", err)
			}
		})
	}
}

func TestAnAttemptGivesItsPermitBackHoweverItEnds(t *testing.T) {
	r := newRoom(t)
	r.freeze("snapshot-1", 0)
	good := r.task("snapshot-1")
	gone := r.task("snapshot-that-is-gone")
	gone.Disk.Disk.ID = "disk-2001"
	for _, verify := range []job.VerifyMode{"", job.VerifyFull} {
		for _, task := range []job.TransferTask{good, gone} {
			task.Verify = verify
			_, err := r.run(task)
			if (err != nil) != (task.Snapshot.Ref == gone.Snapshot.Ref) {
				t.Errorf("%s of %s: %v", verify, task.Snapshot.Ref, err)
			}
			if _, use := r.permits.Limits(); len(use) != 0 {
				t.Fatalf("after an attempt (%q) that ended with %v a permit is in use: %+v", verify, err, use)
			}
		}
	}
}
