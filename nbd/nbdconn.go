package nbd

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
	"libguestfs.org/libnbd"

	"github.com/vmferry/vmferry/job"
)

const allocation = "base:allocation" // the meta context that tells data from zeros

// The directions of libnbd. The binding declares them with another type than its functions take.
const (
	towardsUs     = uint(libnbd.AIO_DIRECTION_READ)
	towardsServer = uint(libnbd.AIO_DIRECTION_WRITE)
)

// nbdConn is a connection over a libnbd handle. Answers are always fetched by AioCommandCompleted: only that call
// notices a server that ends an answer without all of its data.
type nbdConn struct {
	h        *libnbd.Libnbd
	fd       int32
	inFlight map[uint64]*request // by libnbd's cookie
	finished queue[*request]
	lost     error // set once, a lostError
	noFlush  bool  // the server has no flush command: an acknowledged write can't become more durable
	context  int64 // the server's number for base:allocation; -1 if not known
}

// dialNBD connects and negotiates. The deadline bounds the time without a sign of life.
func dialNBD(ctx context.Context, uri string, tls TLS, deadline time.Duration) (*nbdConn, error) {
	h, err := newHandle(uri, tls)
	if err != nil {
		return nil, err
	}
	c := &nbdConn{h: h, fd: -1, inFlight: map[uint64]*request{}, context: -1}
	if err := c.listenForContext(); err != nil {
		<-c.close(0)
		return nil, err
	}
	if err := c.handshake(ctx, uri, deadline); err != nil {
		<-c.close(0)
		return nil, fmt.Errorf("connect to %s: %w", Redact(uri), firstOf(tls.failure(uri, err), err))
	}
	_ = errors.Join(h.SetDebug(false), h.ClearDebugCallback()) // can't fail; debug messages would cost time
	canFlush, err := h.CanFlush()
	c.noFlush = err == nil && !canFlush
	return c, nil
}

// listenForContext finds out the server's number for base:allocation. libnbd has no call for it and only names it in
// its debug messages. If a later libnbd does not, libnbd itself asks for block status.
func (c *nbdConn) listenForContext() error {
	const before = "negotiated " + allocation + " with context ID "
	// The callback comes first, else libnbd writes about the next call to standard error.
	err := errors.Join(c.h.SetDebugCallback(func(_, text string) int {
		if _, number, ok := strings.Cut(text, before); ok {
			if n, err := strconv.ParseInt(strings.TrimSpace(number), 10, 64); err == nil {
				c.context = n
			}
		}
		return 0
	}), c.h.SetDebug(true))
	if err != nil {
		return fmt.Errorf("set up handle: %w", nbdError(err))
	}
	return nil
}

// speaking returns the connection for the data: our own code on the same socket where that is possible, else c itself.
func (c *nbdConn) speaking(e Engine) conn {
	if e == EngineAuto {
		if s := newSocketConn(c); s != nil {
			return s
		}
	}
	return c
}

// newHandle makes a handle for one connection to that URI.
func newHandle(uri string, tls TLS) (*libnbd.Libnbd, error) {
	if _, err := ParseURI(uri); err != nil {
		return nil, err
	}
	h, err := libnbd.Create()
	if err != nil {
		return nil, fmt.Errorf("create handle: %w", nbdError(err))
	}
	err = errors.Join(
		h.SetUriAllowTransports(libnbd.ALLOW_TRANSPORT_TCP|libnbd.ALLOW_TRANSPORT_UNIX|libnbd.ALLOW_TRANSPORT_VSOCK),
		h.SetUriAllowLocalFile(false), // keys and certificates are named by the caller, never by a URI
		h.SetPreadInitialize(false),   // a short read is an error, so buffers need not be cleared before
		h.AddMetaContext(allocation),
		tls.apply(h, uri),
	)
	if err != nil {
		_ = h.Close() // fails only for a handle that is closed already
		return nil, fmt.Errorf("set up handle: %w", nbdError(err))
	}
	return h, nil
}

func (c *nbdConn) handshake(ctx context.Context, uri string, deadline time.Duration) error {
	w, err := newWake()
	if err != nil {
		return err
	}
	defer w.close()
	defer context.AfterFunc(ctx, w.set)()
	if err := c.h.AioConnectUri(uri); err != nil {
		return serverAbsent(nbdError(err))
	}
	if err := c.negotiate(ctx, w, deadline); err != nil {
		return err
	}
	return c.encrypted(uri)
}

// negotiate waits until both sides have agreed. libnbd may be there before the first call: while we had to wait for a
// processor, the server answered.
func (c *nbdConn) negotiate(ctx context.Context, w *wake, deadline time.Duration) error {
	for last := time.Now(); ; {
		ready, err := c.h.AioIsReady()
		if err != nil {
			return nbdError(err)
		}
		fd, err := c.h.AioGetFd() // can change while addresses are tried
		if err != nil {
			return nbdError(err)
		}
		c.fd = int32(fd)
		if ready {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		left := deadline - time.Since(last)
		if left <= 0 {
			return silent(deadline)
		}
		moved, err := pollOne(c, w, left)
		if errors.Is(err, syscall.EINVAL) { // libnbd's errno for an end before the greeting
			return &lostError{fmt.Errorf("the server closed the connection at once: %w", syscall.ECONNABORTED)}
		}
		if err != nil {
			return err
		}
		if moved {
			last = time.Now()
		}
	}
}

// encrypted refuses a connection without TLS to an nbds URI, whatever libnbd agreed to.
func (c *nbdConn) encrypted(uri string) error {
	u, err := ParseURI(uri)
	if err != nil || !isTLS(u) {
		return err
	}
	if tls, err := c.h.GetTlsNegotiated(); err != nil || !tls {
		return job.Errorf("agree on TLS", job.Unsupported, "Start the server with TLS", "the server has no TLS")
	}
	return nil
}

// serverAbsent turns the ENOENT of a missing socket into its meaning: the server does not run at present. A server that
// does not know the export answers with ENOENT too, but later.
func serverAbsent(err error) error {
	if !errors.Is(err, syscall.ENOENT) {
		return err
	}
	return job.Errorf("open socket", job.Unavailable, "Start the server, or check the path of its socket",
		"its server does not run: %w", err)
}

func (c *nbdConn) lazyBuffers() bool { return false }

func (c *nbdConn) start(r *request) {
	if r.op == opFlush && c.noFlush {
		c.finished.push(r)
		return
	}
	var cookie uint64
	err := c.lost
	if err == nil {
		if cookie, err = c.issue(r); err != nil && c.gone() {
			err = &lostError{syscall.ENOTCONN} // libnbd reports EINVAL for every lost connection
		}
	}
	if err != nil {
		r.err = &requestError{r.op, r.off, r.n, nbdError(err)}
		c.finished.push(r)
		return
	}
	c.inFlight[cookie] = r
}

func (c *nbdConn) issue(r *request) (uint64, error) {
	switch r.op {
	case opRead:
		return c.h.AioPread(aioBuffer(r), uint64(r.off), nil)
	case opWrite:
		return c.h.AioPwrite(aioBuffer(r), uint64(r.off), nil)
	case opZero:
		var flags libnbd.CmdFlag
		if r.fast {
			flags = libnbd.CMD_FLAG_FAST_ZERO
		}
		return c.h.AioZero(uint64(r.n), uint64(r.off), &libnbd.AioZeroOptargs{FlagsSet: true, Flags: flags})
	case opFlush:
		return c.h.AioFlush(nil)
	case opStatus:
		return c.h.AioBlockStatus(uint64(r.n), uint64(r.off), statusInto(r), nil)
	}
	return 0, syscall.ENOTSUP
}

// aioBuffer gives libnbd the request's own memory: no bytes are copied between a read and its write.
func aioBuffer(r *request) libnbd.AioBuffer {
	first := unsafe.Pointer(unsafe.SliceData(r.buf)) //nolint:gosec // not Go memory, so C may keep the pointer
	return libnbd.AioBuffer{P: first, Size: uint(len(r.buf))}
}

// statusInto appends the answer to a status request to its ranges. Bytes that the server does not describe are not in
// them.
func statusInto(r *request) libnbd.ExtentCallback {
	at := r.off
	return func(context string, _ uint64, entries []uint32, _ *int) int {
		if context != allocation {
			return 0
		}
		for i := 0; i+1 < len(entries) && at < r.off+r.n; i += 2 {
			n := min(int64(entries[i]), r.off+r.n-at)
			r.ranges = append(r.ranges, plannedRange{off: at, n: n, zero: entries[i+1]&libnbd.STATE_ZERO != 0})
			at += n
		}
		return 0
	}
}

func (c *nbdConn) want() (fd int32, events int16) {
	if c.lost != nil {
		return -1, 0
	}
	dir, err := c.h.AioGetDirection()
	if err != nil {
		return c.fd, unix.POLLIN
	}
	if dir&towardsUs != 0 {
		events |= unix.POLLIN
	}
	if dir&towardsServer != 0 {
		events |= unix.POLLOUT
	}
	return c.fd, events
}

func (c *nbdConn) ready(revents int16) error {
	if c.lost != nil {
		return c.lost
	}
	var err error
	switch {
	case revents&(unix.POLLIN|unix.POLLHUP) != 0:
		err = c.h.AioNotifyRead()
	case revents&unix.POLLOUT != 0:
		err = c.h.AioNotifyWrite() // never together with a read, which may have changed the direction
	case revents&(unix.POLLERR|unix.POLLNVAL) != 0:
		err = syscall.ENOTCONN
	}
	c.collect()
	if err == nil && !c.gone() {
		return nil
	}
	if err == nil {
		err = fmt.Errorf("the server closed the connection: %w", syscall.ENOTCONN)
	}
	return c.lose(err)
}

// gone says whether libnbd has ended the connection.
func (c *nbdConn) gone() bool {
	dead, errDead := c.h.AioIsDead()
	closed, errClosed := c.h.AioIsClosed()
	return dead || closed || errDead != nil || errClosed != nil
}

// collect fetches the answers that have arrived.
func (c *nbdConn) collect() {
	for len(c.inFlight) > 0 {
		cookie, err := c.h.AioPeekCommandCompleted()
		if err != nil || cookie == 0 {
			return
		}
		r := c.inFlight[cookie]
		if _, err := c.h.AioCommandCompleted(cookie); err != nil {
			r.err = &requestError{r.op, r.off, r.n, nbdError(err)}
		}
		delete(c.inFlight, cookie)
		c.finished.push(r)
	}
}

// lose ends the connection for good: all requests in flight fail.
func (c *nbdConn) lose(err error) error {
	err = nbdError(err)
	if _, ok := errors.AsType[syscall.Errno](err); !ok {
		err = fmt.Errorf("%w (%w)", err, syscall.ENOTCONN)
	}
	c.lost = &lostError{err}
	for cookie, r := range c.inFlight {
		r.err = c.lost
		c.finished.push(r)
		delete(c.inFlight, cookie)
	}
	return c.lost
}

func (c *nbdConn) done() *request {
	return c.finished.pop()
}

// close sends NBD_CMD_DISC and waits for the answers to all requests in flight: nbdkit 1.32 aborts when a client
// vanishes with reads in flight.
func (c *nbdConn) close(grace time.Duration) <-chan struct{} {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if c.lost == nil && grace > 0 && c.h.AioDisconnect(nil) == nil {
			c.disconnect(grace)
		}
		_ = c.h.Close() // fails only for a handle that is closed already
	}()
	return ended
}

// disconnect handles answers until the server closes the connection, for grace at most.
func (c *nbdConn) disconnect(grace time.Duration) {
	for until := time.Now().Add(grace); !c.gone(); {
		left := time.Until(until)
		if left <= 0 {
			return
		}
		fd, events := c.want()
		fds := []unix.PollFd{{Fd: fd, Events: events}}
		if poll(fds, left) != nil || fds[0].Revents != 0 && c.ready(fds[0].Revents) != nil {
			return
		}
	}
}

func (c *nbdConn) canStatus() bool {
	yes, err := c.h.CanMetaContext(allocation)
	return yes && err == nil
}

// size is the size that the server reports, in bytes. libnbd before 1.18 returns a size of 2^64-1 as it is
// (CVE-2023-5215). Its binding takes that for a failure and follows the pointer to the last error of this operating
// system thread, which is null if there was none. So size first causes an error, by asking for an unknown limit.
func (c *nbdConn) size() (uint64, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	const noSuch = libnbd.Size(-1)
	if _, err := c.h.GetBlockSize(noSuch); err == nil {
		return 0, errors.New("libnbd answers a request for an unknown limit")
	}
	n, err := c.h.GetSize()
	if err != nil {
		return 0, errors.New("it reports more than 2^63 bytes, or no size") // err may be the error caused above
	}
	return n, nil
}

// describe fills in the properties of the export.
func (c *nbdConn) describe(d *device) error {
	size, err := c.size()
	if err != nil {
		return job.Errorf("ask for the size", job.Invalid, "Check the server: it reports no size that a disk can have",
			"%w", err)
	}
	d.size = int64(size)
	ask := func(f func() (bool, error)) bool {
		yes, err := f()
		return err == nil && yes
	}
	d.readOnly = ask(c.h.IsReadOnly)
	d.multiConn = ask(c.h.CanMultiConn)
	d.canZero = ask(c.h.CanZero)
	d.canFastZero = d.canZero && ask(c.h.CanFastZero)
	d.canFlush = ask(c.h.CanFlush)
	d.canStatus = c.canStatus()
	d.minBlock = c.blockSize(libnbd.SIZE_MINIMUM, 1)
	d.maxRequest = c.blockSize(libnbd.SIZE_MAXIMUM, largestRequestSize)
	return nil
}

// blockSize returns a block size in bytes, or unknown if the server does not report one that makes sense.
func (c *nbdConn) blockSize(which libnbd.Size, unknown int64) int64 {
	n, err := c.h.GetBlockSize(which)
	if err != nil || n == 0 || n > 1<<32 {
		return unknown
	}
	return int64(n)
}
