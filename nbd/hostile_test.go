package nbd_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/nbd"
	"github.com/vmferry/vmferry/nbd/sim"
	"github.com/vmferry/vmferry/volumes/copytest"
)

// rehearsed is a rehearsal server whose disk is in memory.
type rehearsed struct {
	*sim.Server
	disk *sim.Memory
}

// rehearse serves a disk until the test ends.
func rehearse(tb testing.TB, disk *sim.Memory, opt sim.Options, faults ...string) rehearsed {
	tb.Helper()
	opt.Backend = disk
	opt.Listen = filepath.Join(shortDir(tb), "s")
	s, err := sim.Start(tb.Context(), opt)
	check(tb, err)
	tb.Cleanup(func() { check(tb, s.Close()) })
	order(tb, s, faults...)
	return rehearsed{s, disk}
}

func order(tb testing.TB, s *sim.Server, faults ...string) {
	tb.Helper()
	var all []sim.Fault
	for _, text := range faults {
		f, err := sim.ParseFault(text)
		check(tb, err)
		all = append(all, f)
	}
	check(tb, s.SetFaults(all...))
}

// holding is a disk in memory with those bytes, holes where whole pages are zeros.
func holding(tb testing.TB, b []byte) *sim.Memory {
	tb.Helper()
	m := sim.NewMemory(int64(len(b)))
	load(tb, m, b)
	return m
}

func load(tb testing.TB, m *sim.Memory, b []byte) {
	tb.Helper()
	for at := 0; at < len(b); at += 64 * kib {
		part := b[at:min(len(b), at+64*kib)]
		if bytes.Count(part, []byte{0}) < len(part) {
			_, err := m.WriteAt(part, int64(at))
			check(tb, err)
		}
	}
}

// rubbish is a target's disk before anything is copied to it.
func rubbish(tb testing.TB, n int) *sim.Memory {
	tb.Helper()
	m := sim.NewMemory(int64(n))
	pollute(tb, m)
	return m
}

func pollute(tb testing.TB, m *sim.Memory) {
	tb.Helper()
	part := bytes.Repeat([]byte{0xAA}, 64*kib)
	for at := int64(0); at < m.Size(); at += int64(len(part)) {
		_, err := m.WriteAt(part[:min(m.Size()-at, int64(len(part)))], at)
		check(tb, err)
	}
}

// holds compares a disk in memory with the bytes that it should have.
func holds(tb testing.TB, m *sim.Memory, want []byte) {
	tb.Helper()
	if m.Size() != int64(len(want)) {
		tb.Fatalf("the disk has %d bytes, want %d", m.Size(), len(want))
	}
	part := make([]byte, 64*kib)
	for at := 0; at < len(want); at += len(part) {
		n := min(len(want)-at, len(part))
		_, err := m.ReadAt(part[:n], int64(at))
		check(tb, err)
		if bytes.Equal(part[:n], want[at:at+n]) {
			continue
		}
		for i := range n {
			if part[i] != want[at+i] {
				tb.Fatalf("byte %d is %#x, want %#x", at+i, part[i], want[at+i])
			}
		}
	}
}

// blameless fails if the engine asked for what the server did not offer.
func blameless(tb testing.TB, servers ...rehearsed) {
	tb.Helper()
	for _, s := range servers {
		if v := s.State().Violations; len(v) > 0 {
			tb.Errorf("the engine breaks the protocol, %d times or more: %q", len(v), v[:min(5, len(v))])
		}
	}
}

// bothEngines runs a test for each engine, at the same time as other tests.
func bothEngines(t *testing.T, f func(t *testing.T, e nbd.Engine)) {
	t.Helper()
	for name, e := range map[string]nbd.Engine{"own": nbd.EngineAuto, "libnbd": nbd.EngineLibnbd} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f(t, e)
		})
	}
}

// Deadlines of copies. A machine with other work can be slow, so the short one is only for copies that a deadline
// should end, or that can go on after one.
const (
	shortDeadline = time.Second
	longDeadline  = 20 * time.Second
	endless       = 60 * time.Second // a copy that takes longer hangs
)

// bounded ends when a copy hangs.
func bounded(tb testing.TB) context.Context {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), endless)
	tb.Cleanup(cancel)
	return ctx
}

// copyOnce copies, and fails the test if the copy hangs.
func copyOnce(tb testing.TB, task nbd.Task) (nbd.Result, error) {
	tb.Helper()
	ctx := bounded(tb)
	r, err := copytest.Copy(ctx, task, &nbd.Meter{})
	if ctx.Err() != nil {
		tb.Fatalf("the copy did not end within %v: %v", endless, err)
	}
	return r, err
}

// hostile is one way in which a server misbehaves.
type hostile struct {
	name   string
	faults string // with spaces between
	sides  string // which side misbehaves: source, target, or each in turn if empty
	disk   func() []byte
	opt    sim.Options
	task   func(*nbd.Task)
	// kinds are those that the error may have; none means that the copy must succeed. After a success the target must
	// equal the source, unless blind is set.
	kinds []job.Kind
	works bool // the copy may also succeed
	blind bool // no client can notice the fault, so a success proves nothing
}

// hostileSize is a multiple of the sector size, and of no larger unit.
const hostileSize = 3*mib + 512

// Disks that tests only read.
var (
	smallDisk = sync.OnceValue(func() []byte { return disk(hostileSize, mixed) })
	oddDisk   = sync.OnceValue(func() []byte { return disk(hostileSize+1, mixed) })
	denseDisk = sync.OnceValue(func() []byte { return disk(hostileSize, dense) })
	// sparseDisk is large enough for requests for block status.
	sparseDisk = sync.OnceValue(func() []byte {
		b := make([]byte, 17*mib+512)
		for _, at := range []int{0, 5 * mib, 11*mib + 512, len(b) - 1} {
			dense(b[at:min(len(b), at+200*kib)])
		}
		return b
	})
)

func kinds(k ...job.Kind) []job.Kind { return k }

// broken are the kinds for a server that cannot be understood.
func broken() []job.Kind {
	return kinds(job.IO, job.Unavailable, job.Invalid, job.Unsupported)
}

func capacity(n int64) func(*nbd.Task) { return func(t *nbd.Task) { t.Capacity = n } }

// reconnecting gives a copy all the time that it needs, as long as it makes progress.
func reconnecting(t *nbd.Task) { t.Deadline, t.Reconnect = shortDeadline, longDeadline }

func intoNothing(t *nbd.Task) { t.Target = copytest.Onto("null:") }

// oneByOne is reconnecting with one request at a time.
func oneByOne(t *nbd.Task) {
	reconnecting(t)
	t.Connections, t.Requests = 1, 1
}

// trying gives up soon.
func trying(t *nbd.Task) { t.Reconnect = time.Second }

// handshakes are servers that misbehave before the first request. Here and below, the number at the beginning of a name
// groups faults of one sort.
func handshakes() []hostile {
	stalled := kinds(job.Timeout)
	return []hostile{
		{name: "49 garbage greeting", faults: "garbage", kinds: broken()},
		{name: "49 garbage greeting of the second connection", faults: "garbage,after=1", kinds: broken(), works: true},
		{name: "50 stall before the greeting", faults: "stall-greeting", kinds: stalled},
		{name: "50 stall at the options", faults: "stall-options", kinds: stalled},
		{name: "50 stall at go", faults: "stall-go", kinds: stalled},
		{name: "50 stall of the second connection", faults: "stall-greeting,after=1", kinds: stalled, works: true},
		{name: "50 closed before the greeting", faults: "hang-up", kinds: kinds(job.Unavailable)},
		{name: "50 all connections but the first are closed", faults: "hang-up,after=1"},
		{name: "50 only one connection at a time", opt: sim.Options{Connections: 1}},
		{name: "51 size 0", faults: "size=0", kinds: kinds(job.Invalid)},
		{name: "51 size 2^64-1", faults: "size=-1", kinds: kinds(job.Invalid, job.Unsupported, job.IO)},
		{name: "51 size 2^63", faults: "size=9223372036854775808", kinds: kinds(job.Invalid, job.Unsupported, job.IO)},
		{
			name: "51 size 2^63-1 of a source", faults: "size=9223372036854775807", sides: "source",
			kinds: kinds(job.Invalid),
		},
		{
			name: "51 size 2^63-1 of a source, for a disk that is known", faults: "size=9223372036854775807",
			sides: "source", task: capacity(hostileSize), kinds: kinds(job.Invalid),
		},
		{
			name: "51 size 2^63-1 of a source, for a target without end", faults: "size=9223372036854775807",
			sides: "source", task: intoNothing, kinds: kinds(job.Invalid, job.Unsupported, job.IO), blind: true,
		},
		{
			name: "51 size 2^63-512 of a source, for a target without end", faults: "size=9223372036854775296",
			sides: "source", task: intoNothing, kinds: kinds(job.Invalid, job.Unsupported, job.IO), blind: true,
		},
		{
			name: "51 size 2^62 of a source, for a target without end", faults: "size=4611686018427387904",
			sides: "source", task: intoNothing, kinds: kinds(job.Invalid, job.Unsupported, job.IO), blind: true,
		},
		{name: "51 size 2^63-1 of a target", faults: "size=9223372036854775807", sides: "target"},
		{name: "51 size that is not whole sectors", disk: oddDisk},
		{
			name: "51 size that is not whole sectors, for a disk that is known", disk: oddDisk,
			task: capacity(hostileSize), sides: "source", kinds: kinds(job.Invalid),
		},
		{
			name: "51 one byte more than there is", faults: fmt.Sprintf("size=%d", hostileSize+1), sides: "source",
			task: intoNothing, kinds: kinds(job.Invalid, job.IO), blind: true,
		},
		{
			name: "51 smaller than vCenter says", sides: "source", task: capacity(hostileSize + 512),
			kinds: kinds(job.Invalid),
		},
		{
			name: "51 larger than vCenter says", sides: "source", task: capacity(hostileSize - 512),
			kinds: kinds(job.Invalid),
		},
		{
			name:   "51 a target that is smaller than it says",
			faults: "error=ENOSPC,op=write,at=2M+2M error=ENOSPC,op=zero,at=2M+2M", sides: "target",
			kinds: kinds(job.NoSpace),
		},
		{name: "52 option reply of 4 GiB", faults: "option-length", kinds: append(broken(), job.Timeout)},
		{name: "53 block sizes 0/0/0", faults: "block-size=0/0/0", kinds: broken(), works: true},
		{name: "53 block sizes 3/5/7", faults: "block-size=3/5/7", kinds: broken(), works: true},
		{
			name: "53 a least block that is larger than the most", faults: "block-size=4096/4096/512", kinds: broken(),
			works: true,
		},
		{
			name: "53 a least block of 4 GiB", faults: "block-size=4294967295/4294967295/4294967295", kinds: broken(),
			works: true,
		},
		{
			name: "53 a least block of 1 GiB", faults: "block-size=1073741824/1073741824/1073741824", kinds: broken(),
			works: true,
		},
		{name: "53 at most one byte", faults: "block-size=1/1/1", kinds: broken(), works: true},
	}
}

// answers are servers that answer requests wrongly, late or never.
func answers() []hostile {
	lost := append(broken(), job.Timeout)
	timeout := kinds(job.Timeout)
	return []hostile{
		{name: "54 wrong cookie", faults: "cookie", kinds: lost},
		{name: "54 wrong cookie later", faults: "cookie,after=5", kinds: lost},
		{name: "54 bad magic", faults: "magic", kinds: lost},
		{name: "54 bad magic later", faults: "magic,after=5", kinds: lost},
		{name: "54 each answer twice", faults: "twice", kinds: lost},
		{name: "54 one answer twice", faults: "twice,after=3,count=1", kinds: lost, works: true},
		{name: "55 half a payload, then closed", faults: "half", sides: "source", kinds: lost},
		{
			name: "55 half a simple payload, then closed", faults: "half", sides: "source",
			opt: sim.Options{Without: sim.CanStructured}, kinds: lost,
		},
		{name: "55 half a payload once", faults: "half,after=2,count=1", sides: "source", task: reconnecting},
		{
			name: "55 half a simple payload once", faults: "half,after=2,count=1", sides: "source",
			opt: sim.Options{Without: sim.CanStructured}, task: reconnecting,
		},
		{name: "55 closed at each request", faults: "close", task: trying, kinds: kinds(job.Unavailable)},
		{name: "55 closed at each fifth request", faults: "close,every=5", sides: "source", task: oneByOne},
		// A copy with more in flight than the server bears, or without time for a flush, makes no progress, and must
		// say so.
		{
			name: "55 closed at each fifth request of many", faults: "close,every=5", task: trying,
			kinds: kinds(job.Unavailable), works: true,
		},
		{name: "55 closed once, without reconnecting", faults: "close,after=3,count=1", kinds: kinds(job.Unavailable)},
		{name: "55 stall at the fifth request", faults: "stall,after=4", kinds: timeout},
		{name: "55 stall once", faults: "stall,after=4,count=1", task: reconnecting},
		{name: "55 frozen at the fifth request", faults: "freeze,after=4", kinds: timeout},
		{name: "55 frozen once", faults: "freeze,after=4,count=1", task: reconnecting},
		{name: "55 every fourth request is ignored", faults: "ignore,every=4", kinds: timeout},
		{name: "55 one request is ignored", faults: "ignore,after=3,count=1", task: reconnecting},
		{name: "55 late, but before the deadline", faults: "late=100ms"},
		{name: "55 late by three deadlines", faults: "late=3s", kinds: timeout},
		{name: "56 unknown errno", faults: "error=0xdeadbeef", kinds: append(broken(), job.NoSpace)},
		{name: "56 unknown errno of each flush", faults: "error=0xdeadbeef,op=flush", sides: "target", kinds: broken()},
		{name: "56 unknown errno once", faults: "error=0xdeadbeef,after=1,count=1", sides: "source"},
		{name: "56 unknown errno of one write", faults: "error=0xdeadbeef,op=write,count=1", sides: "target"},
		{
			name: "56 unknown simple errno", faults: "error=0xdeadbeef", opt: sim.Options{Without: sim.CanStructured},
			kinds: broken(),
		},
		{name: "56 shutdown", faults: "error=ESHUTDOWN", kinds: kinds(job.Unavailable)},
		{name: "56 shutdown later", faults: "error=ESHUTDOWN,after=4", kinds: kinds(job.Unavailable)},
		{name: "56 shutdown once", faults: "error=ESHUTDOWN,after=3,count=1", task: reconnecting},
		{name: "56 EIO of everything", faults: "error=EIO", kinds: kinds(job.IO)},
		{name: "56 EIO of a range", faults: "error=EIO,at=1M+4K", kinds: kinds(job.IO)},
		{
			name: "56 EIO of each third request", faults: "error=EIO,every=3,op=read", sides: "source", works: true,
			kinds: kinds(job.IO),
		},
		{name: "56 EIO once", faults: "error=EIO,count=1,op=write", sides: "target"},
		{name: "56 EIO of one zero request", faults: "error=EIO,count=1,op=zero", sides: "target"},
		{name: "56 EIO of one flush", faults: "error=EIO,count=1,op=flush", sides: "target", kinds: kinds(job.IO)},
		{name: "56 EPERM", faults: "error=EPERM", kinds: kinds(job.Permission)},
		{name: "56 ENOSPC", faults: "error=ENOSPC,op=write", sides: "target", kinds: kinds(job.NoSpace)},
		{name: "56 ENOSPC of the flush", faults: "error=ENOSPC,op=flush", sides: "target", kinds: kinds(job.NoSpace)},
		{name: "56 zeroes are not supported after all", faults: "error=ENOTSUP,op=zero", sides: "target"},
		{name: "56 zeroes are invalid after all", faults: "error=EINVAL,op=zero", sides: "target"},
		{name: "56 half the data, then EIO", faults: "error-late=EIO", sides: "source", kinds: kinds(job.IO)},
		{name: "56 half the data, then EIO, once", faults: "error-late=EIO,count=1", sides: "source"},
		{name: "57 done without data", faults: "nothing", sides: "source", kinds: kinds(job.IO)},
		{name: "57 done without data, once", faults: "nothing,after=2,count=1", sides: "source"},
		{
			name: "57 done without data, of some bytes", faults: "nothing,at=1M+512", sides: "source",
			kinds: kinds(job.IO),
		},
		{name: "58 a chunk outside the request", faults: "outside", sides: "source", kinds: lost},
		{name: "58 a chunk outside the request, later", faults: "outside,after=3", sides: "source", kinds: lost},
		{name: "58 a chunk of 2^32-16 bytes", faults: "huge", sides: "source", kinds: lost},
		{name: "58 overlapping chunks", faults: "overlap", sides: "source", kinds: lost},
		{name: "58 chunks in disorder", faults: "shuffle", sides: "source"},
		{
			name: "58 chunks in disorder, late, one request at a time", faults: "shuffle late=5ms", sides: "source",
			opt: sim.Options{Requests: 1},
		},
	}
}

// lies are servers whose answers are well-formed and wrong.
func lies() []hostile {
	var out []hostile
	for _, how := range []string{
		"status-empty", "status-zero", "status-long", "status-odd", "status-other",
		"status-none", "error=EIO,op=status", "error=0xdeadbeef,op=status", "error=EPERM,op=status",
	} {
		out = append(out,
			hostile{
				name: "59 extents: " + how, faults: how, sides: "source", disk: sparseDisk, works: true,
				kinds: broken(),
			},
			hostile{
				name: "59 extents once: " + how, faults: how + ",count=1", sides: "source", disk: sparseDisk,
				works: true, kinds: broken(),
			},
		)
	}
	return append(out, []hostile{
		{name: "59 extents: late", faults: "late=100ms,op=status", sides: "source", disk: sparseDisk},
		{
			name: "59 extents: never", faults: "ignore,op=status", sides: "source", disk: sparseDisk,
			kinds: kinds(job.Timeout),
		},
		{
			name: "59 extents: everything is a hole", faults: "status-hole", sides: "source", disk: sparseDisk,
			blind: true,
		},
		{name: "60 data changes between two reads", faults: "flip-read,at=1M", sides: "source", blind: true},
		{name: "60 a bit is wrong on the target", faults: "flip-written,at=2M", sides: "target", blind: true},
		{name: "60 the target lies about its flush", faults: "flush-lie", sides: "target"},
		{name: "60 the target's trim leaves rubbish", faults: "trim-garbage", sides: "target"},
		{name: "61 a target that is read-only", faults: "flags=2", sides: "target", kinds: kinds(job.Permission)},
		{name: "61 a source that is read-only", faults: "flags=2", sides: "source"},
		{
			name: "61 read-only at each second connection of a target", faults: "flags=2,every=2", sides: "target",
			kinds: kinds(job.Permission), works: true,
		},
		{name: "61 read-only at each second connection of a source", faults: "flags=2,every=2", sides: "source"},
		{
			name: "61 read-only, and means it", opt: sim.Options{ReadOnly: true}, sides: "target",
			kinds: kinds(job.Permission),
		},
		{name: "61 no flags at all", faults: "flags=0xffff", sides: "source", works: true, kinds: broken()},
		{name: "61 no flush at each second connection", faults: "lose=flush,every=2"},
		{name: "61 no flush at all", faults: "lose=flush"},
		{
			name: "61 claims a flush that it does not have", faults: "lose=flush flags=4", sides: "target",
			kinds: broken(), works: true,
		},
		{name: "61 no zeroes at each second connection", faults: "lose=zero,every=2"},
		{name: "61 no zeroes from the second connection on", faults: "lose=zero,after=1"},
		{name: "61 no multi-conn from the second connection on", faults: "lose=multi-conn,after=1"},
		{
			name: "61 structured replies at each second connection only", faults: "lose=structured,every=2",
			disk: sparseDisk,
		},
		{name: "61 extents from the second connection on", faults: "lose=extents,count=1", disk: sparseDisk},
		{name: "61 extents of the first connection only", faults: "lose=extents,after=1", disk: sparseDisk},
		{
			name: "61 another size at the second connection of a source", faults: "size=512,after=1", sides: "source",
			kinds: kinds(job.Conflict, job.Invalid, job.IO), works: true,
		},
		{
			name: "61 another size at the second connection of a target", faults: "size=512,after=1", sides: "target",
			kinds: kinds(job.Conflict, job.Invalid, job.IO, job.NoSpace), works: true,
		},
		{
			name: "61 other block sizes at the second connection", faults: "block-size=4096/4096/1048576,after=1",
			works: true, kinds: broken(),
		},
	}...)
}

func TestAServerThatMisbehavesNeitherHangsNorFoolsUs(t *testing.T) {
	t.Parallel()
	for _, h := range slices.Concat(handshakes(), answers(), lies()) {
		for _, side := range []string{"source", "target"} {
			if h.sides != "" && h.sides != side {
				continue
			}
			t.Run(h.name+"/"+side, func(t *testing.T) {
				t.Parallel()
				bothEngines(t, func(t *testing.T, e nbd.Engine) {
					t.Helper()
					h.meet(t, side, e)
				})
			})
		}
	}
}

// meet runs a copy with a source or target that misbehaves; the other side is a good server.
func (h hostile) meet(t *testing.T, side string, e nbd.Engine) {
	t.Helper()
	content := smallDisk
	if h.disk != nil {
		content = h.disk
	}
	want := content()
	optSource, optTarget := h.opt, sim.Options{}
	if side == target {
		optSource, optTarget = optTarget, optSource
	}
	src := rehearse(t, holding(t, want), optSource)
	dst := rehearse(t, rubbish(t, len(want)), optTarget)
	bad, good := src, dst
	if side == target {
		bad, good = dst, src
	}
	order(t, bad.Server, strings.Fields(h.faults)...)
	task := nbd.Task{
		Source: src.URI(), Target: copytest.Onto(dst.URI()), Deadline: longDeadline, Reconnect: -1,
		RequestSize: 256 * kib, Engine: e,
	}
	if slices.Contains(h.kinds, job.Timeout) {
		task.Deadline = shortDeadline
	}
	if h.task != nil {
		h.task(&task)
	}
	began := time.Now()
	r, err := copyOnce(t, task)
	t.Logf("after %v: %d of %d bytes, %q: %v", time.Since(began).Round(time.Millisecond), r.Done(), r.ToTransfer,
		job.KindOf(err), err)
	blameless(t, good)
	h.judge(t, r, err)
	if err == nil && !h.blind {
		holds(t, dst.disk, want)
	}
	holds(t, src.disk, want)
}

const target = "target"

func (h hostile) judge(t *testing.T, r nbd.Result, err error) {
	t.Helper()
	switch {
	case err == nil && len(h.kinds) > 0 && !h.works:
		t.Errorf("the copy succeeded, want an error of one of the kinds %v", h.kinds)
	case err == nil && r.Done() != r.ToTransfer:
		t.Errorf("%d of %d bytes are done, and no error", r.Done(), r.ToTransfer)
	case err != nil && len(h.kinds) == 0:
		t.Errorf("the copy failed (%q): %v", job.KindOf(err), err)
	case err != nil && !slices.Contains(h.kinds, job.KindOf(err)):
		t.Errorf("error is of kind %q, want one of %v: %v", job.KindOf(err), h.kinds, err)
	}
}

func TestOfASizeThatIsALieNoTargetIsLeft(t *testing.T) {
	t.Parallel()
	for _, size := range []string{"0", "-1", "9223372036854775807", "9223372036854775295"} {
		t.Run(size, func(t *testing.T) {
			t.Parallel()
			bothEngines(t, func(t *testing.T, e nbd.Engine) {
				t.Helper()
				src := rehearse(t, holding(t, smallDisk()), sim.Options{}, "size="+size)
				to := filepath.Join(t.TempDir(), "target")
				_, err := copyOnce(t, nbd.Task{
					Source: src.URI(), Target: copytest.Made(to), Deadline: longDeadline,
					Reconnect: -1, Engine: e,
				})
				if k := job.KindOf(err); k != job.Invalid && k != job.NoSpace && k != job.IO && k != job.Unsupported {
					t.Errorf("error is of kind %q: %v", k, err)
				}
				if _, err := os.Stat(to); err == nil {
					t.Error("the target is left")
				}
			})
		})
	}
}

// TestVerifyFindsWhatACopyCannotSee has servers whose lies no copy can notice.
func TestVerifyFindsWhatACopyCannotSee(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name           string
		source, target string // faults
		crash          bool   // of the target, after the copy
		disk           func() []byte
		digests        job.Kind // of the error of a Verify with the copy's digests
		read           job.Kind // of the error of a Verify that reads the source again
	}{
		{
			name: "a bit that is wrong on the target", target: "flip-written,at=2M", digests: job.Corrupt,
			read: job.Corrupt,
		},
		{name: "a bit that is wrong in one read", source: "flip-read,at=1M,count=1", read: job.Corrupt},
		{name: "a source that changes", source: "flip-read,at=1M,after=1", read: job.Corrupt},
		{
			name: "a flush that is a lie, and a crash", target: "flush-lie", crash: true, digests: job.Corrupt,
			read: job.Corrupt,
		},
		{name: "a hole that is none", source: "status-hole", disk: sparseDisk},
		{name: "a target that changes", target: "flip-read,at=3K", digests: job.Corrupt, read: job.Corrupt},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			bothEngines(t, func(t *testing.T, e nbd.Engine) {
				t.Helper()
				content := denseDisk
				if tc.disk != nil {
					content = tc.disk
				}
				want := content()
				src := rehearse(t, holding(t, want), sim.Options{}, strings.Fields(tc.source)...)
				old := sim.NewVolatileMemory(int64(len(want)))
				dst := rehearse(t, old, sim.Options{}, strings.Fields(tc.target)...)
				r, err := copyOnce(t, nbd.Task{
					Source: src.URI(), Target: copytest.Onto(dst.URI()),
					Deadline: longDeadline, Engine: e,
				})
				check(t, err)
				if tc.crash {
					dst.Crash()
				}
				verify := nbd.VerifyTask{
					Source: src.URI(), Target: copytest.Onto(dst.URI()), Mode: job.VerifyFull,
					Deadline: longDeadline, Engine: e,
				}
				_, err = copytest.Verify(bounded(t), verify, &nbd.Meter{})
				if tc.disk == nil { // both believe the block status
					wantKind(t, err, tc.read)
				}
				verify.Digests = r.Digests
				_, err = copytest.Verify(bounded(t), verify, &nbd.Meter{})
				if tc.disk == nil {
					wantKind(t, err, tc.digests)
				}
				blameless(t, src, dst)
			})
		})
	}
}

// TestWhatACopyCallsDoneSurvivesACrash crashes the target again and again during a copy, and once after it.
func TestWhatACopyCallsDoneSurvivesACrash(t *testing.T) {
	t.Parallel()
	want := disk(24*mib+512, mixed)
	for _, without := range []sim.Capabilities{0, sim.CanZero, sim.CanMultiConn, sim.CanStructured | sim.CanFUA} {
		t.Run("without "+without.String(), func(t *testing.T) {
			t.Parallel()
			bothEngines(t, func(t *testing.T, e nbd.Engine) {
				t.Helper()
				src := rehearse(t, holding(t, want), sim.Options{}, "late=3ms,op=read")
				old := sim.NewVolatileMemory(int64(len(want)))
				pollute(t, old)
				check(t, old.Flush())
				dst := rehearse(t, old, sim.Options{Without: without})
				task := nbd.Task{
					Source: src.URI(), Target: copytest.Onto(dst.URI()), Deadline: longDeadline,
					Reconnect:   longDeadline,
					RequestSize: 64 * kib, Engine: e,
					Checkpoint: filepath.Join(t.TempDir(), "checkpoint"), Identity: "x",
					CheckpointEvery: 20 * time.Millisecond,
				}
				crashed(t, task, dst, func(c job.Counters) int64 { return c.Done() / (3 * mib) })
				holds(t, old, want)
				blameless(t, src, dst)
			})
		})
	}
}

// crashed copies, crashes the target after each of the first steps of the copy, and once after the end. It returns the
// number of crashes before the end.
func crashed(t *testing.T, task nbd.Task, dst rehearsed, steps func(job.Counters) int64) (crashes int64) {
	t.Helper()
	const most = 6
	var m nbd.Meter
	ended := make(chan error, 1)
	go func() {
		_, err := copytest.Copy(bounded(t), task, &m)
		ended <- err
	}()
	for ; crashes < most; crashes++ {
		await(t, "the copy goes on", func() bool { return len(ended) > 0 || steps(m.Counters()) > crashes })
		if len(ended) > 0 {
			break
		}
		dst.Crash()
	}
	check(t, <-ended)
	dst.Crash()
	return crashes
}

// TestAfterACrashTheNextCopyGoesOn is the same without reconnecting: each crash ends a copy, and the next copy begins
// at its checkpoint.
func TestAfterACrashTheNextCopyGoesOn(t *testing.T) {
	t.Parallel()
	want := disk(16*mib+512, mixed)
	bothEngines(t, func(t *testing.T, e nbd.Engine) {
		t.Helper()
		src := rehearse(t, holding(t, want), sim.Options{}, "late=3ms,op=read")
		old := sim.NewVolatileMemory(int64(len(want)))
		pollute(t, old)
		check(t, old.Flush())
		dst := rehearse(t, old, sim.Options{})
		task := nbd.Task{
			Source: src.URI(), Target: copytest.Onto(dst.URI()), Deadline: longDeadline, RequestSize: 64 * kib,
			Engine:     e,
			Checkpoint: filepath.Join(t.TempDir(), "checkpoint"), Identity: "x", CheckpointEvery: 10 * time.Millisecond,
		}
		for range 5 {
			began := dst.State().Written + dst.State().Zeroed
			_, err := while(t, bounded(t), task, func(job.Counters) bool {
				st := dst.State()
				return st.Written+st.Zeroed >= began+2*mib
			}, dst.Crash)
			if err != nil {
				wantKind(t, err, job.Unavailable)
			}
		}
		task.Reconnect = 5 * time.Second
		copied(t, task)
		dst.Crash()
		holds(t, old, want)
		blameless(t, src, dst)
	})
}
