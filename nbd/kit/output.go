package kit

import (
	"bytes"
	"errors"
	"io"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/vmferry/vmferry/job"
)

const (
	outputMost = 64 << 10 // bytes that are kept
	hiddenLine = 8        // bytes of the shortest line of a secret that is hidden alone
)

// output keeps the end of what a process writes into a pipe, line by line, without the secrets that it was given. All
// methods are safe for concurrent use.
type output struct {
	pipe *os.File // the end to read from
	done chan struct{}

	mu      sync.Mutex // also held while the pipe is read: then all bytes that were read are in lines or rest
	lines   []line
	size    int    // bytes of lines
	rest    []byte // of a line that has not ended
	secrets [][]byte
}

// line is one line, and when the last byte of it was read.
type line struct {
	at   time.Time
	text string
}

// newOutput makes a pipe, and reads from it until its other end, which is returned, is closed everywhere.
func newOutput() (*output, *os.File, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	raw, err := r.SyscallConn()
	if err != nil {
		return nil, nil, errors.Join(err, r.Close(), w.Close())
	}
	o := &output{pipe: r, done: make(chan struct{})}
	go func() {
		defer close(o.done)
		_ = raw.Read(func(fd uintptr) bool { return o.read(fd) != nil }) // an end, for whatever reason
	}()
	return o, w, nil
}

// read takes all that the pipe holds now. The error is io.EOF if no process can write to it any more.
func (o *output) read(fd uintptr) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	buf := make([]byte, 4<<10)
	for {
		n, err := syscall.Read(int(fd), buf)
		switch {
		case errors.Is(err, syscall.EINTR):
		case errors.Is(err, syscall.EAGAIN):
			return nil
		case err != nil:
			return err
		case n == 0:
			return io.EOF
		default:
			o.add(buf[:n], time.Now())
		}
	}
}

// drain reads what the process has written up to now. It does not wait.
func (o *output) drain() {
	if raw, err := o.pipe.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { _ = o.read(fd) }) // else it is closed, and was read
	}
}

// close ends the reading. What children of the process still write gets lost after a wait.
func (o *output) close(wait time.Duration) {
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-o.done:
	case <-t.C:
	}
	_ = o.pipe.Close() // it was read from only
	<-o.done
	o.mu.Lock()
	defer o.mu.Unlock()
	o.add([]byte("\n"), time.Now()) // the last line may have no end
}

// add is called with the lock held.
func (o *output) add(p []byte, now time.Time) {
	o.rest = append(o.rest, p...)
	for _, s := range o.secrets {
		o.rest = bytes.ReplaceAll(o.rest, s, []byte("***"))
	}
	for {
		i := bytes.IndexByte(o.rest, '\n')
		if i < 0 && len(o.rest) < outputMost {
			return
		}
		if i < 0 {
			i = len(o.rest) - 1
		}
		if text := string(bytes.TrimSpace(o.rest[:i+1])); text != "" {
			o.lines = append(o.lines, line{now, text})
			o.size += len(text)
		}
		o.rest = o.rest[i+1:]
		for o.size > outputMost && len(o.lines) > 1 {
			o.size -= len(o.lines[0].text)
			o.lines = o.lines[1:]
		}
	}
}

// hide keeps a secret out of the lines that are read from now on, and each long line of it.
func (o *output) hide(secret job.Secret) {
	o.mu.Lock()
	defer o.mu.Unlock()
	whole := []byte(secret.Reveal())
	if len(whole) == 0 {
		return
	}
	o.secrets = append(o.secrets, whole)
	for part := range bytes.Lines(whole) {
		if part = bytes.TrimSpace(part); len(part) >= hiddenLine {
			o.secrets = append(o.secrets, part)
		}
	}
}

// since are the lines that were read at that time or later, the newest first.
func (o *output) since(at time.Time) []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	var out []string
	for _, l := range slices.Backward(o.lines) {
		if l.at.Before(at) {
			break
		}
		out = append(out, l.text)
	}
	return out
}
