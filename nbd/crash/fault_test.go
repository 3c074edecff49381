package crash_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vmferry/vmferry/job"
)

// impatient are the flags of a copy that gives up soon.
func impatient(tb testing.TB) []string {
	tb.Helper()
	offers(tb, "--deadline", "--reconnect")
	return []string{"--deadline", "2s", "--reconnect", "2s"}
}

// soon is how long it may take until an impatient copy has ended: a wait without an answer, one for the server to come
// back, one for a handshake that is not answered, and what a busy machine adds.
const soon = 9 * time.Second

// slowly serves a file so that there is time to break it: 32 MiB a second.
func slowly(tb testing.TB, path string) *server {
	tb.Helper()
	return kit(tb, "-r", "--filter=rate", "file", path, "rate=256M", "burstiness=0.1")
}

// waitReads waits until a copy has read that much.
func (c *child) waitReads(log *tail, n int64) {
	c.tb.Helper()
	await(c.tb, "the copy is so far", func() bool { return c.over() || log.look().reads >= n })
	if c.over() {
		c.tb.Fatalf("the copy has ended already: %s", c.words())
	}
}

// waitWord waits until the copy says something about a side that fails, at most for so long. The end counts as well.
func (c *child) waitWord(text string, most time.Duration) {
	c.tb.Helper()
	began := time.Now()
	await(c.tb, "the copy says "+text, func() bool { return strings.Contains(c.err.String(), text) || c.over() })
	if took := time.Since(began); took > most {
		c.tb.Errorf("it took %v to say anything", took)
	}
	if !strings.Contains(c.err.String(), text) {
		c.tb.Errorf("it never said %q: %s", text, c.words())
	}
}

func TestASourceThatStallsIsGivenUpInTime(t *testing.T) {
	t.Parallel()
	flags := impatient(t)
	src, to, checkpoint := source(t, 48*mib, 10), rubbish(t, 48*mib), filepath.Join(t.TempDir(), "checkpoint")
	from := slowly(t, src)
	log := from.tail()
	args := append([]string{from.uri, to, "--checkpoint", checkpoint}, flags...)
	c := start(t, args...)
	c.waitReads(log, 8*mib)
	from.stop()
	at := time.Now()
	c.waitWord("no sign of life for 2s", 4*time.Second)
	o := c.wait()
	if took := time.Since(at); took > soon {
		t.Errorf("it took %v to end", took)
	}
	o.wantFailed(t, job.Timeout, job.Unavailable)
	o.wantText(t, "source")
	if !exists(checkpoint) {
		t.Error("there is no checkpoint")
	}
	from.cont()
	if o := mustRun(t, args...); o.report.BytesResumed == 0 {
		t.Error("nothing was resumed")
	}
	same(t, to, src)
}

func TestAServerThatStallsForAWhileIsWaitedFor(t *testing.T) {
	t.Parallel()
	flags := impatient(t)
	src := source(t, 32*mib, 11)
	for _, side := range []string{"source", "target"} {
		for _, long := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, longer than the deadline %v", side, long), func(t *testing.T) {
				t.Parallel()
				to := rubbish(t, 32*mib)
				from, target := slowly(t, src), kit(t, "file", to)
				log := from.tail()
				c := start(t, append([]string{from.uri, target.uri, "--reconnect", "20s"}, flags[:2]...)...)
				c.waitReads(log, 8*mib)
				stalled := map[string]*server{"source": from, "target": target}[side]
				stalled.stop()
				if long {
					c.waitWord("no sign of life", 4*time.Second)
				} else {
					c.after(time.Second)
				}
				stalled.cont()
				o := c.mustWait()
				same(t, to, src)
				if n := o.report.Reconnects; n != nil && (*n > 0) != long {
					t.Errorf("%d reconnects", *n)
				}
			})
		}
	}
}

func TestASourceThatAnswersLateIsNoSourceThatStalls(t *testing.T) {
	t.Parallel()
	src, to := source(t, 16*mib, 12), rubbish(t, 16*mib)
	from := kit(t, "-r", "--filter=delay", "file", src, "rdelay=200ms")
	args := []string{from.uri, to}
	if hasFlags("--deadline") {
		args = append(args, "--deadline", "1s")
	}
	o := mustRun(t, args...)
	same(t, to, src)
	if n := o.report.Reconnects; n != nil && *n > 0 {
		t.Errorf("%d reconnects", *n)
	}
}

func TestAServerThatDiesForGoodEndsTheCopyInTime(t *testing.T) {
	t.Parallel()
	flags := impatient(t)
	src := source(t, 48*mib, 13)
	for _, side := range []string{"source", "target"} {
		t.Run(side, func(t *testing.T) {
			t.Parallel()
			to, checkpoint := rubbish(t, 48*mib), filepath.Join(t.TempDir(), "checkpoint")
			from, target := slowly(t, src), kit(t, "file", to)
			log := from.tail()
			args := append([]string{from.uri, target.uri, "--checkpoint", checkpoint}, flags...)
			c := start(t, args...)
			c.waitReads(log, 8*mib)
			at := time.Now()
			map[string]*server{"source": from, "target": target}[side].kill()
			o := c.wait()
			if took := time.Since(at); took > soon {
				t.Errorf("it took %v to end", took)
			}
			o.wantFailed(t, job.Timeout, job.Unavailable)
			o.wantText(t, side)
			if o.report.Error != nil && o.report.Error.Next == "" {
				t.Error("no next step is told")
			}
			from.again()
			target.again()
			mustRun(t, args...)
			same(t, to, src)
		})
	}
}

func TestAServerThatDiesAndComesBackIsGoneOnWith(t *testing.T) {
	t.Parallel()
	offers(t, "--reconnect")
	src := source(t, 48*mib, 14)
	for _, side := range []string{"source", "target", "both"} {
		for _, checkpoint := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, checkpoint %v", side, checkpoint), func(t *testing.T) {
				t.Parallel()
				to := rubbish(t, 48*mib)
				from, target := slowly(t, src), kit(t, "file", to)
				args := []string{from.uri, target.uri, "--reconnect", "20s"}
				if checkpoint {
					args = append(args, "--checkpoint", filepath.Join(t.TempDir(), "checkpoint"))
				}
				c := start(t, args...)
				for range 2 {
					c.waitReads(from.tail(), 8*mib)
					if side != "target" {
						from.kill()
					}
					if side != "source" {
						target.again()
					}
					from.again() // with an empty log
				}
				o := c.mustWait()
				same(t, to, src)
				if n := o.report.Reconnects; n != nil && *n < 1 {
					t.Errorf("%d reconnects", *n)
				}
			})
		}
	}
}

func TestAServerThatComesBackAsSomethingElseIsNotGoneOnWith(t *testing.T) {
	t.Parallel()
	offers(t, "--reconnect")
	const size = 40 * mib
	src := source(t, size, 18)
	fill(t, src, 0, size)
	tests := map[string]struct {
		change func(from, to *server, path string)
		kinds  []job.Kind
		text   string
	}{
		"a source that is smaller": {func(from, _ *server, path string) {
			from.args = instead(from.args, path, smaller(t, path))
		}, []job.Kind{job.Conflict}, "now has"},
		"a target that is smaller": {func(_, to *server, _ string) {
			check(t, os.Truncate(to.args[len(to.args)-2], size/2))
		}, []job.Kind{job.Invalid, job.Conflict}, "has 20971520 bytes"},
		"a target that is read-only": {func(_, to *server, _ string) {
			to.args = append([]string{"-r"}, to.args...)
		}, []job.Kind{job.Permission}, "read-only"},
		"a target that is empty now": {func(_, to *server, _ string) {
			path := to.args[len(to.args)-2]
			check(t, os.Truncate(path, 0))
			check(t, os.Truncate(path, size))
		}, []job.Kind{job.Corrupt}, "differ"}, // for the verification to find
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			target := kit(t, "file", rubbish(t, size))
			// 8 MiB a second: it takes long enough to be flushed on the way
			from := kit(t, "-r", "--filter=rate", "file", src, "rate=64M", "burstiness=0.1")
			log := target.tail()
			c := start(t, from.uri, target.uri, "--reconnect", "20s", "--verify", "full")
			await(t, "something was flushed", func() bool { return c.over() || log.look().flushed > 0 })
			from.kill()
			target.kill()
			tc.change(from, target, src)
			target.again()
			from.again()
			o := c.wait()
			o.wantFailed(t, tc.kinds...)
			o.wantText(t, tc.text)
		})
	}
}

// instead is a command line with something else in the place of one argument.
func instead(args []string, old, replacement string) []string {
	out := slices.Clone(args)
	out[slices.Index(out, old)] = replacement
	return out
}

// smaller is a copy of half of a file.
func smaller(tb testing.TB, path string) string {
	tb.Helper()
	b, err := os.ReadFile(path)
	check(tb, err)
	return file(tb, string(b[:len(b)/2]))
}

func TestRangesThatCannotBeReadAreNamedAndAllOthersCopied(t *testing.T) {
	t.Parallel()
	const size = 64 * mib
	src, to, checkpoint := source(t, size, 15), rubbish(t, size), filepath.Join(t.TempDir(), "checkpoint")
	fill(t, src, 16*mib, 32*mib) // so that there is something to read where it fails
	injected := job.Extents{{Offset: 20 * mib, Length: 4 * kib}, {Offset: 24*mib + 64*kib, Length: 192 * kib},
		{Offset: 30 * mib, Length: 512}}
	damaged := kit(t, "-r", "--filter=ddrescue", "file", src, "ddrescue-mapfile="+mapfile(t, size, injected))
	o := run(t, damaged.uri, to, "--checkpoint", checkpoint)
	o.wantFailed(t, job.IO)
	if o.report.BadRanges == nil {
		lacking(t, "NOT THERE YET: copy -o json has no bad_ranges")
	}
	bad := o.report.BadRanges
	if lost, more := injected.Cut(bad), bad.Cut(injected.Align(4*kib, size)); lost != nil || more != nil {
		t.Errorf("bad ranges are %v, want %v: %v are not named, %v are well", bad, injected, lost, more)
	}
	o.wantText(t, "20971520+4096")
	if n := differingOutside(t, to, src, bad); n > 0 {
		t.Errorf("%d bytes differ where all was well", n)
	}
	if !exists(checkpoint) {
		t.Fatal("there is no checkpoint")
	}
	mended := kit(t, "-r", "file", src)
	log := mended.tail()
	o = mustRun(t, mended.uri, to, "--checkpoint", checkpoint)
	same(t, to, src)
	missing := bad.Align(4*kib, size)
	read := log.look().read
	if again := read.Cut(missing).Sum(); again > rechecked || missing.Cut(read) != nil {
		t.Errorf("the second run read %v, only %v were missing", read, bad)
	}
	if o.report.BytesResumed != o.report.BytesToTransfer-bad.Sum() {
		t.Errorf("resumed %d bytes of %d, %d were missing", o.report.BytesResumed, o.report.BytesToTransfer, bad.Sum())
	}
	if exists(checkpoint) {
		t.Error("the checkpoint is still there")
	}
}

// mapfile is how ddrescue tells which parts of a disk are bad.
func mapfile(tb testing.TB, size int64, bad job.Extents) string {
	tb.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, "# Mapfile. Created by GNU ddrescue version 1.25\n0x00000000     ?               1\n")
	at := int64(0)
	for _, e := range bad {
		fmt.Fprintf(&b, "0x%08X  0x%08X  +\n0x%08X  0x%08X  -\n", at, e.Offset-at, e.Offset, e.Length)
		at = e.End()
	}
	fmt.Fprintf(&b, "0x%08X  0x%08X  +\n", at, size-at)
	return file(tb, b.String())
}

func TestErrorsAtRandomAreTriedAgain(t *testing.T) {
	t.Parallel()
	if !hasFlags("--reconnect") {
		lacking(t, "NOT THERE YET: requests that failed are not tried again")
	}
	src := source(t, 64*mib, 16)
	for _, where := range []string{"pread", "pwrite", "zero", "extents"} {
		t.Run(where, func(t *testing.T) {
			t.Parallel()
			to := rubbish(t, 64*mib)
			failing := func(plain []string) *server {
				return kit(t, append(append([]string{"--filter=error"}, plain...), "error-"+where+"=EIO", "error-"+
					where+"-rate=5%")...)
			}
			from, target := kit(t, "-r", "file", src), kit(t, "file", to)
			switch where {
			case "pread", "extents":
				from = failing([]string{"-r", "file", src})
			default:
				target = failing([]string{"file", to})
			}
			o := mustRun(t, from.uri, target.uri)
			same(t, to, src)
			if len(o.report.BadRanges) > 0 {
				t.Errorf("bad ranges %v", o.report.BadRanges)
			}
		})
	}
}

func TestASourceThatFailsAlwaysIsGivenUpAndNothingIsCalledCopied(t *testing.T) {
	t.Parallel()
	src, to, checkpoint := source(t, 8*mib, 17), rubbish(t, 8*mib), filepath.Join(t.TempDir(), "checkpoint")
	trigger := filepath.Join(t.TempDir(), "inject")
	check(t, os.WriteFile(trigger, nil, 0o600))
	from := kit(t, "-r", "--filter=error", "file", src, "error-pread=EIO", "error-pread-rate=100%", "error-file="+
		trigger)
	c := start(t, from.uri, to, "--checkpoint", checkpoint)
	o := c.wait()
	o.wantFailed(t, job.IO)
	if o.report.BytesTransferred > 0 {
		t.Errorf("%d bytes are called transferred", o.report.BytesTransferred)
	}
	if o.took > 30*time.Second {
		t.Errorf("it took %v", o.took)
	}
	check(t, os.Remove(trigger))
	mustRun(t, from.uri, to, "--checkpoint", checkpoint)
	same(t, to, src)
}
