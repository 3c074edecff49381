package crash_test

import (
	"encoding/json"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vmferry/vmferry/job"
)

// child is a vmferry copy that runs.
type child struct {
	tb       testing.TB
	cmd      *exec.Cmd
	began    time.Time
	out, err locked
	done     chan struct{}
	ended    time.Time // valid when it is done
}

// outcome is how it ended.
type outcome struct {
	code   int  // -1 if a signal ended it
	said   bool // that all is on the target
	report report
	err    string // all words but progress
	took   time.Duration
}

// report is the object that a copy ends with.
type report struct {
	Status           string      `json:"status"`
	BytesCapacity    int64       `json:"bytes_capacity"`
	BytesToTransfer  int64       `json:"bytes_to_transfer"`
	BytesTransferred int64       `json:"bytes_transferred"`
	BytesSkipped     int64       `json:"bytes_skipped"`
	BytesResent      int64       `json:"bytes_resent"`
	BytesResumed     int64       `json:"bytes_resumed"`
	Verified         bool        `json:"verified"`
	Reconnects       *int        `json:"reconnects"` // nil if it does not tell
	BadRanges        job.Extents `json:"bad_ranges"`
	Error            *struct {
		Code    job.Kind `json:"code"`
		Message string   `json:"message"`
		Next    string   `json:"next"`
	} `json:"error"`
}

// start begins a copy with these arguments.
func start(tb testing.TB, args ...string) *child {
	tb.Helper()
	return startAs(tb, nil, args...)
}

// startAs begins one as another user.
func startAs(tb testing.TB, who *syscall.Credential, args ...string) *child {
	tb.Helper()
	c := &child{tb: tb, done: make(chan struct{}), began: time.Now()}
	c.cmd = exec.Command(vmferry, append([]string{"copy", "-o", "json", "--progress", "json"}, args...)...)
	c.cmd.Stdout, c.cmd.Stderr = &c.out, &c.err
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Credential: who}
	check(tb, c.cmd.Start())
	go func() {
		c.cmd.Wait()
		c.ended = time.Now()
		close(c.done)
	}()
	tb.Cleanup(c.kill)
	return c
}

// kill ends it as a power cut would, and waits until it is gone.
func (c *child) kill() {
	c.cmd.Process.Kill()
	<-c.done
}

// words are the last of what it has said.
func (c *child) words() string {
	text := c.err.String()
	return text[max(0, len(text)-2000):]
}

// end asks it to end, as Ctrl-C would.
func (c *child) end() { check(c.tb, c.cmd.Process.Signal(syscall.SIGTERM)) }

// moved is how many bytes it has said to have copied, in its newest whole line.
func (c *child) moved() int64 {
	text := c.err.String()
	text = text[:strings.LastIndexByte(text, '\n')+1]
	line := text[strings.LastIndexByte(strings.TrimSuffix(text, "\n"), '\n')+1:]
	var r struct {
		BytesTransferred int64 `json:"bytes_transferred"`
	}
	if json.Unmarshal([]byte(line), &r) != nil {
		return 0
	}
	return r.BytesTransferred
}

// after lets so much time go by, or what is left of the copy.
func (c *child) after(d time.Duration) {
	select {
	case <-time.After(d):
	case <-c.done:
	}
}

func (c *child) over() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// wait waits for the end, and checks what must be so of every copy: progress never falls, and nothing is called
// completed that is not.
func (c *child) wait() outcome {
	c.tb.Helper()
	select {
	case <-c.done:
	case <-time.After(2 * time.Minute):
		c.kill()
		c.tb.Fatalf("it did not end: %s", c.words())
	}
	o := outcome{code: c.cmd.ProcessState.ExitCode(), took: c.ended.Sub(c.began)}
	if text := c.out.String(); text != "" {
		if err := json.Unmarshal([]byte(text), &o.report); err != nil {
			c.tb.Errorf("standard output is not one object: %v: %s", err, text)
		}
	}
	o.err, o.said = c.progress(o)
	if completed := o.report.Status == "completed"; completed && o.code > 0 || !completed && o.code == 0 {
		c.tb.Errorf("exit %d with status %q", o.code, o.report.Status)
	}
	if o.code == 0 && o.report.BytesTransferred+o.report.BytesSkipped != o.report.BytesToTransfer {
		c.tb.Errorf("completed with %d + %d bytes of %d", o.report.BytesTransferred, o.report.BytesSkipped,
			o.report.BytesToTransfer)
	}
	return o
}

// progress checks the lines of progress and returns all others, and whether one said that all is done: who is killed
// behind that may have said so.
func (c *child) progress(o outcome) (words string, completed bool) {
	c.tb.Helper()
	var last int64
	for line := range strings.Lines(c.err.String()) {
		var r struct {
			Status           string  `json:"status"`
			OverallPercent   float64 `json:"overall_percent"`
			BytesTransferred int64   `json:"bytes_transferred"`
			BytesSkipped     int64   `json:"bytes_skipped"`
		}
		if !strings.HasPrefix(line, "{") || json.Unmarshal([]byte(line), &r) != nil {
			words += line
			continue
		}
		if n := r.BytesTransferred + r.BytesSkipped; n < last {
			c.tb.Errorf("progress fell from %d to %d bytes", last, n)
		} else {
			last = n
		}
		said := r.Status == "completed" || r.OverallPercent >= 100
		if completed = completed || said; said && o.code > 0 {
			c.tb.Errorf("exit %d, but progress said: %s", o.code, line)
		}
	}
	return words, completed
}

// run is a whole copy.
func run(tb testing.TB, args ...string) outcome {
	tb.Helper()
	return start(tb, args...).wait()
}

// mustRun wants it to succeed.
func mustRun(tb testing.TB, args ...string) outcome {
	tb.Helper()
	return start(tb, args...).mustWait()
}

func (c *child) mustWait() outcome {
	c.tb.Helper()
	o := c.wait()
	if o.code != 0 {
		c.tb.Fatalf("exit %d: %s", o.code, o.err)
	}
	return o
}

// wantFailed wants a copy that failed in the way that is meant, with an object that says so.
func (o outcome) wantFailed(tb testing.TB, kinds ...job.Kind) {
	tb.Helper()
	if o.code != 3 || o.report.Status != "failed" || o.report.Error == nil || !strings.Contains(o.err, "error: ") {
		tb.Fatalf("exit %d, status %q: %s", o.code, o.report.Status, o.err)
	}
	if !slices.Contains(kinds, o.report.Error.Code) {
		tb.Errorf("error is of kind %q, want one of %q: %s", o.report.Error.Code, kinds, o.err)
	}
}

// wantText wants all of these to be said.
func (o outcome) wantText(tb testing.TB, texts ...string) {
	tb.Helper()
	for _, text := range texts {
		if !strings.Contains(o.err, text) {
			tb.Errorf("it does not say %q: %s", text, o.err)
		}
	}
}
