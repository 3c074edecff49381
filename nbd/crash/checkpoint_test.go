package crash_test

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/zeebo/xxh3"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/nbd"
	"github.com/vmferry/vmferry/volumes"
	"github.com/vmferry/vmferry/volumes/copytest"
)

// halfway makes the checkpoint of a copy that is cancelled in the middle. The source needs some MiB of data.
func halfway(tb testing.TB, from, to string) string {
	tb.Helper()
	checkpoint := filepath.Join(tb.TempDir(), "checkpoint")
	c := start(tb, from, to, "--bandwidth", "2MiB", "--checkpoint", checkpoint)
	await(tb, "some bytes are copied", func() bool { return c.over() || c.moved() > 0 })
	c.end()
	if o := c.wait(); o.code != 3 || o.report.Status != "cancelled" || !exists(checkpoint) {
		tb.Fatalf("exit %d, status %q: %s", o.code, o.report.Status, o.err)
	}
	return checkpoint
}

// withChecksum gives a checkpoint the checksum that matches it.
func withChecksum(b []byte) []byte {
	body := b[:len(b)-8]
	return binary.BigEndian.AppendUint64(append([]byte(nil), body...), xxh3.Hash(body))
}

// bad is a checkpoint that must be refused, and what the error must say.
type bad struct {
	name, text string
	content    []byte
	kinds      []job.Kind
}

// corpus lists checkpoints that are damaged in every way.
func corpus(good []byte) (all []bad) {
	damaged := []job.Kind{job.Corrupt, job.Conflict}
	for i := range good {
		for bit := range 9 {
			b := append([]byte(nil), good...)
			b[i] ^= byte(1 << bit)
			if bit == 8 {
				b[i] ^= 0xFF
			}
			all = append(all, bad{fmt.Sprintf("byte %d, flip %d", i, bit), "", b, damaged})
		}
		all = append(all, bad{fmt.Sprintf("cut to %d bytes", i), "", good[:i], damaged})
	}
	const version, next = 8, 4 // the offset of the version, and the first one that is not known
	for _, v := range []byte{0, next, 127} {
		b := append([]byte(nil), good...)
		b[version] = v
		all = append(all, bad{
			fmt.Sprintf("version %d", v), fmt.Sprintf("version %d", v), withChecksum(b),
			[]job.Kind{job.Conflict, job.Corrupt},
		})
	}
	twice := append(append([]byte(nil), good...), good...)
	all = append(all,
		bad{"longer", "", append(append([]byte(nil), good...), 0), damaged},
		bad{"twice", "", twice, damaged},
		bad{"longer, with a checksum that matches", "", withChecksum(append(append([]byte(nil), good...), 0)), damaged},
		bad{"another file", "", []byte("# a shell script\nrm -rf /\n" + strings.Repeat("x", 100)), damaged},
		bad{"zeros", "", make([]byte, len(good)), damaged},
	)
	return all
}

func TestACheckpointThatIsNoGoodIsRefusedAndKeptAside(t *testing.T) {
	src, to := source(t, 4*mib, 30), garbageTarget(t, 4*mib)
	checkpoint := halfway(t, src, to)
	good, err := os.ReadFile(checkpoint)
	check(t, err)
	before := digest(t, to)
	task := nbd.Task{Source: src, Target: copytest.Onto(to), Checkpoint: checkpoint}
	all := corpus(good)
	for _, b := range all {
		check(t, os.WriteFile(checkpoint, b.content, 0o600))
		_, err := copytest.Copy(t.Context(), task, &nbd.Meter{})
		if err == nil {
			t.Fatalf("%s: the checkpoint was accepted", b.name)
		}
		if k := job.KindOf(err); k != b.kinds[0] && k != b.kinds[1] {
			t.Errorf("%s: kind %q: %v", b.name, k, err)
		}
		if !strings.Contains(err.Error(), checkpoint) || !strings.Contains(err.Error(), b.text) ||
			job.NextOf(err) == "" {
			t.Errorf("%s: the error does not say enough: %v, %s", b.name, err, job.NextOf(err))
		}
		aside, err := os.ReadFile(checkpoint + ".rejected")
		if err != nil || string(aside) != string(b.content) || exists(checkpoint) {
			t.Errorf("%s: the checkpoint was not kept aside: %v", b.name, err)
		}
	}
	if digest(t, to) != before {
		t.Error("the target was changed")
	}
	say("crash: bad_checkpoints=%d", len(all))
	check(t, os.WriteFile(checkpoint, good, 0o600))
	if o := mustRun(t, src, to, "--checkpoint", checkpoint); o.report.BytesResumed == 0 {
		t.Error("the good checkpoint was not used")
	}
	same(t, to, src)
}

func TestWhatIsNoPlainFileIsNoCheckpointAndNotTouched(t *testing.T) {
	t.Parallel()
	src, to := source(t, mib, 31), untouched(t, garbageTarget(t, mib))
	good := untouched(t, halfway(t, source(t, 4*mib, 32), garbageTarget(t, 4*mib)))
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	check(t, syscall.Mkfifo(path("fifo"), 0o600))
	check(t, os.Mkdir(path("folder"), 0o700))
	check(t, os.Symlink(good, path("link")))
	check(t, os.Symlink(path("nothing"), path("dangling")))
	check(t, os.WriteFile(path("huge"), nil, 0o600))
	check(t, os.Truncate(path("huge"), 65*mib))
	what := func(name string) os.FileMode {
		info, err := os.Lstat(path(name))
		check(t, err)
		return info.Mode()
	}
	for _, name := range []string{"fifo", "folder", "link", "dangling", "huge"} {
		before := what(name)
		o := run(t, src, to, "--checkpoint", path(name))
		if o.code != 3 && o.code != 2 {
			t.Errorf("%s: exit %d: %s", name, o.code, o.err)
		}
		o.wantText(t, "checkpoint", path(name))
		if what(name) != before {
			t.Errorf("%s: it was changed", name)
		}
	}
	if names := leftovers(t, dir); len(names) != 5 {
		t.Errorf("files were added: %v", names)
	}
	o := run(t, src, to, "--checkpoint", "/dev/null")
	if o.code == 0 {
		t.Error("/dev/null was taken for a checkpoint")
	}
}

func TestACheckpointOfAnotherDiskIsRefused(t *testing.T) {
	t.Parallel()
	const size = 8 * mib
	src, other := source(t, size, 33), source(t, size, 34)
	fill(t, src, 0, 4*mib)
	t.Run("another file of the same size", func(t *testing.T) {
		t.Parallel()
		to := garbageTarget(t, size)
		checkpoint := halfway(t, src, to)
		before := digest(t, to)
		o := run(t, other, to, "--checkpoint", checkpoint)
		o.wantFailed(t, job.Conflict)
		o.wantText(t, "another copy")
		if digest(t, to) != before {
			t.Error("the target was changed")
		}
	})
	t.Run("another target of the same size", func(t *testing.T) {
		t.Parallel()
		to := garbageTarget(t, size)
		checkpoint := halfway(t, src, to)
		o := run(t, src, untouched(t, garbageTarget(t, size)), "--checkpoint", checkpoint)
		o.wantFailed(t, job.Conflict)
		o.wantText(t, "another copy")
	})
	t.Run("other ranges", func(t *testing.T) {
		t.Parallel()
		to := garbageTarget(t, size)
		checkpoint := halfway(t, src, to)
		o := run(t, src, to, "--checkpoint", checkpoint, "--changed", file(t, `[{"offset":0,"length":4096}]`))
		o.wantFailed(t, job.Conflict)
		o.wantText(t, "other ranges")
	})
	t.Run("a smaller target", func(t *testing.T) {
		t.Parallel()
		small := garbageTarget(t, size)
		checkpoint := halfway(t, src, small)
		check(t, os.Truncate(small, size/2))
		o := run(t, src, untouched(t, small), "--checkpoint", checkpoint)
		o.wantFailed(t, job.Invalid)
		if !exists(checkpoint) {
			t.Error("the checkpoint is gone, though the target can grow again")
		}
	})
	t.Run("a target that was deleted and made anew", func(t *testing.T) {
		t.Parallel()
		anew := garbageTarget(t, size)
		checkpoint := halfway(t, src, anew)
		check(t, os.Rename(anew, anew+".old"))
		check(t, volumes.Create(anew, size))
		o := run(t, src, anew, "--checkpoint", checkpoint)
		o.wantFailed(t, job.Conflict)
		o.wantText(t, "another copy")
	})
}

// A checkpoint cannot tell whether the target was changed since. The verification must find that.
func TestATargetThatIsNotWhatItsCheckpointSaysIsFoundOut(t *testing.T) {
	t.Parallel()
	const size = 8 * mib
	src := source(t, size, 35)
	fill(t, src, 0, 4*mib)
	t.Run("a file that was emptied", func(t *testing.T) {
		t.Parallel()
		to := garbageTarget(t, size)
		checkpoint := halfway(t, src, to)
		check(t, os.Truncate(to, 0))
		check(t, os.Truncate(to, size))
		o := run(t, src, to, "--checkpoint", checkpoint, "--verify", "full")
		o.wantFailed(t, job.Corrupt, job.Conflict)
	})
	t.Run("an export that holds zeros now", func(t *testing.T) {
		t.Parallel()
		to := garbageTarget(t, size)
		checkpoint := halfway(t, src, nbdkit(t, "file", to).uri)
		o := run(t, src, nbdkit(t, "memory", fmt.Sprint(size)).uri, "--checkpoint", checkpoint, "--verify", "full")
		o.wantFailed(t, job.Corrupt, job.Conflict)
	})
	t.Run("an export of another disk as the source", func(t *testing.T) {
		t.Parallel()
		to := garbageTarget(t, size)
		checkpoint := halfway(t, nbdkit(t, "-r", "file", src).uri, to)
		other := source(t, size, 36)
		fill(t, other, 2*mib, 6*mib)
		o := run(t, nbdkit(t, "-r", "file", other).uri, to, "--checkpoint", checkpoint, "--verify", "full")
		if o.code == 0 {
			t.Errorf("the copy is reported as verified, and %d bytes differ", differing(t, to, other))
			return
		}
		o.wantFailed(t, job.Corrupt, job.Conflict)
	})
}
