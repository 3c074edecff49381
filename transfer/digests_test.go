package transfer_test

import (
	"bytes"
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/nbd/sim"
	"github.com/vmferry/vmferry/transfer"
	"github.com/vmferry/vmferry/volumes"
	"github.com/vmferry/vmferry/volumes/copytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	kib = 1 << 10
	mib = 1 << 20
)

func check(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// frozen is a vCenter with one disk, which a rehearsal server serves.
type frozen struct {
	server    *sim.Server
	allocated job.Extents
	changed   job.Extents
}

func (f *frozen) Export(context.Context, job.VM, job.VMSnapshot, job.DiskID) (job.Export, error) {
	return job.Export{Transport: "nbd", URI: f.server.URI()}, nil
}

func (f *frozen) SessionCookie(context.Context) (s job.Secret, err error) { return s, nil }

func (f *frozen) ChangedAreas(
	_ context.Context, _ job.VM, _ job.VMSnapshot, _ job.DiskID, since string,
) (job.Extents, error) {
	if since == "*" {
		return f.allocated, nil
	}
	return f.changed, nil
}

// bench is a disk, its target and the task that copies one to the other.
type bench struct {
	*frozen
	ledger copytest.Ledger
	folder string
	target string
	task   job.TransferTask
}

const size = 24 * mib

func setUp(t *testing.T) *bench {
	t.Helper()
	data := make([]byte, 8*mib)
	rand.NewChaCha8([32]byte{1}).Read(data)
	m := sim.NewMemory(size)
	_, err := m.WriteAt(data, 2*mib)
	check(t, err)
	dir, err := os.MkdirTemp("", "tr") //nolint:usetesting // the path of a socket must be short
	check(t, err)
	t.Cleanup(func() { check(t, os.RemoveAll(dir)) })
	server, err := sim.Start(t.Context(), sim.Options{Backend: m, Listen: filepath.Join(dir, "s")})
	check(t, err)
	t.Cleanup(func() { check(t, server.Close()) })
	b := &bench{
		frozen: &frozen{
			server: server, allocated: job.Extents{{Offset: 2 * mib, Length: 8 * mib}},
			changed: job.Extents{{Offset: 3*mib + 512, Length: 5000}, {Offset: 9 * mib, Length: 3 * mib}},
		},
		folder: t.TempDir(), target: filepath.Join(t.TempDir(), "target"),
	}
	check(t, os.WriteFile(b.target, bytes.Repeat([]byte{0xAA}, size), 0o600))
	rows := []job.VolumeRecord{{
		ID: "v", Target: b.target, Job: "a", Owner: job.VolumeOwner{VM: "u", Disk: "disk-2000"}, Generation: 1,
	}}
	check(t, b.ledger.ChangeVolumes(t.Context(), rows, nil))
	b.task = job.TransferTask{
		Job: "a", Round: 1, VM: job.VM{UUID: "u"}, Snapshot: job.VMSnapshot{Ref: "snapshot-1"},
		Disk: job.DiskState{
			Disk:   job.Disk{ID: "disk-2000", Capacity: size, ChangeID: "52 1/1"},
			Target: b.target, Mode: job.Full,
		},
	}
	return b
}

// run makes one attempt in a program of its own: nothing is left of the one before but what is on the disk. It gives
// the bytes that the source was asked for.
func (b *bench) run(t *testing.T, verify job.VerifyMode) (read int64, err error) {
	t.Helper()
	v := volumes.New(volumes.Allow{Roots: []string{filepath.Dir(b.target)}}, &b.ledger, nil)
	defer v.Close(t.Context())
	s := transfer.New(transfer.Config{
		Source: b, Targets: v, RunDir: filepath.Join(b.folder, "run"),
		Checkpoints: filepath.Join(b.folder, "checkpoints"), Ready: func() error { return nil },
	}, transfer.NewPermits(job.StandardLimits()))
	before := b.server.State()
	task := b.task
	task.Verify = verify
	_, err = s.Run(t.Context(), task, func(job.TransferView) {})
	after := b.server.State()
	if after.Read == before.Read && verify == job.VerifyFull && err == nil && after.Accepted != before.Accepted {
		t.Error("the source was connected to, and not read")
	}
	return after.Read - before.Read, err
}

func (b *bench) checkpoint() string {
	return filepath.Join(b.folder, "checkpoints", "a", "disk-2000-1.checkpoint")
}

func (b *bench) flip(t *testing.T, path string, at int64) {
	t.Helper()
	defer b.forget(t)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	check(t, err)
	c := make([]byte, 1)
	_, err = f.ReadAt(c, at)
	check(t, err)
	c[0] ^= 1
	_, err = f.WriteAt(c, at)
	check(t, err)
	check(t, f.Close())
}

// forget takes the target's stamp out of the ledger: a storage that loses or turns bytes changes no stamp.
func (b *bench) forget(t *testing.T) {
	t.Helper()
	rows, err := b.ledger.Volumes(t.Context())
	check(t, err)
	rows[0].Stamp = ""
	check(t, b.ledger.ChangeVolumes(t.Context(), rows, nil))
}

func TestAFullVerificationReadsTheSourceOnlyWhereSomethingDiffers(t *testing.T) {
	for name, change := range map[string]func(b *bench){
		"full":                     func(*bench) {},
		"full, of unknown content": func(b *bench) { b.task.Disk.Disk.ChangeID = "" },
		"incremental":              func(b *bench) { b.task.Disk.Mode, b.task.Since = job.Incremental, "52 1/0" },
	} {
		t.Run(name, func(t *testing.T) {
			b := setUp(t)
			change(b)
			if read, err := b.run(t, ""); err != nil || read == 0 {
				t.Fatalf("the copy has read %d bytes: %v", read, err)
			}
			for range 2 { // the second could come after a restart in the middle of the first
				if read, err := b.run(t, job.VerifyFull); err != nil || read != 0 {
					t.Fatalf("the verification has read %d bytes of the source: %v", read, err)
				}
			}
			b.flip(t, b.target, 9*mib+70*kib)
			read, err := b.run(t, job.VerifyFull)
			if job.KindOf(err) != job.Corrupt || !strings.Contains(err.Error(), "9506816") {
				t.Errorf("the flipped byte was not named: %v", err)
			}
			if read == 0 || read > 2*mib {
				t.Errorf("the verification has read %d bytes of the source for one that differs", read)
			}
			// The checkpoint of a copy that went wrong is believed no more, and the next copy is a whole one.
			if _, err := b.run(t, job.VerifyFull); job.KindOf(err) != job.Corrupt {
				t.Errorf("the flipped byte was not found again: %v", err)
			}
			if read, err := b.run(t, ""); err != nil || read == 0 {
				t.Errorf("the copy has read %d bytes: %v", read, err)
			}
			if read, err := b.run(t, job.VerifyFull); err != nil || read != 0 {
				t.Errorf("the verification has read %d bytes of the source: %v", read, err)
			}
		})
	}
}

func TestAVerificationThatCannotBelieveTheDigestsReadsTheSource(t *testing.T) {
	for name, change := range map[string]func(t *testing.T, b *bench){
		"no checkpoint":      func(t *testing.T, b *bench) { t.Helper(); check(t, os.Remove(b.checkpoint())) },
		"a damaged one":      func(t *testing.T, b *bench) { t.Helper(); b.flip(t, b.checkpoint(), 100) },
		"one that is cut":    func(t *testing.T, b *bench) { t.Helper(); check(t, os.Truncate(b.checkpoint(), 50)) },
		"another target":     func(_ *testing.T, b *bench) { b.task.Snapshot.Ref = "snapshot-2" },
		"other ranges":       func(_ *testing.T, b *bench) { b.allocated = job.Extents{{Offset: 0, Length: 24 * mib}} },
		"an unproven target": func(_ *testing.T, b *bench) { b.task.Unverified = true },
	} {
		t.Run(name, func(t *testing.T) {
			b := setUp(t)
			_, err := b.run(t, "")
			check(t, err)
			change(t, b)
			if read, err := b.run(t, job.VerifyFull); err != nil || read != size {
				t.Errorf("the verification has read %d bytes of the source: %v", read, err)
			}
			b.flip(t, b.target, 20*mib)
			if _, err := b.run(t, job.VerifyFull); job.KindOf(err) != job.Corrupt {
				t.Errorf("the flipped byte was not found: %v", err)
			}
		})
	}
}

func TestACopyThatEndedIsNotMadeAgainAfterARestart(t *testing.T) {
	b := setUp(t)
	_, err := b.run(t, "")
	check(t, err)
	if read, err := b.run(t, ""); err != nil || read != 0 {
		t.Errorf("the second attempt has read %d bytes: %v", read, err)
	}
}
