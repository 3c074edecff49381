package nbd_test

import (
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/nbd"
	"github.com/vmferry/vmferry/nbd/sim"
	"github.com/vmferry/vmferry/volumes/copytest"
)

// forgetful is a disk one of whose flushes fails and loses what it should have made durable. The next flush succeeds,
// as that of a kernel does: it reports an error once.
type forgetful struct {
	*sim.Memory
	flushes atomic.Int64
	fails   int64 // which one, from 1
}

func (f *forgetful) Flush() error {
	if f.flushes.Add(1) == f.fails {
		f.Crash()
		return unix.EIO
	}
	return f.Memory.Flush()
}

func TestAFlushThatFailedIsNotBelievedTheNextTime(t *testing.T) {
	t.Parallel()
	want := disk(24*mib+512, mixed)
	for _, tc := range []struct {
		name  string
		every time.Duration
		fails int64
	}{
		{"the first of many", 10 * time.Millisecond, 1},
		{"one of many", 10 * time.Millisecond, 2},
		{"the only one", time.Hour, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			bothEngines(t, func(t *testing.T, e nbd.Engine) {
				t.Helper()
				src := rehearse(t, holding(t, want), sim.Options{}, "late=3ms,op=read")
				disk := &forgetful{Memory: sim.NewVolatileMemory(int64(len(want))), fails: tc.fails}
				pollute(t, disk.Memory)
				check(t, disk.Memory.Flush())
				dst, err := sim.Start(t.Context(), sim.Options{
					Backend: disk, Listen: filepath.Join(shortDir(t), "s"),
				})
				check(t, err)
				t.Cleanup(func() { check(t, dst.Close()) })
				task := nbd.Task{
					Source: src.URI(), Target: copytest.Onto(dst.URI()), RequestSize: 64 * kib, Requests: 2,
					Checkpoint: filepath.Join(t.TempDir(), "checkpoint"), Identity: "x", CheckpointEvery: tc.every,
					CheckpointBytes: 64 * mib, Reconnect: -1, Connections: 1, Engine: e,
				}
				_, err = copyOnce(t, task)
				wantKind(t, err, job.IO)
				if n := disk.flushes.Load(); n < tc.fails {
					t.Fatalf("there were %d flushes", n)
				}
				disk.Crash()
				copied(t, task) // it goes on where the target was durable, and nowhere else
				holds(t, disk.Memory, want)
			})
		})
	}
}

func TestATargetThatCannotTakeSeveralConnectionsGetsOne(t *testing.T) {
	if testing.Short() {
		t.Skip("long: make it runs it")
	}
	t.Parallel()
	want := disk(4*mib, dense)
	for _, connections := range []int{0, 4} {
		for without, most := range map[sim.Capabilities]int{sim.CanMultiConn: 1, 0: nbd.MostConnections} {
			src := rehearse(t, holding(t, want), sim.Options{})
			dst := rehearse(t, rubbish(t, len(want)), sim.Options{Without: without})
			r := copied(t, nbd.Task{Source: src.URI(), Target: copytest.Onto(dst.URI()), Connections: connections})
			if n := dst.State().Accepted; n > most || n < 1 || connections > most && r.Threads != 1 {
				t.Errorf("%d connections wanted, without %q the target got %d, for %d threads", connections,
					without.String(), n, r.Threads)
			}
			holds(t, dst.disk, want)
		}
	}
}
