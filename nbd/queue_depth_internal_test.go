package nbd

import (
	"testing"
	"time"
)

// server is a source that needs latency for each read, but for one in fifty, and moves at most so many bytes a second
// for each read, unless that is 0, on each connection, and in all; a quarter of that if it has more bytes in flight
// than suits it.
type server struct {
	latency, quick           time.Duration
	perRead, perThread, most float64
	suits                    int64
	busy                     bool // and so is the machine
}

// alone is how long a read takes beside which there is no other.
func (s server) alone(size int64) time.Duration {
	if s.perRead == 0 {
		return s.latency
	}
	return s.latency + time.Duration(float64(size)/s.perRead*float64(time.Second))
}

// play lets a queueDepth see a server's answers.
func (s server) play(p *queueDepth, d time.Duration) {
	end := p.windowSince.Add(d)
	first := s.alone(probeSize) + time.Duration(probeSize/min(s.most, s.perThread)*float64(time.Second))
	now := p.windowSince.Add(first)
	for range probes {
		p.observe(probeSize, first, now)
	}
	for now.Before(end) || p.trial { // what is just tried is no end
		threads, size := p.threads.Load(), p.plan.request
		inFlight := max(size, min(p.bytes.Load(), p.requests.Load()*size)) * threads
		most := min(s.most, s.perThread*float64(threads))
		if s.suits > 0 && inFlight > s.suits {
			most /= 4
		}
		took := max(s.alone(size), time.Duration(float64(inFlight)/most*float64(time.Second)))
		for i := range inFlight / size {
			now = now.Add(took / time.Duration(inFlight/size))
			if s.quick > 0 && i%8 == 7 {
				p.observe(size, s.quick, now)
				continue
			}
			p.observe(size, took, now)
		}
	}
}

func TestMoreIsInFlightOnlyWhereThatHelps(t *testing.T) {
	const mib = 1 << 20
	near := depth{threads: 2, requests: 32, bytes: 2 * mib, size: mib / 2}
	wide := near
	wide.threads = 4
	middle := depth{threads: 4, requests: 32, bytes: 8 * mib, size: 2 * mib, deep: true}
	deep := depth{threads: 4, requests: 32, bytes: 16 * mib, size: mib, deep: true}
	deeper := depth{threads: 4, requests: 32, bytes: 32 * mib, size: 2 * mib, deep: true}
	far := depth{threads: 4, requests: 32, bytes: 64 * mib, size: 2 * mib, deep: true}
	const endless = 1e12
	tests := []struct {
		name string
		server
		threads int64
		bytes   int64
	}{
		{"near and fast", server{latency: 100 * time.Microsecond, perThread: endless, most: 2e9}, 2, near.bytes},
		{"far and fast", server{latency: 50 * time.Millisecond, perThread: endless, most: 4e9}, 4, deeper.bytes},
		{"far, and short of memory", server{latency: 50 * time.Millisecond, perThread: endless, most: 4e9,
			suits: 100 * mib}, 4, deep.bytes},
		{"very far and fast", server{latency: 200 * time.Millisecond, perThread: endless, most: 4e9}, 4, far.bytes},
		{"far, but not so fast", server{latency: 50 * time.Millisecond, perThread: endless, most: 600e6}, 4,
			deep.bytes},
		{"far, from a busy machine", server{latency: 50 * time.Millisecond, perThread: endless, most: 4e9, busy: true},
			4, deeper.bytes},
		{"in the same region", server{latency: 5 * time.Millisecond, perThread: endless, most: 4e9}, 4, middle.bytes},
		{"half that far, and more than the distance allows is not there",
			server{latency: 2500 * time.Microsecond, perThread: endless, most: 800e6}, 2, near.bytes},
		{"half that far, and each connection slow",
			server{latency: 2500 * time.Microsecond, perThread: 400e6, most: 1.5e9}, 4, wide.bytes},
		{"half that far, and slow with each read",
			server{latency: 2500 * time.Microsecond, perRead: 100e6, perThread: endless, most: 4e9}, 4, middle.bytes},
		{"near and slow", server{latency: time.Millisecond, perThread: endless, most: 50e6}, 2, near.bytes},
		{"near, and each connection slow", server{latency: time.Millisecond, perThread: 50e6, most: endless}, 4,
			wide.bytes},
		{"busy machine", server{latency: 8 * time.Millisecond, quick: 300 * time.Microsecond, perThread: endless,
			most: 400e6, busy: true}, 2, near.bytes},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			p := newQueueDepth([]depth{near, wide, middle, deep, deeper, far}, &commons{},
				&planner{request: near.size}, time.Unix(1, 0), func(e depth, d time.Duration) {
					t.Log(e, d)
				})
			p.busy = func() bool { return tc.busy }
			tc.play(p, 20*time.Second)
			if threads, bytes := p.threads.Load(), p.bytes.Load(); threads != tc.threads || bytes != tc.bytes {
				t.Errorf("%d threads with %d bytes each, want %d with %d", threads, bytes, tc.threads, tc.bytes)
			}
		})
	}
}

// A machine is busy just when a copy is started on it, and never again.
func TestAFarServerIsSeenAsSuchSoonAfterTheStart(t *testing.T) {
	const mib = 1 << 20
	near := depth{threads: 1, requests: 32, bytes: 4 * mib, size: mib}
	wide, deep := near, depth{threads: 6, requests: 32, bytes: 12 * mib, size: mib, deep: true}
	wide.threads = 6
	deeper, far := deep, deep
	deeper.bytes *= 2
	far.bytes *= 4
	looked := 0
	p := newQueueDepth([]depth{near, wide, deep, deeper, far}, &commons{}, &planner{request: near.size},
		time.Unix(1, 0), func(e depth, d time.Duration) {
			t.Log(e, d)
		})
	p.busy = func() bool { looked++; return looked < 4 }
	server{latency: 50 * time.Millisecond, perThread: 1e12, most: 1e9}.play(p, 400*time.Millisecond)
	if threads, bytes := p.threads.Load(), p.bytes.Load(); threads != int64(deep.threads) || bytes != deep.bytes {
		t.Errorf("%d threads with %d bytes each after 0.4 s, want %d with %d", threads, bytes, deep.threads, deep.bytes)
	}
}

// A server that is slow just at the beginning looks far. Soon it is treated as what it is.
func TestANearServerIsSeenAsSuchSoonAfterASlowStart(t *testing.T) {
	const mib = 1 << 20
	near := depth{threads: 2, requests: 32, bytes: 2 * mib, size: mib}
	wide, deep := near, depth{threads: 6, requests: 32, bytes: 12 * mib, size: mib, deep: true}
	wide.threads = 6
	for _, tc := range []struct {
		name    string
		then    server
		threads int
	}{
		{"near and fast", server{latency: 100 * time.Microsecond, perThread: 1e12, most: 2e9}, near.threads},
		{"near and busy", server{latency: 5 * time.Millisecond, quick: time.Millisecond, perThread: 1e12, most: 2e8},
			near.threads},
		{"near, and each connection slow", server{latency: time.Millisecond, perThread: 1e8, most: 1e12}, wide.threads},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := newQueueDepth([]depth{near, wide, deep}, &commons{}, &planner{request: near.size}, time.Unix(1, 0),
				func(e depth, d time.Duration) {
					t.Log(e, d)
				})
			p.busy = func() bool { return false }
			server{latency: 5 * time.Millisecond, perThread: 1e12, most: 2e9}.play(p, 70*time.Millisecond)
			if threads, bytes := p.threads.Load(), p.bytes.Load(); threads != int64(deep.threads) ||
				bytes != deep.bytes {
				t.Errorf("%d threads with %d bytes each at first, want %d with %d", threads, bytes, deep.threads,
					deep.bytes)
			}
			tc.then.play(p, 300*time.Millisecond)
			if threads, bytes := p.threads.Load(), p.bytes.Load(); threads != int64(tc.threads) || bytes != near.bytes {
				t.Errorf("%d threads with %d bytes each after that, want %d with %d", threads, bytes, tc.threads,
					near.bytes)
			}
		})
	}
}

// Where a server is written to each side is to have something to do while the other has.
func TestTwiceAsMuchIsInFlightWhereAServerIsWrittenTo(t *testing.T) {
	const mib = 1 << 20
	near := depth{threads: 2, requests: 32, bytes: 2 * mib, size: mib, relays: true}
	far := depth{threads: 4, requests: 32, bytes: 64 * mib, size: 2 * mib, deep: true}
	plan := &planner{block: 4096, request: near.size}
	p := newQueueDepth([]depth{near, far}, &commons{}, plan, time.Unix(1, 0), func(depth, time.Duration) {})
	p.use(0)
	if bytes, relayed := p.bytes.Load(), p.relayed.Load(); bytes != near.bytes || relayed != 2*near.bytes ||
		!plan.halves {
		t.Errorf("%d bytes in flight, %d where they are written, in halves: %v", bytes, relayed, plan.halves)
	}
	p.use(1)
	if bytes, relayed := p.bytes.Load(), p.relayed.Load(); bytes != far.bytes || relayed != far.bytes || plan.halves {
		t.Errorf("far: %d bytes in flight, %d where they are written, in halves: %v", bytes, relayed, plan.halves)
	}
}

// While others run a copy does less than alone, and as much again as soon as they have ended.
func TestCopiesAtTheSameTimeShareTheMachine(t *testing.T) {
	const mib = 1 << 20
	near := depth{threads: 2, requests: 32, bytes: 2 * mib, size: mib, shares: true}
	for _, tc := range []struct {
		copies, processors int
		threads            int
		bytes              int64
	}{
		{1, 1, 2, 2 * mib},
		{1, 2, 2, 2 * mib},
		{2, 2, 1, 2 * mib},
		{8, 2, 1, mib / 2},
		{8, 32, 2, 2 * mib},
	} {
		if got := near.sharedBy(tc.copies, tc.processors); got.threads != tc.threads || got.bytes != tc.bytes {
			t.Errorf("one of %d copies on %d processors has %d threads with %d bytes, want %d with %d", tc.copies,
				tc.processors, got.threads, got.bytes, tc.threads, tc.bytes)
		}
	}
	fixed := near
	fixed.shares = false
	if got := fixed.sharedBy(8, 2); got != fixed {
		t.Errorf("what was asked for became %+v", got)
	}

	all := &commons{}
	defer all.join()()
	all.copies.Add(1000)
	told := 0
	p := newQueueDepth([]depth{near}, all, &planner{request: near.size}, time.Unix(1, 0),
		func(depth, time.Duration) {
			told++
		})
	quick := server{latency: 100 * time.Microsecond, perThread: 1e12, most: 2e9}
	quick.play(p, 100*time.Millisecond)
	if threads, bytes := p.threads.Load(), p.bytes.Load(); threads != 1 || bytes >= near.bytes {
		t.Errorf("one of many copies has %d threads with %d bytes", threads, bytes)
	}
	all.copies.Add(-1000)
	quick.play(p, 100*time.Millisecond)
	if threads, bytes := p.threads.Load(), p.bytes.Load(); threads != 2 || bytes != near.bytes || told != 1 {
		t.Errorf("alone again it has %d threads with %d bytes, and was told %d times", threads, bytes, told)
	}
}

// However many copies run, each has more than one connection, and one alone has as many as pay off.
func TestCopiesAtTheSameTimeShareOutTheConnections(t *testing.T) {
	var all commons
	for copies, want := range map[int64]int{0: 6, 1: 6, 2: 6, 3: 5, 4: 4, 5: 3, 8: 2, 100: 2} {
		all.copies.Store(copies)
		if got := all.connections(); got != want {
			t.Errorf("one of %d copies has %d connections, want %d", copies, got, want)
		}
	}
}

// What is read from a server over one connection, and written to another, would have one processor for all that.
func TestOnlyWhatIsNotWrittenToAServerIsGathered(t *testing.T) {
	for _, tc := range []struct {
		src, dst Kind
		want     settings
		gathers  bool
	}{
		{NBD, Null, settings{}, true},
		{NBD, File, settings{}, true},
		{NBD, Block, settings{}, true},
		{NBD, NBD, settings{}, false},
		{File, Null, settings{}, false},
		{NBD, Null, settings{connections: 2}, false},
		{NBD, Null, settings{requests: 2}, false},
	} {
		e := &engine{block: 1, src: &device{kind: tc.src, maxRequest: farRequestSize},
			dst: &device{kind: tc.dst, maxRequest: farRequestSize}}
		e.size(tc.want, 2)
		if e.near.gathers != tc.gathers {
			t.Errorf("from %v to %v with %+v: gathers %v", tc.src, tc.dst, tc.want, e.near.gathers)
		}
	}
}

// Reading for a target that takes time goes on while it takes what was read before: on no connection a chunk is alone.
func TestAChunkIsReadWhileAnotherIsWritten(t *testing.T) {
	for _, n := range []int{1, 2, defaultConnections} {
		for _, dst := range []Kind{File, Block, NBD} {
			e := &engine{block: 1, src: &device{kind: NBD, maxRequest: farRequestSize},
				dst: &device{kind: dst, maxRequest: farRequestSize}}
			e.size(settings{}, n)
			size, bytes := e.near.size, e.near.bytes
			if e.near.relays {
				size, bytes = size/2, 2*bytes
			}
			if bytes < 2*size {
				t.Errorf("to %v over %d connections: %d bytes in flight on each, in chunks of %d", dst, n, bytes, size)
			}
		}
	}
}

// Where the threads would have all processors, many small chunks come over one connection, and large ones over all
// again.
func TestManySmallChunksComeOverOneConnection(t *testing.T) {
	const mib, kib = 1 << 20, 1 << 10
	near := depth{threads: 2, requests: 32, bytes: 2 * mib, size: mib, shares: true, gathers: true}
	now := time.Unix(1, 0)
	come := func(p *queueDepth, size int64) {
		for range 200 {
			now = now.Add(time.Millisecond)
			p.observe(size, 100*time.Microsecond, now)
		}
	}
	for _, tc := range []struct {
		name       string
		processors int
		copies     int64
		fixed      bool
		sizes      []int64
		threads    int64
		bytes      int64
	}{
		{"small", 2, 1, false, []int64{64 * kib}, 1, 4 * mib},
		{"large", 2, 1, false, []int64{mib}, 2, 2 * mib},
		{"large after small", 2, 1, false, []int64{64 * kib, mib}, 2, 2 * mib},
		{"between", 2, 1, false, []int64{192 * kib}, 2, 2 * mib},
		{"between after small", 2, 1, false, []int64{64 * kib, 192 * kib}, 1, 4 * mib},
		{"more processors", 4, 1, false, []int64{64 * kib}, 2, 2 * mib},
		{"one processor", 1, 1, false, []int64{64 * kib}, 1, 4 * mib},
		{"two copies", 2, 2, false, []int64{64 * kib}, 1, 2 * mib},
		{"as somebody said", 2, 1, true, []int64{64 * kib}, 2, 2 * mib},
	} {
		t.Run(tc.name, func(t *testing.T) {
			e, all := near, &commons{}
			e.gathers = !tc.fixed
			all.copies.Store(tc.copies)
			p := newQueueDepth([]depth{e}, all, &planner{request: near.size}, now, func(depth, time.Duration) {})
			p.processors = tc.processors
			for _, size := range tc.sizes {
				come(p, size)
			}
			if threads, bytes := p.threads.Load(), p.bytes.Load(); threads != tc.threads || bytes != tc.bytes {
				t.Errorf("%d threads with %d bytes on each, want %d with %d", threads, bytes, tc.threads, tc.bytes)
			}
		})
	}
}
