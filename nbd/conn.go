package nbd

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vmferry/vmferry/job"
)

// op is the command of a request.
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

// request is one command to a device. It belongs to the connection from start until done returns it. The connection
// must keep no reference after that: the request is used again.
type request struct {
	op     op
	fast   bool // of a request to zero: the target refuses if it would be slow
	off, n int64
	// Of a read or write: n bytes outside the Go heap. Of a read on a connection with lazy buffers, nil until the
	// answer arrives. Of a write, valid until it is sent.
	buf   []byte
	chunk *chunk    // that the request serves; nil for flush and status
	began time.Time // zero once it is answered

	ranges []plannedRange // the answer to a status request
	err    error          // set when it is done; a requestError, or a lostError with the whole connection

	// Only the connection uses these.
	cookie uint64
	head   [requestHead]byte
	whole  bool        // of a write: it is sent
	got    job.Extents // bytes that were answered
}

// lend gets memory for a read, and returns false if there is none now. last says that all answered reads were handled.
func (r *request) lend(last bool) bool {
	if r.buf == nil && r.chunk != nil && r.chunk.lend(last) {
		r.buf = r.chunk.buf[:r.n]
	}
	return r.buf != nil
}

// sent says that the connection has sent all bytes of a write. It is not called for a write that was answered before.
func (r *request) sent() {
	r.whole = true
	if r.chunk != nil {
		r.chunk.sent()
	}
}

// conn is one connection to a device. One goroutine at a time uses it. No method blocks.
type conn interface {
	// start begins a request.
	start(r *request)
	// lazyBuffers says that read buffers are allocated when the reply arrives. Else a read needs its memory at the
	// start.
	lazyBuffers() bool
	// want says what to poll for before ready is called; a descriptor of -1 for nothing.
	want() (fd int32, events int16)
	// ready handles the events that poll saw. The error is a lostError; then all requests in flight are done with it.
	ready(revents int16) error
	// done returns a request that is answered; nil if there is none.
	done() *request
	// close disconnects in the background: it waits for the server's answers for grace at most, and then frees
	// everything. It returns at once. Until the channel is closed, buffers of requests may still be in use.
	close(grace time.Duration) <-chan struct{}
}

// await starts one request and waits for it. Answers to other requests in flight are dropped. The deadline bounds the
// time without a sign of life. q is the meter's view of the side; nil for none.
func await(ctx context.Context, c conn, r *request, deadline time.Duration, q *quiet) error {
	w, err := newWake()
	if err != nil {
		return err
	}
	defer w.close()
	defer context.AfterFunc(ctx, w.set)()
	s := side{quiet: q}
	if q != nil {
		defer s.leave()
	}
	c.start(r)
	s.begin(r, time.Now())
	for {
		for d := c.done(); d != nil; d = c.done() {
			if d == r {
				return r.err
			}
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		now := time.Now()
		left := deadline - now.Sub(s.seen)
		if left <= 0 {
			return silent(deadline)
		}
		if q != nil {
			s.tell(now)
			left = min(left, accountEvery)
		}
		moved, err := pollOne(c, w, left)
		if err != nil {
			return err
		}
		if moved {
			s.alive(time.Now())
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

// poll waits for an event, at most for the timeout; a negative timeout never ends.
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

// silent is the error of a connection without a sign of life for d.
func silent(d time.Duration) error {
	return &lostError{job.Errorf("wait for the server", job.Timeout, "", "no sign of life for %v: %w", d,
		unix.ETIMEDOUT)}
}
