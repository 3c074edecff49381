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

// child is a running vmferry copy.
type child struct {
	tb       testing.TB
	cmd      *exec.Cmd
	began    time.Time
	out, err lockedBuffer
	done     chan struct{}
	ended    time.Time // valid after done is closed
}

// outcome is how a copy ended.
type outcome struct {
	code   int  // -1 if a signal ended it
	said   bool // its progress has reported completion
	report report
	err    string // standard error without the lines of progress
	took   time.Duration
}

// report is the object that a copy prints at its end.
type report struct {
	Status           string      `json:"status"`
	BytesCapacity    int64       `json:"bytes_capacity"`
	BytesToTransfer  int64       `json:"bytes_to_transfer"`
	BytesTransferred int64       `json:"bytes_transferred"`
	BytesSkipped     int64       `json:"bytes_skipped"`
	BytesResent      int64       `json:"bytes_resent"`
	BytesResumed     int64       `json:"bytes_resumed"`
	Verified         bool        `json:"verified"`
	Reconnects       *int        `json:"reconnects"` // nil if the copy does not report it
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

// startAs begins a copy as another user.
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

// kill ends the copy as a power failure would, and waits until it is gone.
func (c *child) kill() {
	c.cmd.Process.Kill()
	<-c.done
}

// words are the last 2000 bytes of standard error.
func (c *child) words() string {
	text := c.err.String()
	return text[max(0, len(text)-2000):]
}

// end asks the copy to end, as SIGTERM does.
func (c *child) end() { check(c.tb, c.cmd.Process.Signal(syscall.SIGTERM)) }

// moved is the number of copied bytes in the newest whole line of progress.
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

// after waits for d, or until the copy ends.
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

// wait waits for the end, and checks what must be true for every copy: progress never goes back, and no copy is
// reported as completed that is not.
func (c *child) wait() outcome {
	c.tb.Helper()
	select {
	case <-c.done:
	case <-time.After(2 * time.Minute):
		c.kill()
		c.tb.Fatalf("the copy did not end: %s", c.words())
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

// progress checks the lines of progress. It returns all other lines, and whether a line of progress reported
// completion: a copy that is killed after its last write may have done so.
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
			c.tb.Errorf("progress went back from %d to %d bytes", last, n)
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

// run makes a whole copy.
func run(tb testing.TB, args ...string) outcome {
	tb.Helper()
	return start(tb, args...).wait()
}

// mustRun makes a copy that must succeed.
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

// wantFailed checks that a copy failed with exit code 3, one of the kinds, and an object that says so.
func (o outcome) wantFailed(tb testing.TB, kinds ...job.Kind) {
	tb.Helper()
	if o.code != 3 || o.report.Status != "failed" || o.report.Error == nil || !strings.Contains(o.err, "error: ") {
		tb.Fatalf("exit %d, status %q: %s", o.code, o.report.Status, o.err)
	}
	if !slices.Contains(kinds, o.report.Error.Code) {
		tb.Errorf("error is of kind %q, want one of %q: %s", o.report.Error.Code, kinds, o.err)
	}
}

// wantText checks that standard error holds all of the texts.
func (o outcome) wantText(tb testing.TB, texts ...string) {
	tb.Helper()
	for _, text := range texts {
		if !strings.Contains(o.err, text) {
			tb.Errorf("%q is missing in: %s", text, o.err)
		}
	}
}
