package nbd

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vmferry/vmferry/job"
)

// op is what a request asks for.
type op uint8

const (
	opRead op = iota
	opWrite
	opZero
	opFlush
	opStatus
)

func (o op) String() string {
	return [...]string{"read", "write", "zero", "flush", "ask block status of"}[o]
}

// request is one command to a device. It belongs to the connection from start until done returns it, and must be
// forgotten by then: it serves others later.
type request struct {
	op     op
	fast   bool // of a zero request: rather not than slowly
	off, n int64
	// of a read or write: n bytes outside the Go heap; of a read on a late connection possibly nil, of a write until it
	// is sent
	buf   []byte
	chunk *chunk    // whom it serves; nil for flush and status
	began time.Time // zero once it is answered

	ranges []plannedRange // the answer to a status request
	err    error          // set when it is done; a requestError, or a lostError with the whole connection

	// Of the connection only.
	cookie uint64
	head   [requestHead]byte
	whole  bool        // of a write: it is sent
	got    job.Extents // which bytes were answered
}

// lend gets a read its memory; false if there is none just now. If last, all that was read before has been dealt with.
func (r *request) lend(last bool) bool {
	if r.buf == nil && r.chunk != nil && r.chunk.lend(last) {
		r.buf = r.chunk.buf[:r.n]
	}
	return r.buf != nil
}

// sent says that the connection needs the bytes of a write no more. It is not called for one that was answered before.
func (r *request) sent() {
	r.whole = true
	if r.chunk != nil {
		r.chunk.sent()
	}
}

// conn is one connection to a device. It is used by one goroutine at a time, which never blocks in any method but
// close.
type conn interface {
	// start begins a request.
	start(r *request)
	// late says whether reads get their memory only when their answer arrives; else they must have it at the start.
	lazyBuffers() bool
	// want says what to poll for before ready is called; a descriptor of -1 for nothing.
	want() (fd int32, events int16)
	// ready takes what poll saw. The error is a lostError; all requests in flight are then done with it.
	ready(revents int16) error
	// done returns a request that is answered, nil if there is none.
	done() *request
	// close says good-bye if that is still possible, waiting for the answer at most for the grace, and ends everything.
	// It returns at once. Until the channel is closed something may still use the buffers of requests.
	close(grace time.Duration) <-chan struct{}
}

// await starts one request and waits for it. Nothing else may be in flight that anybody waits for.
func await(ctx context.Context, c conn, r *request, deadline time.Duration) error {
	w, err := newWake()
	if err != nil {
		return err
	}
	defer w.close()
	defer context.AfterFunc(ctx, w.set)()
	c.start(r)
	for last := time.Now(); ; {
		for d := c.done(); d != nil; d = c.done() {
			if d == r {
				return r.err
			}
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		left := deadline - time.Since(last)
		if left <= 0 {
			return silent(deadline)
		}
		moved, err := pollOne(c, w, left)
		if err != nil {
			return err
		}
		if moved {
			last = time.Now()
		}
	}
}

// pollOne waits for one connection; moved says whether it showed a sign of life.
func pollOne(c conn, w *wake, timeout time.Duration) (moved bool, err error) {
	fd, events := c.want()
	fds := []unix.PollFd{{Fd: fd, Events: events}, {Fd: int32(w.fd), Events: unix.POLLIN}}
	if err := poll(fds, timeout); err != nil {
		return false, err
	}
	if fds[0].Revents == 0 {
		return false, nil
	}
	return true, c.ready(fds[0].Revents)
}

// poll waits until something happens, at most for the timeout; a negative one never ends.
func poll(fds []unix.PollFd, timeout time.Duration) error {
	ms := -1
	if timeout >= 0 {
		ms = int((timeout + time.Millisecond - 1) / time.Millisecond)
	}
	if _, err := unix.Poll(fds, ms); err != nil && !errors.Is(err, unix.EINTR) {
		return fmt.Errorf("poll: %w", err)
	}
	return nil
}

// silent is the end of a connection on which nothing happened for too long.
func silent(d time.Duration) error {
	return &lostError{job.Errorf("wait for the server", job.Timeout, "", "no sign of life for %v: %w", d,
		unix.ETIMEDOUT)}
}
