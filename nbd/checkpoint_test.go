package nbd_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/nbd"
	"github.com/vmferry/vmferry/nbd/sim"
	"github.com/vmferry/vmferry/volumes/copytest"
)

// interrupted runs about half of a copy of want, and returns the task that goes on from its checkpoint.
func interrupted(t *testing.T, want []byte) nbd.Task {
	t.Helper()
	task := resumable(t, dirty(t, len(want)))
	src := image(t, want)
	server := slow(t, src)
	task.Source = server.uri
	_, err := while(t, t.Context(), task, moved(int64(len(want)/2)), server.kill)
	wantKind(t, err, job.Unavailable)
	task.Source = src
	return task
}

func TestNoDamagedCheckpointIsTrusted(t *testing.T) {
	want := disk(12*mib, dense)
	task := interrupted(t, want)
	good := content(t, task.Checkpoint)
	if len(good) > 400 {
		t.Fatalf("the checkpoint has %d bytes", len(good))
	}
	refused := func(name string, b []byte) {
		check(t, os.WriteFile(task.Checkpoint, b, 0o600))
		_, err := copytest.Copy(t.Context(), task, &nbd.Meter{})
		if k := job.KindOf(err); k != job.Corrupt && k != job.Conflict {
			t.Fatalf("%s: %v", name, err)
		}
		if job.NextOf(err) == "" {
			t.Errorf("%s: no next step", name)
		}
		if got := content(t, task.Checkpoint+".rejected"); string(got) != string(b) {
			t.Errorf("%s: it was not moved aside", name)
		}
		if _, err := os.Stat(task.Checkpoint); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: it is still there", name)
		}
	}
	for i := range good {
		for _, flip := range []byte{0x01, 0x80, 0xFF} {
			bad := append([]byte(nil), good...)
			bad[i] ^= flip
			refused("flipped byte", bad)
		}
		refused("cut", good[:i])
	}
	refused("longer", append(append([]byte(nil), good...), 0))

	check(t, os.WriteFile(task.Checkpoint, good, 0o600))
	if r := mustCopy(t, task); r.Resumed == 0 {
		t.Error("the good one was not used")
	}
	same(t, content(t, task.Target.Name()), want)
}

func TestACheckpointOfAnotherCopyIsRefused(t *testing.T) {
	want := disk(12*mib, dense)
	tests := []struct {
		name   string
		change func(task *nbd.Task)
	}{
		{"identity", func(task *nbd.Task) { task.Identity = "another disk" }},
		{"ranges", func(task *nbd.Task) { task.Only = job.Extents{{Offset: 0, Length: mib}} }},
		{"allocated", func(task *nbd.Task) { task.Allocated = job.Extents{{Offset: 0, Length: mib}} }},
		{"size", func(task *nbd.Task) {
			task.Source = image(t, disk(11*mib, dense))
		}},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			task := interrupted(t, want)
			before := content(t, task.Target.Name())
			tc.change(&task)
			_, err := copytest.Copy(t.Context(), task, &nbd.Meter{})
			wantKind(t, err, job.Conflict)
			same(t, content(t, task.Target.Name()), before)
		})
	}
}

func TestWhatIsNoFileIsNoCheckpoint(t *testing.T) {
	src := image(t, disk(mib, dense))
	dir := t.TempDir()
	fifo, link, folder := filepath.Join(dir, "fifo"), filepath.Join(dir, "link"), filepath.Join(dir, "folder")
	check(t, syscall.Mkfifo(fifo, 0o600))
	check(t, os.Symlink(src, link))
	check(t, os.Mkdir(folder, 0o700))
	for _, path := range []string{fifo, link, folder} {
		_, err := copytest.Copy(t.Context(), nbd.Task{Source: src, Target: copytest.Onto("null:"), Checkpoint: path},
			&nbd.Meter{})
		if err == nil {
			t.Errorf("%s was taken for a checkpoint", path)
		}
	}
}

func TestACopyGoesOnWithoutACheckpointThatCannotBeWritten(t *testing.T) {
	want := disk(16*mib, dense)
	dir := t.TempDir()
	var words strings.Builder
	task := nbd.Task{
		Source: slow(t, image(t, want)).uri, Target: copytest.Onto(blank(t, 16*mib)),
		Checkpoint:      filepath.Join(dir, "gone", "checkpoint"),
		CheckpointBytes: mib, Log: logTo(&words),
	}
	_, err := copytest.Copy(t.Context(), task, &nbd.Meter{})
	check(t, err)
	same(t, content(t, task.Target.Name()), want)
	if !strings.Contains(words.String(), "checkpoint was not written") {
		t.Errorf("the log does not say so: %s", words.String())
	}
}

func TestARoundOfChangesGoesOnAfterManyInterruptions(t *testing.T) {
	if testing.Short() {
		t.Skip("long: make it runs it")
	}
	const n = 24 * mib
	want := disk(n, mixed)
	src := image(t, want)
	var only job.Extents
	for at := int64(0); at < n; at += 256 * kib {
		only = append(only, job.Extent{Offset: at, Length: 192 * kib})
	}
	expect := make([]byte, n)
	for i := range expect {
		expect[i] = 0xAA
	}
	for _, e := range only {
		copy(expect[e.Offset:e.End()], want[e.Offset:e.End()])
	}
	task := resumable(t, dirty(t, n))
	task.Source, task.Only, task.Incremental = slow(t, src).uri, only, true
	var done int64
	for i := range 4 {
		ctx, cancel := context.WithCancel(t.Context())
		r, err := while(t, ctx, task, func(c job.Counters) bool { return c.Done() > done+mib }, cancel)
		wantKind(t, err, job.Cancelled)
		if r.Resumed != done {
			t.Fatalf("attempt %d resumed %d bytes, want %d", i, r.Resumed, done)
		}
		done = r.Done()
	}
	r := mustCopy(t, task)
	if r.Resumed != done || r.ToTransfer != only.Sum() {
		t.Errorf("resumed %d of %d, want %d of %d", r.Resumed, r.ToTransfer, done, only.Sum())
	}
	same(t, content(t, task.Target.Name()), expect)
}

func TestATargetIsMadeWhenItIsWantedAndGoneWhenItIsNot(t *testing.T) {
	want := disk(3*mib+5, mixed)
	src := image(t, want)
	dir := t.TempDir()
	to := filepath.Join(dir, "new")
	mustCopy(t, nbd.Task{Source: src, Target: copytest.Made(to)})
	same(t, content(t, to), want)
	if got := len(content(t, to)); got != len(want) {
		t.Errorf("it has %d bytes, want %d", got, len(want))
	}
	mustCopy(t, nbd.Task{Source: src, Target: copytest.Made(to)})

	bad := filepath.Join(dir, "bad")
	_, err := copytest.Copy(t.Context(), nbd.Task{
		Source: src, Target: copytest.Made(bad),
		Only: job.Extents{{Offset: 1 << 40, Length: 1}},
	}, &nbd.Meter{})
	wantKind(t, err, job.Invalid)
	if _, err := os.Stat(bad); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the target was not removed: %v", err)
	}
	_, err = copytest.Copy(t.Context(), nbd.Task{Source: src, Target: copytest.Made("/dev/no-such-disk")}, &nbd.Meter{})
	wantKind(t, err, job.NotFound)
}

func TestWithoutAnIdentityACheckpointBelongsToItsTarget(t *testing.T) {
	want := disk(12*mib, dense)
	task := interrupted(t, want)
	server := slow(t, task.Source)
	task.Identity, task.Source = "", server.uri
	check(t, os.Remove(task.Checkpoint))
	_, err := while(t, t.Context(), task, moved(6*mib), server.kill)
	wantKind(t, err, job.Unavailable)

	elsewhere := task
	elsewhere.Target = copytest.Onto(dirty(t, len(want)))
	elsewhere.Checkpoint = filepath.Join(t.TempDir(), "copy of it")
	check(t, os.WriteFile(elsewhere.Checkpoint, content(t, task.Checkpoint), 0o600))
	elsewhere.Source = kit(t, "-r", "file", image(t, want)).uri
	_, err = copytest.Copy(t.Context(), elsewhere, &nbd.Meter{})
	wantKind(t, err, job.Conflict)

	task.Source = elsewhere.Source // the same disk, served by another process
	if r := mustCopy(t, task); r.Resumed == 0 {
		t.Error("nothing was resumed")
	}
	same(t, content(t, task.Target.Name()), want)
}

// The ranges that are read again before a copy goes on begin and end where the copied ranges do, however odd those are.
func TestAGoodCheckpointOfOddRangesIsTrusted(t *testing.T) {
	t.Parallel()
	want := disk(24*mib+77, dense)
	odd := job.Extents{
		{Offset: 1, Length: 5000},
		{Offset: 6001, Length: 3*mib + 1},
		{Offset: 5*mib - 3, Length: 600*kib + 11},
		{Offset: 9*mib + 5, Length: 15*mib + 72},
	}
	for name, only := range map[string]job.Extents{"the whole disk": nil, "odd ranges": odd} {
		for _, size := range []int{4 * kib, 512 * kib, 0} {
			t.Run(fmt.Sprintf("%s, requests of %d bytes", name, size), func(t *testing.T) {
				t.Parallel()
				src := rehearse(t, holding(t, want), sim.Options{}, "late=4ms,op=read")
				dst := rehearse(t, rubbish(t, len(want)), sim.Options{})
				task := nbd.Task{
					Source: src.URI(), Target: copytest.Onto(dst.URI()), Only: only, RequestSize: size, Requests: 2,
					Checkpoint: filepath.Join(t.TempDir(), "checkpoint"), CheckpointEvery: 20 * time.Millisecond,
				}
				ctx, cancel := context.WithCancel(bounded(t))
				first, err := while(t, ctx, task, durable(1), cancel)
				wantKind(t, err, job.Cancelled)
				r := copied(t, task)
				if r.Resumed != first.Done() || r.Resumed == 0 {
					t.Errorf("resumed %d bytes of %d", r.Resumed, first.Done())
				}
				meant := only
				if meant == nil {
					meant = job.Whole(int64(len(want)))
				}
				for _, e := range meant {
					got := make([]byte, e.Length)
					_, err := dst.disk.ReadAt(got, e.Offset)
					check(t, err)
					same(t, got, want[e.Offset:e.End()])
				}
			})
		}
	}
}
