package nbd_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vmferry/vmferry/nbd"
	"github.com/vmferry/vmferry/volumes/copytest"
)

// call is a system call that has ended well, in the order in which they ended. began is how many others had ended when
// it began.
type call struct {
	name  string
	paths []string // of open files and of names, in the order of the arguments
	text  string
	began int
}

// watched runs a copy in a process of its own under strace, and returns its calls about files.
func watched(t *testing.T, source, target, checkpoint string) []call {
	t.Helper()
	need(t, "strace")
	log := filepath.Join(t.TempDir(), "log")
	if out, err := exec.Command("strace", "-f", "-o", log, "true").CombinedOutput(); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("strace can't watch a process: %v: %s", err, out)
		}
		t.Skipf("strace can't watch a process here: %s", out)
	}
	c := exec.Command("strace", "-f", "-y", "-s", "0", "-o", log,
		"-e", "trace=openat,write,pwrite64,fsync,fdatasync,rename,renameat,renameat2",
		os.Args[0], "-test.run=^TestACopyInAProcessOfItsOwn$")
	c.Env = append(os.Environ(), "COPY="+strings.Join([]string{source, target, checkpoint}, "\n"))
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("the copy failed: %v: %s", err, out)
	}
	return calls(t, content(t, log))
}

// TestACopyInAProcessOfItsOwn is what watched runs.
func TestACopyInAProcessOfItsOwn(t *testing.T) {
	names := strings.Split(os.Getenv("COPY"), "\n")
	if len(names) != 3 {
		t.Skip("it is run by other tests")
	}
	mustCopy(t, nbd.Task{
		Source: names[0], Target: copytest.Made(names[1]), Checkpoint: names[2], KeepCheckpoint: true,
		CheckpointEvery: time.Millisecond, CheckpointBytes: mib, Connections: 1, Requests: 1, RequestSize: 64 * kib,
	})
}

var (
	callBegins = regexp.MustCompile(`^(\d+) +(\w+)\((.*)$`)
	callGoesOn = regexp.MustCompile(`^(\d+) +<\.\.\. \w+ resumed>(.*)$`)
	callPaths  = regexp.MustCompile(`\d+<(/[^<>]*)>|"([^"]*)"`)
)

func calls(t *testing.T, log []byte) []call {
	t.Helper()
	var out []call
	waiting := map[string]call{} // by thread
	for line := range strings.Lines(string(log)) {
		var thread string
		var c call
		if m := callBegins.FindStringSubmatch(strings.TrimSpace(line)); m != nil {
			thread, c = m[1], call{name: m[2], text: m[3], began: len(out)}
		} else if m := callGoesOn.FindStringSubmatch(strings.TrimSpace(line)); m != nil {
			thread, c = m[1], waiting[m[1]]
			c.text += m[2]
		} else {
			continue // a signal, or an end
		}
		if text, unfinished := strings.CutSuffix(c.text, "<unfinished ...>"); unfinished {
			c.text = text
			waiting[thread] = c
			continue
		}
		if strings.Contains(c.text, "= -1 E") {
			continue
		}
		for _, m := range callPaths.FindAllStringSubmatch(c.text, -1) {
			c.paths = append(c.paths, m[1]+m[2])
		}
		out = append(out, c)
	}
	return out
}

// of says whether the call is one of that name about that path.
func (c call) of(path string, names ...string) bool {
	return slices.Contains(names, c.name) && slices.Contains(c.paths, path)
}

// last finds the last call before number end that is so; -1 if there is none.
func last(all []call, end int, so func(c call) bool) int {
	for i := end - 1; i >= 0; i-- {
		if so(all[i]) {
			return i
		}
	}
	return -1
}

// next finds the first call from number begin on that is so; -1 if there is none.
func next(all []call, begin int, so func(c call) bool) int {
	for i := begin; i < len(all); i++ {
		if so(all[i]) {
			return i
		}
	}
	return -1
}

// TestTheOrderOfSystemCallsIsThatOfACopyThatSurvivesAPowerFailure watches a real copy from outside. Nothing but the
// order of these calls decides what a disk holds after a power failure.
func TestTheOrderOfSystemCallsIsThatOfACopyThatSurvivesAPowerFailure(t *testing.T) {
	if testing.Short() {
		t.Skip("long: make it runs it")
	}
	t.Parallel()
	want := disk(6*mib, dense)
	folder := func() string {
		dir, err := filepath.EvalSymlinks(t.TempDir())
		check(t, err)
		return dir
	}
	targets, records := folder(), folder()
	target, record := filepath.Join(targets, "target"), filepath.Join(records, "checkpoint")
	temporary := record + ".tmp"
	all := watched(t, image(t, want), target, record)
	same(t, content(t, target), want)
	content(t, record)

	write := func(c call) bool { return c.of(target, "pwrite64") }
	made := next(all, 0, func(c call) bool { return c.of(target, "openat") && strings.Contains(c.text, "O_EXCL") })
	firstWrite := next(all, 0, write)
	sized := next(all, made+1, func(c call) bool { return c.of(target, "fsync") })
	named := next(all, sized+1, func(c call) bool { return c.of(targets, "fsync") })
	if made < 0 || sized < made || named < sized || firstWrite < named {
		t.Errorf("the target's name is not durable before its bytes: made %d, synced %d, folder %d, written %d",
			made, sized, named, firstWrite)
	}

	renames, before := 0, 0
	for i, c := range all {
		if !c.of(record, "rename", "renameat", "renameat2") {
			continue
		}
		renames++
		synced := last(all, c.began, func(c call) bool { return c.of(temporary, "fsync") })
		written := last(all, i, func(c call) bool { return c.of(temporary, "write") })
		begun := last(all, i, func(c call) bool { return c.of(temporary, "openat") })
		if begun < before || written < begun || synced < written {
			t.Errorf("record %d is not durable before it gets its name: opened %d, written %d, synced %d, renamed %d",
				renames, begun, written, synced, i)
		}
		flushed := last(all, begun+1, func(c call) bool { return c.of(target, "fdatasync") })
		if flushed < before || flushed > begun {
			t.Errorf("the target was not flushed before record %d: flushed %d, begun %d", renames, flushed, begun)
		}
		after := next(all, i+1, func(c call) bool { return c.of(records, "fsync") })
		other := next(all, i+1, func(c call) bool { return c.of(temporary, "openat") })
		if after < 0 || other >= 0 && all[other].began < after {
			t.Errorf("the name of record %d is not durable: renamed %d, folder %d, next record %d", renames, i, after,
				other)
		}
		before = i
	}
	if renames < 2 {
		t.Errorf("there were %d records", renames)
	}
	lastWrite := last(all, len(all), write)
	final := last(all, len(all), func(c call) bool { return c.of(target, "fdatasync") })
	if final < 0 || all[final].began <= lastWrite {
		t.Errorf("the target is not flushed at the end: last write %d, flush %d", lastWrite, final)
	}
	if t.Failed() {
		var text bytes.Buffer
		for i, c := range all {
			if !c.of(target, "pwrite64") {
				fmt.Fprintln(&text, i, c.name, c.text)
			}
		}
		t.Log(text.String())
	}
}
