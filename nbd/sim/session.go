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

// request is one that was read.
type request struct {
	command Command // "" if we don't know it
	number  uint16  // as it came
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
	number int // from 1, for people
	faults chosen

	// What was agreed on; valid when hands are shaken.
	size       uint64 // as we say it is
	flags      uint16
	can        Capabilities
	noZeroes   bool
	structured bool
	extents    bool
	askedBlock bool

	sending sync.Mutex // one part of an answer at a time
	work    sync.WaitGroup
	slots   chan struct{} // holds one token for each request in work
	dead    atomic.Bool   // crashed: nothing may act on the disk any more
	gone    chan struct{} // closed by cut
	cutting sync.Once
}

func newSession(s *Server, conn net.Conn) *session {
	c := &session{s: s, conn: conn, faults: s.orders.connection(), slots: make(chan struct{}, s.opt.Requests),
		gone: make(chan struct{})}
	without := s.opt.Without
	if f, ok := c.faults.find(FaultLose); ok {
		without |= f.Lose
	}
	c.can = have(without)
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

// transmission are the flags that tell what we can.
func (c *session) transmission() uint16 {
	flags := uint16(flagHasFlags)
	for _, f := range []struct {
		what Capabilities
		flag uint16
	}{
		{CanFlush, flagFlush}, {CanFUA, flagFUA}, {CanMultiConn, flagMultiConn}, {CanTrim, flagTrim},
		{CanZero, flagZero}, {CanFastZero, flagFastZero},
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

// cut ends the connection at once, from whatever goroutine.
func (c *session) cut() {
	c.cutting.Do(func() {
		close(c.gone)
		_ = c.conn.Close() // what was not sent is not meant to arrive
	})
}

// pause waits; false if the connection ended before.
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

// swallow takes whatever comes and answers nothing, until the client goes.
func (c *session) swallow() { _, _ = io.Copy(io.Discard, c.conn) }

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
	c.sendNow(parts)
}

// sendLast writes one part and ends the connection before anything else can be sent: what came behind half a payload
// would be taken for its other half, and nobody could know.
func (c *session) sendLast(parts ...[]byte) {
	c.sending.Lock()
	defer c.sending.Unlock()
	c.sendNow(parts)
	c.cut()
}

// sendNow is for those who hold sending.
func (c *session) sendNow(parts [][]byte) {
	b := net.Buffers(parts)
	if _, err := b.WriteTo(c.conn); err != nil {
		c.cut()
	}
}

// transmit reads requests until the client has enough, and hands each to a goroutine of its own.
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
			c.farewell()
			return nil
		}
		r.faults = c.s.orders.request(r.command, int64(r.off), int64(r.n))
		switch {
		case r.faults.has(FaultClose):
			return nil
		case r.faults.has(FaultStall):
			c.swallow()
			return nil
		case r.faults.has(FaultFreeze):
			<-c.gone // with the server, or a crash of it
			return nil
		}
		c.work.Go(func() {
			defer func() { <-c.slots }()
			c.handle(r)
			c.s.memory.put(r.data)
		})
	}
}

// farewell answers what is owed. That nothing more comes from the client does not mean that it has gone: libnbd closes
// its half of the connection here.
func (c *session) farewell() {
	for range cap(c.slots) - 1 { // one is ours
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
		flags: binary.BigEndian.Uint16(head[4:]), number: binary.BigEndian.Uint16(head[6:]),
		cookie: binary.BigEndian.Uint64(head[8:]),
		off:    binary.BigEndian.Uint64(head[16:]), n: binary.BigEndian.Uint32(head[24:]),
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
			c.s.violation("%s: more than anybody takes", r)
			return nil, fmt.Errorf("%s: too much", r)
		}
		r.data = c.s.memory.get(int(r.n))
		if _, err := io.ReadFull(c.conn, r.data); err != nil {
			return nil, err
		}
	}
	return r, nil
}
