package sim_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/nbd/sim"
)

// observation checks what a client sees of one fault.
type observation struct {
	fault string
	see   func(t look)
}

type look struct {
	*testing.T
	s *sim.Server
}

// want checks one part of an answer.
func (p part) want(tb testing.TB, want string) {
	tb.Helper()
	got := fmt.Sprintf("cookie %d simple %v errno %#x flags %d kind %#x, %d bytes", p.cookie, p.simple, p.errno,
		p.flags, p.kind, len(p.body))
	if got != want {
		tb.Errorf("got %s\nwant %s", got, want)
	}
}

func number(p part, at int) uint64 { return binary.BigEndian.Uint64(p.body[at:]) }

func observations() []observation {
	connection := func(f func(t look, c *client)) func(t look) {
		return func(t look) { f(t, connect(t, t.s)) }
	}
	return []observation{
		{"hang-up", func(t look) {
			if got := (&client{tb: t, c: dial(t, t.s)}).ended(); len(got) > 0 {
				t.Errorf("%d bytes came", len(got))
			}
		}},
		{"garbage", func(t look) {
			if got := (&client{tb: t, c: dial(t, t.s)}).read(4096); bytes.HasPrefix(got, []byte("NBD")) {
				t.Error("no garbage")
			}
		}},
		{"stall-greeting", func(t look) {
			if c := (&client{tb: t, c: dial(t, t.s)}); !c.silent() {
				t.Error("the server sent something")
			}
		}},
		{"stall-options", func(t look) {
			c := greet(t, t.s)
			c.write([]byte("IHAVEOPT\x00\x00\x00\x03\x00\x00\x00\x00")...)
			if !c.silent() {
				t.Error("the server sent something")
			}
		}},
		{"stall-go", func(t look) {
			c := greet(t, t.s)
			if got := c.option(3, nil); len(got) != 2 {
				t.Errorf("the list is %v", got)
			}
			c.write([]byte("IHAVEOPT\x00\x00\x00\x07\x00\x00\x00\x06\x00\x00\x00\x00\x00\x00")...)
			if !c.silent() {
				t.Error("the server sent something")
			}
		}},
		{"option-length", func(t look) {
			c := greet(t, t.s)
			c.write([]byte("IHAVEOPT\x00\x00\x00\x03\x00\x00\x00\x00")...)
			if got := c.read(20); binary.BigEndian.Uint32(got[16:]) != 1<<32-1 {
				t.Errorf("answered by %x", got)
			}
		}},
		{"size=-1", connection(func(t look, c *client) {
			if c.size != 1<<64-1 {
				t.Errorf("size %d", c.size)
			}
		})},
		{"flags=0x2", connection(func(t look, c *client) {
			if c.flags&3 != 3 {
				t.Errorf("flags %#x", c.flags)
			}
			c.ask(0, write, 0, 1, 7).want(t, "cookie 1 simple true errno 0x0 flags 0 kind 0x0, 0 bytes")
		})},
		{"lose=zero+multi-conn", connection(func(t look, c *client) {
			if c.flags&(1<<6|1<<8|1<<11) != 0 {
				t.Errorf("flags %#x", c.flags)
			}
			if p := c.ask(0, zero, 0, 512); p.errno != 22 {
				t.Errorf("answered by %+v", p)
			}
		})},
		{"block-size=3/5/0", func(t look) {
			c := greet(t, t.s)
			for _, r := range c.option(6, []byte{0, 0, 0, 0, 0, 1, 0, 3}) {
				if r.kind == 3 && r.data[1] == 3 &&
					!bytes.Equal(r.data[2:], []byte{0, 0, 0, 3, 0, 0, 0, 5, 0, 0, 0, 0}) {
					t.Errorf("block sizes %x", r.data)
				}
			}
		}},
		{"stall,after=1", connection(func(t look, c *client) {
			c.alive()
			c.send(0, read, 1, 0, 512)
			c.send(0, read, 2, 0, 512)
			if !c.silent() {
				t.Error("the server sent something")
			}
		})},
		{"freeze", connection(func(t look, c *client) {
			c.send(0, read, 1, 0, 512)
			if !c.silent() {
				t.Error("the server sent something")
			}
		})},
		{"ignore,op=read,at=512", connection(func(t look, c *client) {
			c.send(0, read, 1, 0, 1024)
			if !c.silent() {
				t.Error("the server sent something")
			}
			c.alive()
		})},
		{"close,op=read,after=1", connection(func(t look, c *client) {
			c.alive()
			c.send(0, read, 1, 0, 512)
			if got := c.ended(); len(got) > 0 {
				t.Errorf("%d bytes came", len(got))
			}
		})},
		{"late=200ms", connection(func(t look, c *client) {
			began := time.Now()
			c.alive()
			if took := time.Since(began); took < 190*time.Millisecond {
				t.Errorf("after %v", took)
			}
		})},
		{"error=0xdeadbeef,op=write,every=2", connection(func(t look, c *client) {
			c.ask(0, write, 0, 1, 1).want(t, "cookie 1 simple true errno 0x0 flags 0 kind 0x0, 0 bytes")
			c.ask(0, write, 0, 1, 2).want(t, "cookie 1 simple false errno 0xdeadbeef flags 1 kind 0x8001, 20 bytes")
			if p := c.ask(0, read, 0, 1); p.body[8] != 1 {
				t.Errorf("what failed was done: %v", p.body)
			}
		})},
		{"error-late=EIO", connection(func(t look, c *client) {
			c.ask(0, read, 4096, 1024).want(t, "cookie 1 simple false errno 0x0 flags 0 kind 0x1, 520 bytes")
			p := c.part(0)
			p.want(t, "cookie 1 simple false errno 0x5 flags 1 kind 0x8002, 14 bytes")
			if number(p, 6) != 4096+512 {
				t.Errorf("the error is at %d", number(p, 6))
			}
		})},
		{"half", connection(func(t look, c *client) {
			c.send(0, read, 1, 0, 1024)
			if got := c.ended(); len(got) != 20+8+512 {
				t.Errorf("%d bytes came", len(got))
			}
		})},
		{"nothing", connection(func(t look, c *client) {
			c.ask(0, read, 0, 1024).want(t, "cookie 1 simple false errno 0x0 flags 1 kind 0x0, 0 bytes")
		})},
		{"cookie", connection(func(t look, c *client) {
			if p := c.ask(0, write, 0, 1, 1); p.cookie != 1<<64-2 {
				t.Errorf("cookie %d", p.cookie)
			}
		})},
		{"magic", connection(func(t look, c *client) {
			c.send(0, read, 1, 0, 1)
			if got := c.read(16); !bytes.HasPrefix(got, []byte{0x11, 0x11, 0x11, 0x11}) {
				t.Errorf("answered by %x", got)
			}
		})},
		{"twice,count=1", connection(func(t look, c *client) {
			c.ask(0, flush, 0, 0).want(t, "cookie 1 simple true errno 0x0 flags 0 kind 0x0, 0 bytes")
			c.part(0).want(t, "cookie 1 simple true errno 0x0 flags 0 kind 0x0, 0 bytes")
			c.alive()
		})},
		{"outside", connection(func(t look, c *client) {
			if p := c.ask(0, read, 512, 512); number(p, 0) != 512+512+4096 {
				t.Errorf("data of %d", number(p, 0))
			}
		})},
		{"huge", connection(func(t look, c *client) {
			c.send(0, read, 1, 0, 512)
			if got := c.read(20); binary.BigEndian.Uint32(got[16:]) != 1<<32-16 {
				t.Errorf("answered by %x", got)
			}
		})},
		{"overlap", connection(func(t look, c *client) {
			c.ask(0, read, 0, 1024).want(t, "cookie 1 simple false errno 0x0 flags 0 kind 0x1, 1032 bytes")
			c.part(0).want(t, "cookie 1 simple false errno 0x0 flags 1 kind 0x1, 520 bytes")
		})},
		{"shuffle", connection(func(t look, c *client) {
			c.ask(0, zero, 0, 512)
			c.send(0, read, 1, 0, 1000)
			p := c.part(0)
			for last := uint64(1000); p.flags == 0; p = c.part(0) {
				if at := number(p, 0); at >= last {
					t.Errorf("a part at %d after one at %d", at, last)
				} else {
					last = at
				}
			}
			p.want(t, "cookie 1 simple false errno 0x0 flags 1 kind 0x0, 0 bytes")
		})},
		{"flip-read,at=700,count=1", connection(func(t look, c *client) {
			for _, want := range []byte{0x54, 0x55} {
				if p := c.ask(0, read, 512, 512); p.body[8+700-512] != want || p.body[8] != 0x55 {
					t.Errorf("byte 700 is %#x, want %#x", p.body[8+700-512], want)
				}
			}
		})},
		{"flip-written,at=600", func(t look) {
			c := connect(t, t.s)
			c.ask(0, write, 0, 512, bytes.Repeat([]byte{2}, 512)...)
			c.ask(0, write, 512, 512, bytes.Repeat([]byte{2}, 512)...)
			if got := get(t.s.Disk(), 0, 1024); got[600] != 3 || bytes.Count(got, []byte{2}) != 1023 {
				t.Errorf("%d bytes are wrong", 1024-bytes.Count(got, []byte{2}))
			}
		}},
		{"flush-lie", func(t look) {
			m := sim.NewVolatileMemory(mib)
			s := start(t, sim.Options{Backend: m})
			setFaults(t, s, "flush-lie")
			c := connect(t, s)
			c.ask(fua, write, 0, 1, 1)
			c.ask(0, flush, 0, 0).want(t, "cookie 1 simple true errno 0x0 flags 0 kind 0x0, 0 bytes")
			s.Crash()
			if get(m, 0, 1)[0] != 0 {
				t.Error("it did not lie")
			}
		}},
		{"trim-garbage", func(t look) {
			connect(t, t.s).ask(0, trim, 0, 4096)
			if got := get(t.s.Disk(), 0, 1024); got[0] == 0x55 || bytes.Equal(got, make([]byte, 1024)) {
				t.Error("no garbage")
			}
		}},
		{"status-empty", connection(func(t look, c *client) {
			c.ask(0, status, 0, 4096).want(t, "cookie 1 simple false errno 0x0 flags 1 kind 0x5, 4 bytes")
		})},
		{"status-zero", connection(func(t look, c *client) {
			if p := c.ask(0, status, 0, 4096); number(p, 4) != 3 {
				t.Errorf("an extent of %x", p.body)
			}
		})},
		{"status-long", connection(func(t look, c *client) {
			if p := c.ask(0, status, 0, 4096); number(p, 4) != (1<<32-512)<<32 {
				t.Errorf("an extent of %x", p.body)
			}
		})},
		{"status-odd", connection(func(t look, c *client) {
			c.ask(0, status, 0, 4096).want(t, "cookie 1 simple false errno 0x0 flags 1 kind 0x5, 15 bytes")
		})},
		{"status-other", connection(func(t look, c *client) {
			if p := c.ask(0, status, 0, 4096); p.body[3] != 2 {
				t.Errorf("context %x", p.body)
			}
		})},
		{"status-none", connection(func(t look, c *client) {
			c.ask(0, status, 0, 4096).want(t, "cookie 1 simple false errno 0x0 flags 1 kind 0x0, 0 bytes")
		})},
		{"status-hole", connection(func(t look, c *client) {
			if p := c.ask(0, status, 0, 4096); number(p, 4) != 4096<<32|3 {
				t.Errorf("an extent of %x", p.body)
			}
		})},
	}
}

func TestEachFaultIsSeenOnTheWire(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, o := range observations() {
		name, _, _ := strings.Cut(strings.Split(o.fault, ",")[0], "=")
		seen[name] = true
		t.Run(o.fault, func(t *testing.T) {
			t.Parallel()
			o.see(look{t, serverWithFaults(t, o.fault)})
		})
	}
	for _, h := range sim.FaultKinds() {
		if !seen[string(h.Kind)] {
			t.Errorf("no observation of %s", h.Kind)
		}
		if h.Text == "" {
			t.Errorf("%s is not explained", h.Kind)
		}
	}
}

func TestFaultsOfConnectionsCount(t *testing.T) {
	s := serverWithFaults(t, "size=0,after=1,every=2,count=1", "lose=structured,after=2")
	for i, want := range []uint64{mib, mib, 0, mib, mib, mib} {
		c := connect(t, s)
		if c.size != want {
			t.Errorf("connection %d: size %d, want %d", i, c.size, want)
		}
		if simple := want != 0 && c.ask(0, read, 0, 1).simple; simple != (i >= 2 && want != 0) {
			t.Errorf("connection %d: simple replies %v", i, simple)
		}
	}
}

func TestFaultsAreChangedWhileRequestsRun(t *testing.T) {
	s := serverWithFaults(t)
	var wg sync.WaitGroup
	for range 4 {
		c := connect(t, s)
		wg.Go(func() {
			for range 200 {
				c.send(0, write, 1, 0, 1, 1)
				io.ReadFull(c.c, make([]byte, 16))
			}
			c.c.Close()
		})
	}
	for range 50 {
		setFaults(t, s, "late=1ms,every=50", "ignore,op=read")
		setFaults(t, s)
		s.State()
	}
	wg.Wait()
}

func TestFaultsAreWrittenAsTheyAreParsed(t *testing.T) {
	for _, text := range []string{
		"garbage", "size=18446744073709551615", "flags=0x102", "lose=extents+zero,after=1", "block-size=0/0/0",
		"late=1.5s,op=write,count=2",
		"error=ESHUTDOWN,at=1048576+65536,at=3145728+1", "error=ENOTSUP,op=zero", "error=EOVERFLOW",
		"error=0xdeadbeef,every=3", "status-zero,op=status",
	} {
		f, err := sim.ParseFault(text)
		must(t, err)
		if f.String() != text {
			t.Errorf("%s is written as %s", text, f)
		}
	}
	f, err := sim.ParseFault("error=28,at=1M+64K,at=2GiB")
	must(t, err)
	if f.String() != "error=ENOSPC,at=1048576+65536,at=2147483648+1" {
		t.Errorf("it is %s", f)
	}
}

func TestFaultsThatCouldNeverApplyAreRefused(t *testing.T) {
	s := serverWithFaults(t, "garbage")
	for _, text := range []string{
		"", "unknown", "garbage=1", "size", "size=-2", "size=x", "flags=x", "lose=everything", "block-size=1/2",
		"block-size=1/2/x", "late", "late=0s", "late=-1s", "late=1",
		"error", "error=0", "error=EWHAT", "stall,op=boil", "stall,at=x", "stall,at=1+0", "stall,after=x",
		"stall,after=-1", "stall,every=-1", "stall,count=-1", "stall,why=1",
		"garbage,op=read", "garbage,at=1", "half,op=write", "flip-written,op=read", "status-zero,op=read",
	} {
		_, err := sim.ParseFault(text)
		wantKind(t, err, job.Invalid)
		if job.NextOf(err) == "" {
			t.Errorf("%s: no next step", text)
		}
	}
	wantKind(t, s.SetFaults(sim.Fault{Kind: "unknown"}), job.Invalid)
	wantKind(t, s.SetFaults(sim.Fault{Kind: sim.FaultLate}), job.Invalid)
	wantKind(t, s.SetFaults(sim.Fault{Kind: sim.FaultStall, At: job.Extents{{Offset: -1, Length: 1}}}), job.Invalid)
	if got := fmt.Sprint(s.State().Faults); got != "[garbage]" {
		t.Errorf("faults that were refused changed something: %s", got)
	}
}

// TestNothingFollowsHalfAPayload has many requests executed when one is answered by half. The client would take bytes
// of another answer for the missing half.
func TestNothingFollowsHalfAPayload(t *testing.T) {
	t.Parallel()
	const n, bad = 128 << 10, 8 // so large that answers wait for each other
	for name, tc := range map[string]struct {
		without sim.Capabilities
		head    int
	}{"structured": {0, 20 + 8}, "simple": {sim.CanStructured, 16}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			disk := sim.NewMemory(16 * n)
			_, err := disk.WriteAt(bytes.Repeat([]byte{1}, 16*n), 0)
			must(t, err)
			s := start(t, sim.Options{Backend: disk, Without: tc.without})
			f, err := sim.ParseFault(fmt.Sprintf("half,at=%d", bad*n))
			must(t, err)
			must(t, s.SetFaults(f))
			for range 30 {
				c := connect(t, s)
				var all []byte
				for i := range byte(16) {
					all = append(all, requestOf(0, read, i, uint64(i)*n, n)...)
				}
				c.write(all...)
				got := c.ended()
				for len(got) > 0 && got[15] != bad {
					got = got[tc.head+n:]
				}
				if len(got) != tc.head+n/2 {
					t.Fatalf("%d bytes came from the half answer on, want %d", len(got), tc.head+n/2)
				}
			}
		})
	}
}
