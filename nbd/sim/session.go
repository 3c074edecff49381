package sim

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Command is what a request asks for.
type Command string

// The commands.
const (
	Read   Command = "read"
	Write  Command = "write"
	Zero   Command = "zero"
	Trim   Command = "trim"
	Flush  Command = "flush"
	Status Command = "status"
)

func commands() []Command { return []Command{Read, Write, Zero, Trim, Flush, Status} }

// request is a request that was read.
type request struct {
	command Command // "" if it is unknown
	number  uint16  // of the command, as received
	flags   uint16
	cookie  uint64
	off     uint64
	n       uint32
	data    []byte // of a write, and of the answer to a read
	faults  chosen
}

func (r *request) String() string { return fmt.Sprintf("%s of %d bytes at %d", r.command, r.n, r.off) }

// session is one connection.
type session struct {
	s      *Server
	conn   net.Conn
	number int // from 1, for log messages
	faults chosen

	// What was agreed on; valid after the handshake.
	size            uint64 // as announced
	flags           uint16
	can             Capabilities
	noZeroes        bool
	structured      bool
	extents         bool
	knowsBlockSizes bool // the client asked for them

	sending sync.Mutex // one part of an answer at a time
	work    sync.WaitGroup
	slots   chan struct{} // holds one token for each request that is executed, and one while the next is read
	dead    atomic.Bool   // crashed: no request may act on the disk any more
	gone    chan struct{} // closed by cut
	cutting sync.Once
}

func newSession(s *Server, conn net.Conn) *session {
	c := &session{
		s: s, conn: conn, faults: s.faults.forConnection(), slots: make(chan struct{}, s.opt.Requests),
		gone: make(chan struct{}),
	}
	without := s.opt.Without
	if f, ok := c.faults.find(FaultLose); ok {
		without |= f.Lose
	}
	c.can = capabilitiesWithout(without)
	c.size = uint64(s.disk.Size())
	if f, ok := c.faults.find(FaultSize); ok {
		c.size = f.Size
	}
	c.flags = c.transmission()
	if f, ok := c.faults.find(FaultFlags); ok {
		c.flags ^= f.Flags
	}
	return c
}

// transmission are the transmission flags by the capabilities.
func (c *session) transmission() uint16 {
	flags := uint16(flagHasFlags)
	for _, f := range []struct {
		what Capabilities
		flag uint16
	}{
		{CanFlush, flagFlush},
		{CanFUA, flagFUA},
		{CanMultiConn, flagMultiConn},
		{CanTrim, flagTrim},
		{CanZero, flagZero},
		{CanFastZero, flagFastZero},
	} {
		if c.can&f.what != 0 {
			flags |= f.flag
		}
	}
	if c.s.opt.ReadOnly {
		flags |= flagReadOnly
		flags &^= flagTrim | flagZero | flagFastZero
	}
	return flags
}

// cut ends the connection at once. It may be called from any goroutine.
func (c *session) cut() {
	c.cutting.Do(func() {
		close(c.gone)
		_ = c.conn.Close() // bytes that were not sent are not meant to arrive
	})
}

// pause waits for d; false if the connection ended before.
func (c *session) pause(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-c.gone:
		return false
	}
}

// discardInput reads and drops all that the client sends, until the client goes.
func (c *session) discardInput() { _, _ = io.Copy(io.Discard, c.conn) }

func (c *session) serve() {
	log := c.s.log.With("connection", c.number)
	log.Debug("accepted", "faults", c.faults)
	if c.faults.has(FaultHangUp) {
		return
	}
	on, err := c.negotiate()
	if err == nil && on {
		err = c.transmit()
	}
	if err != nil && !errors.Is(err, net.ErrClosed) && !errors.Is(err, io.EOF) {
		log.Debug("ended", "err", err)
	}
}

// send writes one part of an answer.
func (c *session) send(parts ...[]byte) {
	c.sending.Lock()
	defer c.sending.Unlock()
	c.sendLocked(parts)
}

// sendLast writes one part and ends the connection before anything else can be sent. The client would take bytes after
// half a payload for its other half.
func (c *session) sendLast(parts ...[]byte) {
	c.sending.Lock()
	defer c.sending.Unlock()
	c.sendLocked(parts)
	c.cut()
}

// sendLocked writes one part. The caller holds sending.
func (c *session) sendLocked(parts [][]byte) {
	b := net.Buffers(parts)
	if _, err := b.WriteTo(c.conn); err != nil {
		c.cut()
	}
}

// transmit reads requests until the client disconnects, and handles each in a goroutine of its own.
func (c *session) transmit() error {
	for {
		select {
		case c.slots <- struct{}{}:
		case <-c.gone:
			return net.ErrClosed
		}
		r, err := c.next()
		if err != nil {
			return err
		}
		if r.number == cmdDisconnect {
			c.waitForReplies()
			return nil
		}
		r.faults = c.s.faults.forRequest(r.command, int64(r.off), int64(r.n))
		switch {
		case r.faults.has(FaultClose):
			return nil
		case r.faults.has(FaultStall):
			c.discardInput()
			return nil
		case r.faults.has(FaultFreeze):
			<-c.gone // until the server drops connections, crashes or closes
			return nil
		}
		c.work.Go(func() {
			defer func() { <-c.slots }()
			c.handle(r)
			c.s.memory.put(r.data)
		})
	}
}

// waitForReplies waits until all requests are answered. The client sends nothing more, but may still read: libnbd
// closes only its half of the connection here.
func (c *session) waitForReplies() {
	for range cap(c.slots) - 1 { // transmit holds one
		select {
		case c.slots <- struct{}{}:
		case <-c.gone:
			return
		}
	}
}

// next reads one request.
func (c *session) next() (*request, error) {
	head := make([]byte, 28)
	if _, err := io.ReadFull(c.conn, head); err != nil {
		return nil, err
	}
	if magic := binary.BigEndian.Uint32(head); magic != requestMagic {
		c.s.violation("a request begins with %#x", magic)
		return nil, fmt.Errorf("a request begins with %#x", magic)
	}
	r := &request{
		flags:  binary.BigEndian.Uint16(head[4:]),
		number: binary.BigEndian.Uint16(head[6:]),
		cookie: binary.BigEndian.Uint64(head[8:]),
		off:    binary.BigEndian.Uint64(head[16:]),
		n:      binary.BigEndian.Uint32(head[24:]),
	}
	switch r.number {
	case cmdRead:
		r.command = Read
	case cmdWrite:
		r.command = Write
	case cmdFlush:
		r.command = Flush
	case cmdTrim:
		r.command = Trim
	case cmdZero:
		r.command = Zero
	case cmdStatus:
		r.command = Status
	case cmdDisconnect:
		return r, nil
	}
	c.s.count(r)
	if r.command == Write {
		if r.n > mostPayload {
			c.s.violation("%s: more than %d bytes", r, mostPayload)
			return nil, fmt.Errorf("%s: more than %d bytes", r, mostPayload)
		}
		r.data = c.s.memory.get(int(r.n))
		if _, err := io.ReadFull(c.conn, r.data); err != nil {
			return nil, err
		}
	}
	return r, nil
}
