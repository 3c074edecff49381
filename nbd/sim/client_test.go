package sim_test

import (
	"encoding/binary"
	"io"
	"net"
	"net/url"
	"testing"
	"time"

	"github.com/vmferry/vmferry/nbd/sim"
)

// client speaks raw NBD, and checks nothing.
type client struct {
	tb    testing.TB
	c     net.Conn
	size  uint64
	flags uint16
}

func dial(tb testing.TB, s *sim.Server) net.Conn {
	tb.Helper()
	u, err := url.Parse(s.URI())
	must(tb, err)
	var d net.Dialer
	network, address := "unix", u.Query().Get("socket")
	if address == "" {
		network, address = "tcp", u.Host
	}
	c, err := d.DialContext(tb.Context(), network, address)
	must(tb, err)
	tb.Cleanup(func() { c.Close() })
	must(tb, c.SetDeadline(time.Now().Add(20*time.Second)))
	return c
}

// greet does the handshake up to the options.
func greet(tb testing.TB, s *sim.Server) *client {
	tb.Helper()
	c := &client{tb: tb, c: dial(tb, s)}
	if got := string(c.read(16)); got != "NBDMAGICIHAVEOPT" {
		tb.Fatalf("greeted by %q", got)
	}
	c.write(0, 0, 0, c.read(2)[1])
	return c
}

// connect does the handshake, with structured replies and extents if the server has them.
func connect(tb testing.TB, s *sim.Server) *client {
	tb.Helper()
	c := greet(tb, s)
	c.option(8, nil)
	c.option(10, query("base:allocation"))
	for _, r := range c.option(7, []byte{0, 0, 0, 0, 0, 1, 0, 3}) {
		if r.kind == 3 && binary.BigEndian.Uint16(r.data) == 0 {
			c.size, c.flags = binary.BigEndian.Uint64(r.data[2:]), binary.BigEndian.Uint16(r.data[10:])
		}
	}
	return c
}

func query(contexts ...string) []byte {
	b := binary.BigEndian.AppendUint32(make([]byte, 4), uint32(len(contexts)))
	for _, q := range contexts {
		b = append(binary.BigEndian.AppendUint32(b, uint32(len(q))), q...)
	}
	return b
}

func (c *client) write(b ...byte) {
	c.tb.Helper()
	_, err := c.c.Write(b)
	must(c.tb, err)
}

func (c *client) read(n int) []byte {
	c.tb.Helper()
	b := make([]byte, n)
	_, err := io.ReadFull(c.c, b)
	must(c.tb, err)
	return b
}

// silent says whether nothing more comes within 50 ms.
func (c *client) silent() bool {
	must(c.tb, c.c.SetReadDeadline(time.Now().Add(50*time.Millisecond)))
	n, err := c.c.Read(make([]byte, 1))
	ne, ok := err.(net.Error)
	must(c.tb, c.c.SetReadDeadline(time.Now().Add(20*time.Second)))
	return n == 0 && ok && ne.Timeout()
}

// ended waits until the server closes the connection, and returns what it sent before.
func (c *client) ended() []byte {
	c.tb.Helper()
	b, err := io.ReadAll(c.c)
	if ne, ok := err.(net.Error); ok && ne.Timeout() {
		c.tb.Fatalf("the connection is not closed, after %d bytes", len(b))
	}
	return b
}

type optionReply struct {
	kind uint32
	data []byte
}

// option sends an option and returns all answers to it.
func (c *client) option(number uint32, data []byte) (all []optionReply) {
	c.tb.Helper()
	b := binary.BigEndian.AppendUint32([]byte("IHAVEOPT"), number)
	b = binary.BigEndian.AppendUint32(b, uint32(len(data)))
	c.write(append(b, data...)...)
	for {
		head := c.read(20)
		r := optionReply{binary.BigEndian.Uint32(head[12:]), c.read(int(binary.BigEndian.Uint32(head[16:])))}
		all = append(all, r)
		if r.kind == 1 || r.kind>>31 == 1 {
			return all
		}
	}
}

const (
	read, write, disconnect, flush, trim, zero, status = 0, 1, 2, 3, 4, 6, 7

	fua, noHole, reqOne, fastZero = 1, 2, 8, 16
)

func (c *client) send(flags, command uint16, cookie byte, off uint64, n uint32, data ...byte) {
	c.tb.Helper()
	c.write(requestOf(flags, command, cookie, off, n, data...)...)
}

func requestOf(flags, command uint16, cookie byte, off uint64, n uint32, data ...byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, 0x25609513)
	b = binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(b, flags), command)
	b = append(b, 0, 0, 0, 0, 0, 0, 0, cookie)
	b = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint64(b, off), n)
	return append(b, data...)
}

// part is a simple reply, or a chunk of a structured one.
type part struct {
	cookie uint64
	simple bool
	errno  uint32 // also of an error chunk
	flags  uint16
	kind   uint16
	body   []byte
}

// part reads one part. A simple reply has n bytes of data if it is no error.
func (c *client) part(n int) part {
	c.tb.Helper()
	switch magic := binary.BigEndian.Uint32(c.read(4)); magic {
	case 0x67446698:
		head := c.read(12)
		p := part{simple: true, errno: binary.BigEndian.Uint32(head), cookie: binary.BigEndian.Uint64(head[4:])}
		if p.errno == 0 {
			p.body = c.read(n)
		}
		return p
	case 0x668e33ef:
		head := c.read(16)
		p := part{
			flags: binary.BigEndian.Uint16(head), kind: binary.BigEndian.Uint16(head[2:]),
			cookie: binary.BigEndian.Uint64(head[4:]),
		}
		p.body = c.read(int(binary.BigEndian.Uint32(head[12:])))
		if p.kind>>15 == 1 {
			p.errno = binary.BigEndian.Uint32(p.body)
		}
		return p
	default:
		c.tb.Fatalf("an answer begins with %#x", magic)
		return part{}
	}
}

// ask sends a request and reads the first part of its answer.
func (c *client) ask(flags, command uint16, off uint64, n uint32, data ...byte) part {
	c.tb.Helper()
	c.send(flags, command, 1, off, n, data...)
	length := 0
	if command == read {
		length = int(n)
	}
	return c.part(length)
}

// alive reads a byte to check that the connection still works.
func (c *client) alive() {
	c.tb.Helper()
	c.send(0, read, 99, 0, 1)
	if p := c.part(1); p.cookie != 99 || p.errno != 0 {
		c.tb.Fatalf("answered by %+v", p)
	}
}
