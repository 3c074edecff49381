package nbd_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/nbd"
	"github.com/vmferry/vmferry/nbd/sim"
	"github.com/vmferry/vmferry/volumes/copytest"
)

// begun is a copy of a disk of 24 MiB between two exports, without an identity, that was cancelled when two thirds of
// it were durable.
type begun struct {
	nbd.Task
	src, dst rehearsed
	done     int64
}

func begin(t *testing.T, want []byte) begun {
	t.Helper()
	b := begun{
		src: rehearse(t, holding(t, want), sim.Options{Export: "a", Without: sim.CanExtents},
			"ignore,op=read,at=16M+8M"),
		dst: rehearse(t, rubbish(t, len(want)), sim.Options{Export: "a"}),
	}
	b.Task = nbd.Task{
		Source: b.src.URI(), Target: copytest.Onto(b.dst.URI()), RequestSize: 64 * kib, Requests: 2, Connections: 1,
		Checkpoint: filepath.Join(t.TempDir(), "checkpoint"), CheckpointEvery: 20 * time.Millisecond,
	}
	ctx, cancel := context.WithCancel(bounded(t))
	r, err := while(t, ctx, b.Task, durable(16*mib), cancel)
	wantKind(t, err, job.Cancelled)
	b.done = r.Done()
	order(t, b.src.Server)
	return b
}

// refused copies once more. Nothing may be written then.
func (b begun) refused(t *testing.T, kind job.Kind, words string) {
	t.Helper()
	written := b.dst.State().Written + b.dst.State().Zeroed
	_, err := copyOnce(t, b.Task)
	wantKind(t, err, kind)
	if !strings.Contains(err.Error(), words) {
		t.Errorf("the error does not say %q: %v", words, err)
	}
	if now := b.dst.State().Written + b.dst.State().Zeroed; now != written {
		t.Errorf("%d bytes were written", now-written)
	}
	if _, err := os.Stat(b.Checkpoint); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the checkpoint is still there: %v", err)
	}
	content(t, b.Checkpoint+".rejected")
}

// half is data, and then zeros up to the end; a copy of it that is half done has some of both.
func half() []byte { return append(disk(2*mib, dense), make([]byte, 22*mib)...) }

func overwrite(t *testing.T, m *sim.Memory, from, to int64) {
	t.Helper()
	_, err := m.WriteAt(bytes.Repeat([]byte{0x55}, int(to-from)), from)
	check(t, err)
}

func TestACopyDoesNotGoOnWithAnotherDisk(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		change func(t *testing.T, b begun)
		kind   job.Kind
		words  string
	}{
		{
			"as its source", func(t *testing.T, b begun) { t.Helper(); overwrite(t, b.src.disk, 0, 2*mib) },
			job.Conflict, "the source is not the same disk",
		},
		{
			"as its source, of which only zeros differ",
			func(t *testing.T, b begun) { t.Helper(); overwrite(t, b.src.disk, 2*mib, 24*mib) },
			job.Conflict, "the source is not the same disk",
		},
		{
			"as its target", func(t *testing.T, b begun) { t.Helper(); overwrite(t, b.dst.disk, 0, 2*mib) },
			job.Corrupt, "the target does not hold what was written",
		},
		{
			"as its target, of which only zeros differ",
			func(t *testing.T, b begun) { t.Helper(); overwrite(t, b.dst.disk, 2*mib, 24*mib) },
			job.Corrupt, "the target does not hold what was written",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			b := begin(t, half())
			tc.change(t, b)
			b.refused(t, tc.kind, tc.words)
		})
	}
}

func TestACheckpointOfOneExportIsNotThatOfAnother(t *testing.T) {
	t.Parallel()
	b := begin(t, half())
	other := rehearse(t, rubbish(t, 24*mib), sim.Options{Export: "b"})
	overwrite(t, other.disk, 0, 24*mib)
	elsewhere := b
	elsewhere.dst, elsewhere.Target = other, copytest.Onto(other.URI())
	elsewhere.Checkpoint = filepath.Join(t.TempDir(), "copy of it")
	check(t, os.WriteFile(elsewhere.Checkpoint, content(t, b.Checkpoint), 0o600))
	elsewhere.refused(t, job.Conflict, "it belongs to another copy")

	// The same export, written in another way.
	uri := strings.Replace(b.dst.URI(), ":///a?", ":///%61?", 1)
	if uri == b.dst.URI() {
		t.Fatalf("%s has no export name", uri)
	}
	b.Target = copytest.Onto(uri)
	if r := copied(t, b.Task); r.Resumed != b.done {
		t.Errorf("resumed %d bytes of %d", r.Resumed, b.done)
	}
	holds(t, b.dst.disk, half())
}

func TestALookAtWhatWasCopiedTakesFewRequests(t *testing.T) {
	if testing.Short() {
		t.Skip("long: make it runs it")
	}
	t.Parallel()
	want := half()
	b := begin(t, want)
	if n := b.dst.State().Commands[sim.Read]; n != 0 {
		t.Errorf("a copy that begins has sent %d reads to its target", n)
	}
	b.Identity = "another attempt must not be compared with this" // so that the source is not looked at either
	check(t, os.Remove(b.Checkpoint))
	order(t, b.src.Server, "ignore,op=read,at=16M+8M")
	ctx, cancel := context.WithCancel(bounded(t))
	_, err := while(t, ctx, b.Task, durable(16*mib), cancel)
	wantKind(t, err, job.Cancelled)
	order(t, b.src.Server)
	r := copied(t, b.Task)
	if r.Resumed == 0 {
		t.Fatal("nothing was resumed")
	}
	if n := b.dst.State().Commands[sim.Read]; n == 0 || n > 12 {
		t.Errorf("the target got %d reads", n)
	}
	holds(t, b.dst.disk, want)
}
