package nbd

import (
	"encoding/binary"
	"errors"
	"net"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// answers builds the bytes that a server sends.
type answers []byte

func (a answers) simple(code uint32, cookie uint64, data []byte) answers {
	a = binary.BigEndian.AppendUint32(a, simpleMagic)
	a = binary.BigEndian.AppendUint32(a, code)
	a = binary.BigEndian.AppendUint64(a, cookie)
	return append(a, data...)
}

func (a answers) chunk(flags, kind uint16, cookie uint64, body []byte) answers {
	a = binary.BigEndian.AppendUint32(a, structuredMagic)
	a = binary.BigEndian.AppendUint16(a, flags)
	a = binary.BigEndian.AppendUint16(a, kind)
	a = binary.BigEndian.AppendUint64(a, cookie)
	a = binary.BigEndian.AppendUint32(a, uint32(len(body)))
	return append(a, body...)
}

func (a answers) data(flags uint16, cookie uint64, off int64, data []byte) answers {
	return a.chunk(flags, chunkData, cookie, append(binary.BigEndian.AppendUint64(nil, uint64(off)), data...))
}

func (a answers) hole(flags uint16, cookie uint64, off int64, n uint32) answers {
	return a.chunk(flags, chunkHole, cookie, binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint64(nil,
		uint64(off)), n))
}

// hear starts some requests on a connection, and lets it receive an answer and then the end. It returns the requests.
func hear(tb testing.TB, plain bool, text []byte) []*request {
	tb.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _, _ = unix.Close(fds[0]), unix.Close(fds[1]) }()
	c := &socketConn{fd: fds[0], plain: plain, inFlight: map[uint64]*request{}}
	mem, err := newArena(1 << 20)
	if err != nil {
		tb.Fatal(err)
	}
	th := &thread{src: c, bufs: newBuffers(64<<10, 1, 128<<10, 64<<10)}
	th.bufs.add(mem, 2, 64<<10)
	sent := []*request{
		{op: opRead, off: 0, n: 4096},
		{op: opRead, off: 1 << 20, n: 64 << 10},
		{op: opRead, off: 512, n: 512},
		{op: opStatus, off: 0, n: 1 << 30},
		{op: opWrite, off: 4096, n: 512, buf: make([]byte, 512)},
		{op: opFlush},
	}
	defer func() {
		for _, m := range append(th.bufs.extra, mem) {
			_ = m.free()
		}
	}()
	for _, r := range sent {
		r.chunk = &chunk{thread: th}
		r.chunk.plannedRange = plannedRange{off: r.off, n: r.n}
		c.start(r)
	}
	finished := map[*request]int{}
	collect := func() {
		for r := c.done(); r != nil; r = c.done() {
			finished[r]++
			if r.chunk.memory > 0 {
				th.bufs.give(r.chunk.memory-1, r.chunk.n)
				r.chunk.memory = 0
			}
		}
	}
	collect()
	for len(text) > 0 && c.lost == nil {
		n, err := unix.Write(fds[1], text)
		if err != nil {
			n = 0
		}
		text = text[n:]
		_ = c.ready(unix.POLLIN)
		collect()
	}
	_ = unix.Shutdown(fds[1], unix.SHUT_RDWR)
	for range 1000 {
		if c.lost != nil {
			break
		}
		_ = c.ready(unix.POLLIN)
		collect()
	}
	collect()
	if c.lost == nil {
		tb.Fatal("the connection did not notice its end")
	}
	for _, r := range sent {
		if finished[r] != 1 {
			tb.Fatalf("%s at %d is finished %d times", r.op, r.off, finished[r])
		}
		if r.op == opRead && r.err == nil && (r.got.Sum() != r.n || len(r.got) != 1) {
			tb.Fatalf("%s at %d succeeded with only %v", r.op, r.off, r.got)
		}
	}
	return sent
}

// answeredEarly returns a connection whose write was answered before the socket had taken all of it, the write, and the
// server's end of the socket.
func answeredEarly(t *testing.T, code uint32) (c *socketConn, r *request, server int) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = unix.Close(fds[0]), unix.Close(fds[1]) })
	c = &socketConn{fd: fds[0], plain: true, inFlight: map[uint64]*request{}}
	r = &request{op: opWrite, n: 32 << 20, buf: make([]byte, 32<<20)}
	c.start(r)
	if c.done() != nil {
		t.Fatal("it is done before there was an answer")
	}
	if _, err := unix.Write(fds[1], answers{}.simple(code, 1, nil)); err != nil {
		t.Fatal(err)
	}
	_ = c.ready(unix.POLLIN)
	return c, r, fds[1]
}

func TestAWriteThatWasNotSentIsNotDone(t *testing.T) {
	c, r, _ := answeredEarly(t, 0)
	if got := c.done(); got != r || !errors.Is(r.err, unix.EPROTO) {
		t.Errorf("it was answered with %v, want an error of the protocol", r.err)
	}
}

// The rest of its bytes must still be sent, else the server misreads what follows. By then the request serves another
// chunk.
func TestAWriteThatFailedBeforeItWasSentIsForgotten(t *testing.T) {
	c, r, server := answeredEarly(t, 28)
	if got := c.done(); got != r || !errors.Is(r.err, unix.ENOSPC) {
		t.Fatalf("it was answered with %v, want that there is no space", r.err)
	}
	other := &chunk{unsent: 1}
	*r = request{op: opWrite, n: 512, buf: make([]byte, 512), chunk: other}
	received, sink := 0, make([]byte, 1<<20)
	for len(c.out) > 0 {
		n, err := unix.Read(server, sink)
		if err != nil {
			t.Fatal(err)
		}
		received += n
		if err := c.ready(unix.POLLOUT); err != nil {
			t.Fatal(err)
		}
	}
	if r.whole || other.unsent != 1 {
		t.Error("the bytes of another chunk count as sent")
	}
	for received < requestHead+32<<20 {
		n, err := unix.Read(server, sink)
		if err != nil {
			t.Fatalf("after %d bytes: %v", received, err)
		}
		received += n
	}
}

func TestAnswersAreTakenAsTheyAreMeant(t *testing.T) {
	page := make([]byte, 4096)
	tests := []struct {
		name  string
		plain bool
		text  answers
		well  []int // the requests that succeed
	}{
		{"nothing", false, nil, nil},
		{"simple", true, answers{}.simple(0, 1, page).simple(0, 6, nil), []int{0, 5}},
		{"simple error", true, answers{}.simple(5, 1, nil).simple(0, 3, page[:512]), []int{2}},
		{"one chunk", false, answers{}.data(chunkDone, 1, 0, page), []int{0}},
		{
			"parts in any order, and holes", false, answers{}.data(0, 1, 1024, page[:3072]).hole(chunkDone, 1, 0, 1024),
			[]int{0},
		},
		{"mixed with others", false, answers{}.data(0, 1, 0, page[:1024]).data(chunkDone, 3, 512,
			page[:512]).data(chunkDone, 1, 1024, page[:3072]), []int{0, 2}},
		{"done without data", false, answers{}.chunk(chunkDone, chunkNone, 1, nil), nil},
		{"a part is missing", false, answers{}.data(chunkDone, 1, 0, page[:1024]), nil},
		{"twice", false, answers{}.data(0, 1, 0, page[:1024]).data(chunkDone, 1, 512, page[:3584]), nil},
		{"outside", false, answers{}.data(chunkDone, 1, 1, page), nil},
		{"status without context", false, answers{}.chunk(chunkDone, chunkStatus, 4, page[:4]), nil},
		{"status", false, answers{}.chunk(chunkDone, chunkStatus, 4, page[:12]), []int{3}},
		{"data for a flush", false, answers{}.data(chunkDone, 6, 0, page), nil},
		{"an error among data", false, answers{}.data(0, 1, 0, page).chunk(chunkDone, chunkError, 1,
			[]byte{0, 0, 0, 5, 0, 0}), nil},
		{"without a request", false, answers{}.data(chunkDone, 77, 0, page), nil},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			var well []int
			for i, r := range hear(t, tc.plain, tc.text) {
				if r.err == nil {
					well = append(well, i)
				}
			}
			if len(well) != len(tc.well) || len(well) > 0 && well[0] != tc.well[0] {
				t.Errorf("answered well: %v, want %v", well, tc.well)
			}
		})
	}
}

func FuzzReplies(f *testing.F) {
	page := make([]byte, 512)
	f.Add(false, []byte(answers{}.data(chunkDone, 3, 512, page).hole(chunkDone, 1, 0, 4096)))
	f.Add(false, []byte(answers{}.chunk(chunkDone, chunkStatus, 4, page[:12]).chunk(chunkDone, chunkNone, 6, nil)))
	f.Add(true, []byte(answers{}.simple(0, 3, page).simple(5, 1, nil)))
	f.Fuzz(func(t *testing.T, plain bool, text []byte) {
		hear(t, plain, text)
	})
}

// Bytes on the way to a server on this machine should stay in the caches. For other ways the kernel adapts the buffer.
func TestHowMuchMayBeSentAhead(t *testing.T) {
	four := func(a, b, c, d byte) unix.Sockaddr { return &unix.SockaddrInet4{Addr: [4]byte{a, b, c, d}} }
	six := func(first, last byte) unix.Sockaddr {
		return &unix.SockaddrInet6{Addr: [16]byte{0: first, 15: last}}
	}
	mapped := &unix.SockaddrInet6{Addr: [16]byte{10: 0xff, 11: 0xff, 12: 10, 15: 1}}
	for name, tc := range map[string]struct {
		ours, theirs unix.Sockaddr
		want         int
	}{
		"unix socket":             {&unix.SockaddrUnix{}, &unix.SockaddrUnix{Name: "/s"}, unixBuffer},
		"loopback":                {four(127, 0, 0, 1), four(127, 0, 0, 1), tcpBuffer},
		"loopback, other address": {four(127, 0, 0, 1), four(127, 9, 0, 1), tcpBuffer},
		"loopback, IPv6":          {six(0, 1), six(0, 1), tcpBuffer},
		"address of this machine": {four(10, 0, 0, 1), four(10, 0, 0, 1), tcpBuffer},
		"the same, mapped":        {mapped, four(10, 0, 0, 1), tcpBuffer},
		"other machine":           {four(10, 0, 0, 1), four(10, 0, 0, 2), 0},
		"other machine, IPv6":     {six(0xfd, 1), six(0xfd, 2), 0},
		"virtual machine":         {&unix.SockaddrVM{CID: 2}, &unix.SockaddrVM{CID: 2}, 0},
		"unknown":                 {nil, nil, 0},
		"only one end is known":   {four(10, 0, 0, 1), nil, 0},
	} {
		if got := sendBuffer(tc.ours, tc.theirs); got != tc.want {
			t.Errorf("%s: %d bytes, want %d", name, got, tc.want)
		}
	}
}

func TestTheEndsOfAConnectionAreKnown(t *testing.T) {
	for network, tc := range map[string]struct {
		address string
		want    int
	}{
		"tcp4": {"127.0.0.1:0", tcpBuffer},
		"unix": {filepath.Join(t.TempDir(), "s"), unixBuffer},
	} {
		l, err := net.Listen(network, tc.address)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		c, err := net.Dial(network, l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		raw, err := c.(syscall.Conn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		if err := raw.Control(func(fd uintptr) {
			if got := sendBuffer(ends(int(fd))); got != tc.want {
				t.Errorf("%s: %d bytes, want %d", network, got, tc.want)
			}
		}); err != nil {
			t.Fatal(err)
		}
	}
	if ours, theirs := ends(-1); ours != nil || theirs != nil {
		t.Errorf("no connection is from %v to %v", ours, theirs)
	}
}
