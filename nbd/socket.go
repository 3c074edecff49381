package nbd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"libguestfs.org/libnbd"

	"github.com/vmferry/vmferry/job"
)

// The part of the NBD protocol that a connection speaks after libnbd has negotiated, as in the NBD project's
// doc/proto.md. All numbers are big endian.
const (
	requestMagic    = 0x25609513
	simpleMagic     = 0x67446698
	structuredMagic = 0x668e33ef

	requestHead    = 28 // bytes
	simpleHead     = 16
	structuredHead = 20

	cmdRead       = 0
	cmdWrite      = 1
	cmdDisconnect = 2
	cmdFlush      = 3
	cmdZero       = 6
	cmdStatus     = 7

	flagFastZero = 1 << 4

	chunkDone     = 1 << 0 // a flag: the last chunk of its reply
	chunkNone     = 0
	chunkData     = 1
	chunkHole     = 2
	chunkStatus   = 5
	chunkError    = 1<<15 + 1
	chunkErrorAt  = 1<<15 + 2
	chunkIsError  = 1 << 15
	mostBlob      = 8 << 20 // bytes of a chunk without data; a server that sends more is broken
	socketScratch = 1 << 10 // bytes read beyond the expected ones
	socketTurn    = 4 << 20 // bytes read at once before the thread turns to its other side
	socketChunks  = 64      // parts of one writev
	unixBuffer    = 2 << 20 // bytes that a unix socket takes before the sender has to wait

	// The same for TCP to a server on this machine: one request of 512 KiB and not two (measured, ADR 8).
	tcpBuffer = 512 << 10
)

// socketConn speaks NBD itself, on the socket of a libnbd handle that has negotiated and is idle from then on. A read
// in flight owns no memory until its answer arrives, so many can be in flight, and no call goes through C.
//
// A server that breaks the protocol loses the connection: by an unknown answer, data outside of the request or twice,
// or impossible lengths. An answer without all of its bytes is an error of that request only.
//
// In this file a chunk is a part of a structured reply, as in the protocol: see replyChunk.
type socketConn struct {
	h        *libnbd.Libnbd // owns the socket
	fd       int
	plain    bool // no structured replies: each answer is one head, then the data if it is a read
	noFlush  bool
	context  int64 // the number of base:allocation
	cookie   uint64
	inFlight map[uint64]*request
	finished queue[*request]
	lost     error // set once, a lostError

	out       [][]byte   // to send, from outNext on
	outWrites []*request // for each of out: the write whose bytes it holds; nil for a head
	outNext   int

	scratch  [socketScratch]byte
	from, to int        // of scratch: received, not parsed yet
	head     replyChunk // whose body is being received; its request is nil before the next head
	body     []byte     // where the next bytes of the body go
	starved  *request   // that waits for memory; nil if none does
}

// replyChunk is one chunk of an answer. A simple answer is a single chunk.
type replyChunk struct {
	r    *request
	kind uint16
	done bool   // the last chunk of the answer
	off  int64  // of data
	n    int64  // bytes of data
	blob []byte // the body, if it is not data
}

// newSocketConn takes over a connection that libnbd has just made. It returns nil if that is not possible, for example
// under TLS.
func newSocketConn(c *nbdConn) *socketConn {
	tls, errTLS := c.h.GetTlsNegotiated()
	structured, errStructured := c.h.GetStructuredRepliesNegotiated()
	fd, errFD := c.h.AioGetFd()
	if errTLS != nil || errStructured != nil || errFD != nil || tls || extendedHeaders(c.h) ||
		c.context < 0 && c.canStatus() {
		return nil
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil
	}
	if size := sendBuffer(ends(fd)); size > 0 {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, size) // a smaller buffer works, too
	}
	return &socketConn{
		h: c.h, fd: fd, plain: !structured, noFlush: c.noFlush, context: c.context,
		inFlight: map[uint64]*request{},
	}
}

// ends are the addresses of a connection; nil if the kernel does not know both.
func ends(fd int) (ours, theirs unix.Sockaddr) {
	ours, err := unix.Getsockname(fd)
	if err != nil {
		return nil, nil
	}
	theirs, err = unix.Getpeername(fd)
	if err != nil {
		return nil, nil
	}
	return ours, theirs
}

// sendBuffer is how many bytes may be sent that the other end has not taken yet; 0 to let the kernel adapt it. On a
// unix socket the kernel does not adapt it, and with a TCP server on this machine it goes far beyond the processors'
// caches.
func sendBuffer(ours, theirs unix.Sockaddr) int {
	if _, local := ours.(*unix.SockaddrUnix); local {
		return unixBuffer
	}
	a, b := address(ours), address(theirs)
	if a.IsValid() && (a == b || a.IsLoopback() && b.IsLoopback()) {
		return tcpBuffer
	}
	return 0
}

// address is the internet address of an end of a connection; the zero Addr if it has none.
func address(of unix.Sockaddr) netip.Addr {
	switch end := of.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrFrom4(end.Addr)
	case *unix.SockaddrInet6:
		return netip.AddrFrom16(end.Addr).Unmap()
	default:
		return netip.Addr{}
	}
}

// extendedHeaders says whether a libnbd newer than the one we build with has negotiated 64-bit requests.
func extendedHeaders(h any) bool {
	n, ok := h.(interface{ GetExtendedHeadersNegotiated() (bool, error) })
	if !ok {
		return false
	}
	yes, err := n.GetExtendedHeadersNegotiated()
	return yes || err != nil
}

func (c *socketConn) lazyBuffers() bool { return true }

func (c *socketConn) start(r *request) {
	if r.op == opFlush && c.noFlush {
		c.finished.push(r)
		return
	}
	if c.lost != nil {
		r.err = c.lost
		c.finished.push(r)
		return
	}
	c.cookie++
	c.inFlight[c.cookie] = r
	r.cookie = c.cookie
	var flags uint16
	if r.fast {
		flags = flagFastZero
	}
	putRequest(r.head[:0], flags, command(r.op), c.cookie, r.off, r.n)
	c.out, c.outWrites = append(c.out, r.head[:]), append(c.outWrites, nil)
	if r.op == opWrite {
		c.out, c.outWrites = append(c.out, r.buf), append(c.outWrites, r)
	}
}

func command(o op) uint16 {
	switch o {
	case opWrite:
		return cmdWrite
	case opZero:
		return cmdZero
	case opFlush:
		return cmdFlush
	case opStatus:
		return cmdStatus
	default:
		return cmdRead
	}
}

func putRequest(b []byte, flags, kind uint16, cookie uint64, off, n int64) []byte {
	b = binary.BigEndian.AppendUint32(b, requestMagic)
	b = binary.BigEndian.AppendUint16(b, flags)
	b = binary.BigEndian.AppendUint16(b, kind)
	b = binary.BigEndian.AppendUint64(b, cookie)
	b = binary.BigEndian.AppendUint64(b, uint64(off))
	return binary.BigEndian.AppendUint32(b, uint32(n))
}

func (c *socketConn) want() (fd int32, events int16) {
	if c.lost != nil {
		return -1, 0
	}
	if c.starved == nil {
		events |= unix.POLLIN
	}
	if len(c.out) > 0 {
		events |= unix.POLLOUT
	}
	if events == 0 {
		return -1, 0 // else poll would report a hang-up again and again that cannot be handled yet
	}
	return int32(c.fd), events
}

func (c *socketConn) ready(revents int16) error {
	if c.lost != nil {
		return c.lost
	}
	if revents&(unix.POLLIN|unix.POLLHUP|unix.POLLERR) != 0 {
		if err := c.receive(); err != nil {
			return c.lose(err)
		}
	}
	if revents&unix.POLLNVAL != 0 {
		return c.lose(unix.ENOTCONN)
	}
	if err := c.send(); err != nil {
		return c.lose(err)
	}
	return nil
}

func (c *socketConn) done() *request {
	if c.lost == nil && (len(c.out) > 0 || c.starved != nil) {
		c.progress()
	}
	return c.finished.pop()
}

// progress does what needs no event: it sends requests that were just started, and receives again once there is memory.
func (c *socketConn) progress() {
	err := c.send()
	for err == nil && c.starved != nil && c.starved.lend(c.finished.len() == 0) {
		c.starved = nil
		c.place()
		err = c.receive()
	}
	if err != nil {
		_ = c.lose(err) // all requests in flight get the error
	}
}

// send sends as much as the socket takes now.
func (c *socketConn) send() error {
	for c.outNext < len(c.out) {
		n, err := unix.Writev(c.fd, c.out[c.outNext:min(len(c.out), c.outNext+socketChunks)])
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN):
			return nil
		case err != nil:
			return err
		}
		for n > 0 {
			first := &c.out[c.outNext]
			if n < len(*first) {
				*first = (*first)[n:]
				break
			}
			n -= len(*first)
			*first = nil
			if r := c.outWrites[c.outNext]; r != nil {
				r.sent()
				c.outWrites[c.outNext] = nil
			}
			c.outNext++
		}
	}
	c.out, c.outWrites, c.outNext = c.out[:0], c.outWrites[:0], 0
	return nil
}

// receive reads until nothing is left to read, memory is missing, or socketTurn bytes were read.
func (c *socketConn) receive() error {
	for total := 0; total < socketTurn; {
		if err := c.parse(); err != nil || c.starved != nil {
			return err
		}
		into := make([][]byte, 0, 2)
		if len(c.body) > 0 {
			into = append(into, c.body) // then scratch is empty
		}
		c.compact()
		into = append(into, c.scratch[c.to:])
		want := len(c.body) + len(c.scratch) - c.to
		n, err := unix.Readv(c.fd, into)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN):
			return nil
		case err != nil:
			return err
		case n == 0:
			return fmt.Errorf("the server closed the connection: %w", syscall.ENOTCONN)
		}
		direct := min(n, len(c.body))
		c.body = c.body[direct:]
		c.to += n - direct
		total += n
		if n < want {
			return c.parse() // nothing is left to read
		}
	}
	return nil
}

// compact moves the unparsed bytes to the beginning of scratch.
func (c *socketConn) compact() {
	if c.from > 0 {
		c.to = copy(c.scratch[:], c.scratch[c.from:c.to])
		c.from = 0
	}
}

// parse parses what was received, until it needs more bytes or memory.
func (c *socketConn) parse() error {
	for {
		if c.head.r == nil {
			whole, err := c.begin()
			if err != nil || !whole {
				return err
			}
		}
		if c.starved != nil {
			return nil
		}
		n := copy(c.body, c.scratch[c.from:c.to])
		c.from += n
		c.body = c.body[n:]
		if len(c.body) > 0 {
			return nil
		}
		if err := c.finish(); err != nil {
			return err
		}
	}
}

// take returns the next n bytes of scratch; nil if they have not arrived yet.
func (c *socketConn) take(n int) []byte {
	if c.to-c.from < n {
		return nil
	}
	b := c.scratch[c.from:][:n]
	c.from += n
	return b
}

// begin parses the next head. whole is false if it has not arrived as a whole.
func (c *socketConn) begin() (whole bool, err error) {
	if c.to-c.from < 4 {
		return false, nil
	}
	switch magic := binary.BigEndian.Uint32(c.scratch[c.from:]); magic {
	case simpleMagic:
		b := c.take(simpleHead)
		if b == nil {
			return false, nil
		}
		return true, c.beginSimple(binary.BigEndian.Uint32(b[4:]), binary.BigEndian.Uint64(b[8:]))
	case structuredMagic:
		return c.beginStructured()
	default:
		return false, protocolError("an answer begins with %#x", magic)
	}
}

// protocolError is the error of a connection whose server breaks the protocol.
func protocolError(format string, args ...any) error {
	const next = "Check the server: it does not keep to the NBD protocol"
	return job.Errorf("understand the server", job.IO, next, format+": %w", append(args, syscall.EPROTO)...)
}

func (c *socketConn) beginSimple(code uint32, cookie uint64) error {
	r := c.inFlight[cookie]
	switch {
	case r == nil:
		return protocolError("an answer to a request that is not in flight")
	case !c.plain && (r.op == opRead && code == 0 || r.op == opStatus && code == 0):
		return protocolError("a simple answer where a structured one was agreed on")
	}
	c.head = replyChunk{r: r, done: true}
	if code != 0 {
		c.head.kind = chunkIsError
		r.err = &requestError{r.op, r.off, r.n, wireErrno(code)}
		return nil
	}
	if r.op == opRead {
		c.head.kind = chunkData
		return c.expect(r.off, r.n)
	}
	return nil
}

func (c *socketConn) beginStructured() (whole bool, err error) {
	if c.to-c.from < structuredHead {
		return false, nil
	}
	b := c.scratch[c.from:][:structuredHead]
	flags, kind := binary.BigEndian.Uint16(b[4:]), binary.BigEndian.Uint16(b[6:])
	cookie, length := binary.BigEndian.Uint64(b[8:]), binary.BigEndian.Uint32(b[16:])
	r := c.inFlight[cookie]
	switch {
	case r == nil:
		return false, protocolError("an answer to a request that is not in flight")
	case c.plain:
		return false, protocolError("a structured answer that was not agreed on")
	case kind == chunkData && (length <= 8 || r.op != opRead):
		return false, protocolError("%d bytes of data in answer to %s", length, r.op)
	case kind == chunkHole && (length != 12 || r.op != opRead):
		return false, protocolError("a hole in answer to %s", r.op)
	case kind == chunkStatus && (length < 12 || length%8 != 4 || r.op != opStatus):
		return false, protocolError("block status of %d bytes in answer to %s", length, r.op)
	case kind == chunkNone && (length != 0 || flags&chunkDone == 0):
		return false, protocolError("an empty part of an answer that is not empty, or not the last one")
	case kind&chunkIsError == 0 && kind != chunkData && kind != chunkHole && kind != chunkStatus && kind != chunkNone:
		return false, protocolError("a part of an answer of kind %d", kind)
	case kind != chunkData && length > mostBlob, kind&chunkIsError != 0 && length < 6:
		return false, protocolError("a part of kind %d of %d bytes", kind, length)
	}
	head := replyChunk{r: r, kind: kind, done: flags&chunkDone != 0}
	if kind != chunkData {
		c.from += structuredHead
		head.blob = make([]byte, length)
		c.head, c.body = head, head.blob
		return true, nil
	}
	if c.to-c.from < structuredHead+8 {
		return false, nil
	}
	off := int64(binary.BigEndian.Uint64(c.scratch[c.from+structuredHead:]))
	c.from += structuredHead + 8
	c.head = head
	return true, c.expect(off, int64(length)-8)
}

// expect prepares for n bytes of data at off. Without memory the connection is starved, and receives nothing more.
func (c *socketConn) expect(off, n int64) error {
	r := c.head.r
	if err := r.cover(off, n); err != nil {
		return err
	}
	c.head.off, c.head.n = off, n
	if !r.lend(false) {
		c.starved = r
		return nil
	}
	c.place()
	return nil
}

// place directs the data of the present chunk into the buffer of its request.
func (c *socketConn) place() {
	if c.head.kind == chunkData {
		c.body = c.head.r.buf[c.head.off-c.head.r.off:][:c.head.n]
	}
}

// cover notes which bytes of a read have been answered. It returns an error for bytes that come twice or lie outside of
// the read.
func (r *request) cover(off, n int64) error {
	if off < r.off || n <= 0 || n > r.off+r.n-off {
		return protocolError("%d bytes at %d in answer to %s of %d bytes at %d", n, off, r.op, r.n, r.off)
	}
	part := job.Extent{Offset: off, Length: n}
	if len(r.got.Within(job.Extents{part})) > 0 {
		return protocolError("bytes at %d twice in answer to one read", off)
	}
	r.got = insert(r.got, part)
	return nil
}

// finish handles a chunk that has arrived as a whole.
func (c *socketConn) finish() error {
	head, r := c.head, c.head.r
	if head.kind == chunkHole && !r.lend(false) {
		c.starved = r // finish is called again once there is memory
		return nil
	}
	c.head, c.body = replyChunk{}, nil
	switch {
	case head.kind == chunkHole:
		off, n := int64(binary.BigEndian.Uint64(head.blob)), int64(binary.BigEndian.Uint32(head.blob[8:]))
		if err := r.cover(off, n); err != nil {
			return err
		}
		clear(r.buf[off-r.off:][:n])
	case head.kind == chunkStatus:
		if int64(binary.BigEndian.Uint32(head.blob)) == c.context { // no other context was negotiated
			r.appendBlockStatus(head.blob[4:])
		}
	case head.kind&chunkIsError != 0 && head.blob != nil && r.err == nil:
		r.err = &requestError{r.op, r.off, r.n, wireErrno(binary.BigEndian.Uint32(head.blob))}
	}
	if head.done {
		return c.answered(r)
	}
	return nil
}

// appendBlockStatus appends the block status of the one negotiated context to the ranges of the request.
func (r *request) appendBlockStatus(b []byte) {
	at := r.off
	if k := len(r.ranges); k > 0 {
		at = r.ranges[k-1].off + r.ranges[k-1].n
	}
	for ; len(b) >= 8 && at < r.off+r.n; b = b[8:] {
		n := min(int64(binary.BigEndian.Uint32(b)), r.off+r.n-at)
		zero := binary.BigEndian.Uint32(b[4:])&libnbd.STATE_ZERO != 0
		r.ranges = append(r.ranges, plannedRange{off: at, n: n, zero: zero})
		at += n
	}
}

func (c *socketConn) answered(r *request) error {
	if r.op == opWrite && !r.whole {
		if r.err == nil {
			// Its buffer may hold other bytes by the time they are sent.
			return protocolError("a write was acknowledged before all of it was sent")
		}
		c.detach(r)
	}
	delete(c.inFlight, r.cookie)
	if got := r.got.Sum(); r.op == opRead && r.err == nil && got != r.n {
		r.err = &requestError{r.op, r.off, r.n, fmt.Errorf("the server answered only %d of %d bytes: %w", got, r.n,
			syscall.EIO)}
	}
	c.finished.push(r)
	return nil
}

// detach is called for a write that failed before it was sent as a whole. The rest of its bytes is still sent, but the
// request is used again and is not told.
func (c *socketConn) detach(r *request) {
	for i, w := range c.outWrites {
		if w == r {
			c.outWrites[i] = nil
		}
	}
}

// wireErrno turns an error number of the protocol into an errno. Unknown numbers become EINVAL, as in libnbd.
func wireErrno(code uint32) syscall.Errno {
	switch code {
	case 1:
		return syscall.EPERM
	case 5:
		return syscall.EIO
	case 12:
		return syscall.ENOMEM
	case 28:
		return syscall.ENOSPC
	case 75:
		return syscall.EOVERFLOW
	case 95:
		return syscall.ENOTSUP
	case 108:
		return syscall.ESHUTDOWN
	default:
		return syscall.EINVAL
	}
}

// lose ends the connection for good: all requests in flight fail.
func (c *socketConn) lose(err error) error {
	c.lost = &lostError{err}
	for cookie, r := range c.inFlight {
		r.err = c.lost
		c.finished.push(r)
		delete(c.inFlight, cookie)
	}
	c.out, c.outWrites, c.outNext, c.head, c.body, c.starved = nil, nil, 0, replyChunk{}, nil, nil
	return c.lost
}

// close sends NBD_CMD_DISC and waits for the answers to all requests in flight: nbdkit 1.32 aborts when a client
// vanishes with reads in flight.
func (c *socketConn) close(grace time.Duration) <-chan struct{} {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if c.lost == nil && grace > 0 {
			c.disconnect(time.Now().Add(grace))
		}
		_ = c.h.Close() // fails only for a handle that is closed already
	}()
	return ended
}

// disconnect sends NBD_CMD_DISC and drops what arrives, until the server closes the connection or the time is over.
func (c *socketConn) disconnect(until time.Time) {
	c.out, c.outWrites = append(c.out, putRequest(nil, 0, cmdDisconnect, 0, 0, 0)), append(c.outWrites, nil)
	sink := make([]byte, 64<<10) // for answers that are dropped
	for {
		left := time.Until(until)
		if left <= 0 || c.send() != nil {
			return
		}
		fds := []unix.PollFd{{Fd: int32(c.fd), Events: unix.POLLIN}}
		if len(c.out) > 0 {
			fds[0].Events |= unix.POLLOUT
		}
		if poll(fds, left) != nil {
			return
		}
		if fds[0].Revents&^unix.POLLOUT == 0 {
			continue
		}
		n, err := unix.Read(c.fd, sink)
		if n == 0 && err == nil || err != nil && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
			return
		}
	}
}
