package volumes_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/nbd"
	"github.com/vmferry/vmferry/volumes"
	"github.com/vmferry/vmferry/volumes/copytest"
)

// servedWorld is a world whose volumes can be served, with a prepared target of 4 MiB.
func servedWorld(t *testing.T) (w *world, r job.VolumeRef, info job.TargetInfo) {
	t.Helper()
	need(t, "qemu-storage-daemon")
	w = newWorld(t)
	w.Close(t.Context())
	w.Volumes = servingNode(t, w.dir, w.ledger)
	r = ref(w.path("disk.raw"))
	return w, r, w.prepared(r, "50-1")
}

func servingNode(t *testing.T, root string, ledger volumes.Ledger) *volumes.Volumes {
	t.Helper()
	run, err := os.MkdirTemp("", "vol") //nolint:usetesting // the path of a socket must be short
	check(t, err)
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	v := volumes.New(volumes.Allow{Roots: []string{root}}, ledger, log, volumes.WithNode("node-"+run[len(run)-6:]),
		volumes.WithRunDir(run))
	t.Cleanup(func() {
		v.Close(context.WithoutCancel(t.Context()))
		check(t, os.RemoveAll(run))
	})
	return v
}

func serve(t *testing.T, v *volumes.Volumes, r job.VolumeRef, info job.TargetInfo, node string) volumes.Served {
	t.Helper()
	s, err := v.Serve(t.Context(), r, volumes.ServeRequest{
		Kind: job.HolderTransfer, Node: node, Identity: info.Identity, Zero: info.Zero,
	})
	check(t, err)
	return s
}

// takeovers says how many a test makes: few in short runs, and as many as VMFERRY_TAKEOVERS says for `make takeovers`.
func takeovers(t *testing.T) int {
	t.Helper()
	if n, err := strconv.Atoi(os.Getenv("VMFERRY_TAKEOVERS")); err == nil {
		return n
	}
	if testing.Short() {
		return 8
	}
	return 40
}

// TestNoWriteOfAnOldEpochReachesTheNext takes a volume away from a writer that goes on writing, again and again. Of
// every two takeovers one is made while writes wait in the server: they were sent, and would be written later. The next
// holder writes every block, and each block must be its own as long as its epoch lasts.
func TestNoWriteOfAnOldEpochReachesTheNext(t *testing.T) {
	w, r, info := servedWorld(t)
	bad, held, total := 0, 0, takeovers(t)
	var slowest time.Duration
	for i := range total {
		waits := i%2 == 1
		volumes.Throttle(w.Volumes, 0)
		if waits {
			volumes.Throttle(w.Volumes, 1<<20)
		}
		old := serve(t, w.Volumes, r, info, "vma-1")
		h := newHostile(old.Socket, old.Export, old.Epoch, r.Capacity, 4)
		until(t, "the old holder writes", func() bool { return h.sent.Load() > 32 && h.acked.Load() > 0 })
		if waits && h.sent.Load() > h.acked.Load() {
			held++
		}
		began := time.Now()
		check(t, w.Fence(t.Context(), old.Volume, old.Epoch, job.EndExpired))
		slowest = max(slowest, time.Since(began))
		volumes.Throttle(w.Volumes, 0)
		next := serve(t, w.Volumes, r, info, "vma-2")
		if next.Epoch <= old.Epoch {
			t.Fatalf("epoch %d follows %d", next.Epoch, old.Epoch)
		}
		h.learn(next.Socket)
		check(t, writeAll(next.Socket, next.Export, next.Epoch, r.Capacity))
		bad += stale(t, r.Target, next.Epoch)
		h.refused.Store(0)
		until(t, "the old holder is refused at both sockets", func() bool { return h.refused.Load() > 8 })
		bad += stale(t, r.Target, next.Epoch)
		h.end()
		check(t, w.Fence(t.Context(), next.Volume, next.Epoch, job.EndReturned))
		bad += stale(t, r.Target, next.Epoch)
	}
	line := fmt.Sprintf("takeovers=%d held=%d stale_writes=%d slowest_fence_ms=%d", total, held, bad,
		slowest.Milliseconds())
	t.Log(line)
	if os.Getenv("VMFERRY_TAKEOVERS") != "" {
		fmt.Println(line) //nolint:forbidigo // the last line of make takeovers
	}
	if bad > 0 || held < total/2 {
		t.Errorf("%s: want %d with writes held in the server, and no stale write", line, total/2)
	}
	check(t, w.Settle(t.Context(), r))
	if _, err := w.Confirm(t.Context(), r, info.Identity); err != nil {
		t.Errorf("after the last epoch the job can't go on: %v", err)
	}
}

// TestWithoutAFenceTheWriterIsSeen shows that the tests of takeovers would see a write of an old epoch: the next holder
// writes while the old one was not ended.
func TestWithoutAFenceTheWriterIsSeen(t *testing.T) {
	w, r, info := servedWorld(t)
	old := serve(t, w.Volumes, r, info, "vma-1")
	h := newHostile(old.Socket, old.Export, old.Epoch, r.Capacity, 4)
	defer h.end()
	until(t, "a block of the old holder is seen", func() bool {
		for off := int64(0); off < r.Capacity; off += block {
			scribble(t, r.Target, off, filled(old.Epoch+1))
		}
		b, err := os.ReadFile(r.Target)
		check(t, err)
		return bytes.Contains(b, filled(old.Epoch))
	})
}

func TestAServedVolumeHasOneHolder(t *testing.T) {
	w, r, info := servedWorld(t)
	s := serve(t, w.Volumes, r, info, "vma-1")
	_, err := w.Serve(t.Context(), r, volumes.ServeRequest{Kind: job.HolderTransfer, Node: "vma-2"})
	wantKind(t, err, job.Conflict)
	if !strings.Contains(err.Error(), "vma-1") {
		t.Errorf("the error does not name the holder: %v", err)
	}
	for name, use := range map[string]func() error{
		"handle": func() error { _, _, err := w.Handle(t.Context(), r, info.Identity, true, true); return err },
		"settle": func() error { return w.Settle(t.Context(), r) },
		"confirm": func() error {
			_, err := w.Confirm(t.Context(), r, info.Identity)
			return err
		},
	} {
		if err := use(); job.KindOf(err) != job.Conflict {
			t.Errorf("%s while an export stands: %v", name, err)
		}
	}
	check(t, w.Renew(t.Context(), s.Volume, s.Epoch))
	check(t, w.Checkpoint(t.Context(), s.Volume, s.Epoch, 3))
	wantKind(t, w.Checkpoint(t.Context(), s.Volume, s.Epoch, 2), job.Invalid)
	wantKind(t, w.Checkpoint(t.Context(), s.Volume, s.Epoch+1, 9), job.Invalid)
	wantKind(t, w.Fence(t.Context(), s.Volume, s.Epoch+1, job.EndReturned), job.Invalid)

	check(t, w.Fence(t.Context(), s.Volume, s.Epoch, job.EndReturned))
	check(t, w.Fence(t.Context(), s.Volume, s.Epoch, job.EndReturned))
	wantKind(t, w.Renew(t.Context(), s.Volume, s.Epoch), job.Fenced)
	wantKind(t, w.Checkpoint(t.Context(), s.Volume, s.Epoch, 4), job.Fenced)
	if _, err := dialExport(s.Socket, s.Export); err == nil {
		t.Error("the export of an epoch that is over can be used")
	}
	l := theLease(t, w.ledger)
	if l.Checkpoint != 3 || !l.Free() || l.Why != job.EndReturned || l.Server.PID != 0 {
		t.Errorf("the lease is %+v", l)
	}
	// The next use is one of this process, and reads what the export has written.
	_, _, err = w.Handle(t.Context(), r, info.Identity, false, false)
	check(t, err)
	if l := theLease(t, w.ledger); l.Served || l.Holder.Kind != job.HolderVerify || l.Epoch <= s.Epoch {
		t.Errorf("the lease is %+v", l)
	}
}

func theLease(t *testing.T, rows volumes.LeaseRows) job.Lease {
	t.Helper()
	all, err := rows.Leases(t.Context())
	check(t, err)
	if len(all) != 1 {
		t.Fatalf("there are %d leases", len(all))
	}
	return all[0]
}

func TestAVerificationGetsAnExportThatCanOnlyBeRead(t *testing.T) {
	w, r, info := servedWorld(t)
	s, err := w.Serve(t.Context(), r, volumes.ServeRequest{
		Kind: job.HolderVerify, Node: "vma-1", Identity: info.Identity,
	})
	check(t, err)
	if err := writeAll(s.Socket, s.Export, s.Epoch, r.Capacity); err == nil {
		t.Error("it can be written to")
	}
	target, err := nbd.ExportTarget(s.URI(), nbd.TLS{})
	check(t, err)
	size, readOnly, err := target.Look(t.Context())
	check(t, err)
	if size != r.Capacity || !readOnly {
		t.Errorf("it has %d bytes, read-only %v", size, readOnly)
	}
	check(t, w.Fence(t.Context(), s.Volume, s.Epoch, job.EndReturned))
}

// TestALeaseLastsByAClockThatDoesNotJump moves the wall clock an hour on and back: that ends no lease and keeps none.
func TestALeaseLastsByAClockThatDoesNotJump(t *testing.T) {
	t.Parallel()
	w, r, info := servedWorld(t)
	at := time.Now().Add(time.Hour)
	volumes.SetClock(w.Volumes, func() time.Time { return at })
	const ttl = 5 * time.Second
	s, err := w.Serve(t.Context(), r, volumes.ServeRequest{
		Kind: job.HolderTransfer, Node: "vma-1", Identity: info.Identity, TTL: ttl,
	})
	check(t, err)
	began := time.Now()
	over := volumes.Over(w.Volumes, s.Volume)
	for _, jump := range []time.Duration{time.Hour, -2 * time.Hour, time.Hour} {
		at = at.Add(jump)
		check(t, w.Renew(t.Context(), s.Volume, s.Epoch))
	}
	renewed := time.Now()
	select {
	case <-over:
	case <-time.After(time.Minute):
		t.Fatal("a lease that is not renewed does not end")
	}
	if time.Since(began) < ttl || time.Since(renewed) < ttl-time.Second {
		t.Errorf("the lease of %v lasted %v, and %v after it was renewed", ttl, time.Since(began), time.Since(renewed))
	}
	wantKind(t, w.Renew(t.Context(), s.Volume, s.Epoch), job.Fenced)
	if l := theLease(t, w.ledger); l.Why != job.EndExpired {
		t.Errorf("the lease is %+v", l)
	}
	at = at.Add(-3 * time.Hour)
	if next := serve(t, w.Volumes, r, info, "vma-2"); next.Epoch <= s.Epoch {
		t.Errorf("epoch %d follows %d", next.Epoch, s.Epoch)
	}
}

func TestAnExportThatEndsByItselfEndsItsLease(t *testing.T) {
	w, r, info := servedWorld(t)
	s := serve(t, w.Volumes, r, info, "vma-1")
	over := volumes.Over(w.Volumes, s.Volume)
	p, err := os.FindProcess(volumes.ServerOf(w.Volumes, s.Volume).PID)
	check(t, err)
	check(t, p.Kill())
	<-over
	if l := theLease(t, w.ledger); l.Why != job.EndFailed || !l.Free() {
		t.Errorf("the lease is %+v", l)
	}
	wantKind(t, w.Renew(t.Context(), s.Volume, s.Epoch), job.Fenced)
	serve(t, w.Volumes, r, info, "vma-2")
}

// TestAnExportThatDoesNotStartGivesTheVolumeBack has no folder for the socket.
func TestAnExportThatDoesNotStartGivesTheVolumeBack(t *testing.T) {
	need(t, "qemu-storage-daemon")
	w := newWorld(t)
	w.Close(t.Context())
	w.Volumes = volumes.New(volumes.Allow{Roots: []string{w.dir}}, w.ledger, nil, volumes.WithNode("n"),
		volumes.WithRunDir(w.path("none")))
	r := ref(w.path("disk.raw"))
	info := w.prepared(r, "50-1")
	_, err := w.Serve(t.Context(), r, volumes.ServeRequest{Kind: job.HolderTransfer, Node: "vma-1"})
	wantKind(t, err, job.Internal)
	if l := theLease(t, w.ledger); l.Why != job.EndFailed || !l.Free() {
		t.Errorf("the lease is %+v", l)
	}
	_, _, err = w.Handle(t.Context(), r, info.Identity, true, true)
	check(t, err)
	w.Close(t.Context())
}

// TestAnExportOfAnotherProgramCannotBeTakenOver takes the export of another node for that of another program.
func TestAnExportOfAnotherProgramCannotBeTakenOver(t *testing.T) {
	far, farRef, farInfo := servedWorld(t)
	uri := serve(t, far.Volumes, farRef, farInfo, "vma-9").URI()
	ledger := &copytest.Ledger{Active: func(job.ID) bool { return true }}
	node := func(id string) *volumes.Volumes {
		return volumes.New(volumes.Allow{URIs: []string{uri}}, ledger, nil, volumes.WithNode(id))
	}
	one, r := node("n1"), ref(uri)
	found, err := one.Check(t.Context(), claim(r, "50-1"))
	check(t, err)
	if !found.OneNode {
		t.Error("a look at the target does not say that one node alone may write to it")
	}
	_, err = one.Claim(t.Context(), []job.VolumeClaim{claim(r, "50-1")}, nil)
	check(t, err)
	_, err = one.Open(t.Context(), r)
	check(t, err)
	info, err := one.Prepare(t.Context(), r)
	check(t, err)
	_, err = one.Serve(t.Context(), r, volumes.ServeRequest{Kind: job.HolderTransfer, Node: "vma-1"})
	wantKind(t, err, job.Conflict)
	_, _, err = one.Handle(t.Context(), r, info.Identity, false, true)
	check(t, err)
	if l := theLease(t, ledger); !l.Foreign || l.Served || l.Holder.Node != "n1" {
		t.Errorf("the lease is %+v", l)
	}
	check(t, one.Settle(t.Context(), r))
	one.Close(t.Context())

	_, err = node("n2").Open(t.Context(), r)
	wantKind(t, err, job.Conflict)
	for _, word := range []string{"take it over", "writes"} {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("the error does not say %q: %v", word, err)
		}
	}
	again := node("n1")
	_, err = again.Open(t.Context(), r)
	check(t, err)
	again.Close(t.Context())
}
