package volumes_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/store"
	"github.com/vmferry/vmferry/volumes"
)

// childDir makes the test binary a node that serves a volume until it is killed. Its export survives it.
const childDir = "VMFERRY_TEST_SERVE"

// childNode opens the node of a folder: a journal, and volumes that keep to it.
func childNode(ctx context.Context, dir string) (*store.Journal, *volumes.Volumes, job.VolumeRef, error) {
	r := ref(filepath.Join(dir, "disk.raw"))
	j, err := store.OpenJournal(ctx, filepath.Join(dir, "state"))
	if err != nil {
		return nil, nil, r, err
	}
	node, err := j.NodeID(ctx)
	v := volumes.New(volumes.Allow{Roots: []string{dir}}, j, nil, volumes.WithNode(node), volumes.WithRunDir(dir))
	return j, v, r, err
}

func serveForever(ctx context.Context, dir string) error {
	_, v, r, err := childNode(ctx, dir)
	if err != nil {
		return err
	}
	volumes.LeaveOrphans(v)
	if _, err := v.Claim(ctx, []job.VolumeClaim{claim(r, "50-1")}, nil); err != nil {
		return err
	}
	if _, err := v.Prepare(ctx, r); err != nil {
		return err
	}
	s, err := v.Serve(ctx, r, volumes.ServeRequest{Kind: job.HolderTransfer, Node: "vma-1"})
	if err != nil {
		return err
	}
	if err := json.NewEncoder(os.Stdout).Encode(s); err != nil {
		return err
	}
	select {}
}

// killedNode starts a node that serves a volume, and kills it. The export goes on.
func killedNode(t *testing.T) (dir string, s volumes.Served) {
	t.Helper()
	need(t, "qemu-storage-daemon")
	dir, err := os.MkdirTemp("", "vol") //nolint:usetesting // the path of a socket must be short
	check(t, err)
	t.Cleanup(func() { check(t, os.RemoveAll(dir)) })
	self, err := os.Executable()
	check(t, err)
	c := exec.Command(self)
	c.Env = append(os.Environ(), childDir+"="+dir)
	c.Stderr = os.Stderr
	out, err := c.StdoutPipe()
	check(t, err)
	check(t, c.Start())
	err = json.NewDecoder(bufio.NewReader(out)).Decode(&s)
	check(t, c.Process.Kill())
	c.Wait()
	check(t, err)
	return dir, s
}

// TestAnExportThatSurvivesItsNodeIsEndedAtTheNextStart kills a node whose export goes on, with a writer that never
// stops. Another node's export of the same program on the same machine is left alone.
func TestAnExportThatSurvivesItsNodeIsEndedAtTheNextStart(t *testing.T) {
	tests := []struct {
		name string
		lose func(t *testing.T, j *store.Journal, l job.Lease) // what the journal does not know
	}{
		{"the lease names the process", func(*testing.T, *store.Journal, job.Lease) {}},
		{"it was started, and that was not stored", func(t *testing.T, j *store.Journal, l job.Lease) {
			t.Helper()
			l.State, l.Server, l.Revision = job.LeaseOpening, job.LeaseServer{File: l.Server.File}, l.Revision+1
			check(t, j.ChangeLease(t.Context(), l))
		}},
		{"the journal is older than the lease", func(t *testing.T, j *store.Journal, l job.Lease) {
			t.Helper()
			l.State, l.Revision = job.LeaseFree, l.Revision+1
			check(t, j.ChangeLease(t.Context(), l))
			check(t, j.DropLeases(t.Context(), []string{l.Volume}))
		}},
	}
	other, otherRef, otherInfo := servedWorld(t)
	bystander := serve(t, other.Volumes, otherRef, otherInfo, "vma-1")
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			dir, s := killedNode(t)
			h := newHostile(s.Socket, s.Export, s.Epoch, 4*mib, 2)
			defer h.end()
			until(t, "the export of the killed node takes writes", func() bool { return h.acked.Load() > 0 })

			j, v, r, err := childNode(t.Context(), dir)
			check(t, err)
			defer func() { check(t, j.Close()) }()
			l := theLease(t, j)
			tc.lose(t, j, l)
			check(t, v.Recover(t.Context()))
			defer v.Close(context.WithoutCancel(t.Context()))
			stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(l.Server.PID), "stat"))
			if err == nil && !bytes.Contains(stat, []byte(") Z ")) { // it has ended, and waits for its new parent
				t.Errorf("the process of the export is there: %s", stat)
			}
			if all, err := j.Leases(t.Context()); err != nil || len(all) == 1 && !all[0].Free() {
				t.Errorf("leases %+v, %v", all, err)
			}
			next, err := v.Serve(t.Context(), r, volumes.ServeRequest{Kind: job.HolderTransfer, Node: "vma-2"})
			check(t, err)
			if next.Epoch <= s.Epoch {
				t.Errorf("epoch %d follows %d", next.Epoch, s.Epoch)
			}
			h.learn(next.Socket)
			check(t, writeAll(next.Socket, next.Export, next.Epoch, r.Capacity))
			if n := stale(t, r.Target, next.Epoch); n > 0 {
				t.Errorf("%d blocks of the old epoch", n)
			}
		})
	}
	if c, err := dialExport(bystander.Socket, bystander.Export); err != nil {
		t.Errorf("the export of another node was ended: %v", err)
	} else {
		c.Close()
	}
}

// TestAProcessThatOnlyHasTheNumberIsLeftAlone stores a lease whose process has ended, and whose number is that of
// another program by now.
func TestAProcessThatOnlyHasTheNumberIsLeftAlone(t *testing.T) {
	c := exec.Command("sleep", "600")
	check(t, c.Start())
	defer func() {
		c.Process.Kill()
		c.Wait()
	}()
	w := newWorld(t)
	check(t, w.ledger.ChangeLease(t.Context(), job.Lease{
		Volume: "v", Epoch: 3, State: job.LeaseOpen, Served: true, Revision: 1, Server: job.LeaseServer{
			PID: c.Process.Pid, Start: 12345, Boot: volumes.BootID(), File: "file 8:1 7",
		},
	}))
	check(t, w.Recover(t.Context()))
	check(t, c.Process.Signal(syscall.Signal(0)))
	if all, err := w.ledger.Leases(t.Context()); err != nil || len(all) != 1 || !all[0].Free() {
		t.Errorf("leases %+v, %v", all, err)
	}
}

// fullDisk is a journal that stores no lease as long as its disk is full.
type fullDisk struct {
	*store.Journal
	full atomic.Bool
}

func (f *fullDisk) ChangeLease(ctx context.Context, l job.Lease) error {
	if f.full.Load() {
		return job.Errorf("change lease", job.NoSpace, "", "the disk is full")
	}
	return f.Journal.ChangeLease(ctx, l)
}

// TestAFenceEndsAnExportOfBeforeTheStart starts a node whose disk is full, so the lease that an earlier run has left
// could not be ended at the start. A fence of its epoch must not say that it is over while its export stands.
func TestAFenceEndsAnExportOfBeforeTheStart(t *testing.T) {
	dir, s := killedNode(t)
	h := newHostile(s.Socket, s.Export, s.Epoch, 4*mib, 2)
	defer h.end()
	until(t, "the export of the killed node takes writes", func() bool { return h.acked.Load() > 0 })
	j, err := store.OpenJournal(t.Context(), filepath.Join(dir, "state"))
	check(t, err)
	defer func() { check(t, j.Close()) }()
	node, err := j.NodeID(t.Context())
	check(t, err)
	ledger := &fullDisk{Journal: j}
	ledger.full.Store(true)
	v := volumes.New(volumes.Allow{Roots: []string{dir}}, ledger, nil, volumes.WithNode(node), volumes.WithRunDir(dir))
	defer v.Close(context.WithoutCancel(t.Context()))
	check(t, v.Recover(t.Context()))
	if err := v.Fence(t.Context(), s.Volume, s.Epoch, job.EndRevoked); err == nil {
		t.Error("the epoch is said to be over, and nothing could be stored")
	}
	ledger.full.Store(false)
	check(t, v.Fence(t.Context(), s.Volume, s.Epoch, job.EndRevoked))
	if c, err := dialExport(s.Socket, s.Export); err == nil {
		c.Close()
		t.Error("the export of the epoch still stands")
	}
	if l := theLease(t, j); !l.Free() {
		t.Errorf("the lease is %+v", l)
	}
}
