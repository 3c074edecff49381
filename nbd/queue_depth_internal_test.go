package nbd

import (
	"testing"
	"time"
)

// server is a source for tests of the queue depth.
type server struct {
	latency   time.Duration // of a read
	quick     time.Duration // of each eighth read of a burst instead; 0 for no such reads
	perRead   float64       // bytes a second of one read; 0 for no limit
	perThread float64       // bytes a second on each connection
	most      float64       // bytes a second in all
	suits     int64         // with more bytes in flight the server moves a quarter of most; 0 for no limit
	busy      bool          // and so is the machine
}

// alone is how long a read takes while no other is in flight.
func (s server) alone(size int64) time.Duration {
	if s.perRead == 0 {
		return s.latency
	}
	return s.latency + time.Duration(float64(size)/s.perRead*float64(time.Second))
}

// play feeds a queue depth with a server's answers for a time.
func (s server) play(q *queueDepth, d time.Duration) {
	end := q.windowSince.Add(d)
	first := s.alone(probeSize) + time.Duration(probeSize/min(s.most, s.perThread)*float64(time.Second))
	now := q.windowSince.Add(first)
	for range probes {
		q.observe(probeSize, first, now)
	}
	for now.Before(end) || q.trial { // a trial is not the end state
		threads, size := q.threads.Load(), q.plan.request
		inFlight := max(size, min(q.bytes.Load(), q.requests.Load()*size)) * threads
		most := min(s.most, s.perThread*float64(threads))
		if s.suits > 0 && inFlight > s.suits {
			most /= 4
		}
		took := max(s.alone(size), time.Duration(float64(inFlight)/most*float64(time.Second)))
		for i := range inFlight / size {
			now = now.Add(took / time.Duration(inFlight/size))
			if s.quick > 0 && i%8 == 7 {
				q.observe(size, s.quick, now)
				continue
			}
			q.observe(size, took, now)
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
	const endless, ms = 1e12, time.Millisecond
	tests := []struct {
		name string
		server
		threads int64
		bytes   int64
	}{
		{"near and fast", server{latency: ms / 10, perThread: endless, most: 2e9}, 2, near.bytes},
		{"far and fast", server{latency: 50 * ms, perThread: endless, most: 4e9}, 4, deeper.bytes},
		{
			"far, and short of memory",
			server{latency: 50 * ms, perThread: endless, most: 4e9, suits: 100 * mib},
			4, deep.bytes,
		},
		{"very far and fast", server{latency: 200 * ms, perThread: endless, most: 4e9}, 4, far.bytes},
		{"far, but not so fast", server{latency: 50 * ms, perThread: endless, most: 600e6}, 4, deep.bytes},
		{
			"far, from a busy machine",
			server{latency: 50 * ms, perThread: endless, most: 4e9, busy: true},
			4, deeper.bytes,
		},
		{"in the same region", server{latency: 5 * ms, perThread: endless, most: 4e9}, 4, middle.bytes},
		{
			"half that far, and more than the distance allows is not there",
			server{latency: 5 * ms / 2, perThread: endless, most: 800e6},
			2, near.bytes,
		},
		{
			"half that far, and each connection slow",
			server{latency: 5 * ms / 2, perThread: 400e6, most: 1.5e9},
			4, wide.bytes,
		},
		{
			"half that far, and slow with each read",
			server{latency: 5 * ms / 2, perRead: 100e6, perThread: endless, most: 4e9},
			4, middle.bytes,
		},
		{"near and slow", server{latency: ms, perThread: endless, most: 50e6}, 2, near.bytes},
		{"near, and each connection slow", server{latency: ms, perThread: 50e6, most: endless}, 4, wide.bytes},
		{
			"busy machine",
			server{latency: 8 * ms, quick: 3 * ms / 10, perThread: endless, most: 400e6, busy: true},
			2, near.bytes,
		},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			q := newQueueDepth([]depth{near, wide, middle, deep, deeper, far}, &commons{},
				&planner{request: near.size}, time.Unix(1, 0), func(e depth, d time.Duration) {
					t.Log(e, d)
				})
			q.busy = func() bool { return tc.busy }
			tc.play(q, 20*time.Second)
			if threads, bytes := q.threads.Load(), q.bytes.Load(); threads != tc.threads || bytes != tc.bytes {
				t.Errorf("%d threads with %d bytes each, want %d with %d", threads, bytes, tc.threads, tc.bytes)
			}
		})
	}
}

// The machine is busy only while the copy starts.
func TestAFarServerIsSeenAsSuchSoonAfterTheStart(t *testing.T) {
	const mib = 1 << 20
	near := depth{threads: 1, requests: 32, bytes: 4 * mib, size: mib}
	wide, deep := near, depth{threads: 6, requests: 32, bytes: 12 * mib, size: mib, deep: true}
	wide.threads = 6
	deeper, far := deep, deep
	deeper.bytes *= 2
	far.bytes *= 4
	looked := 0
	q := newQueueDepth([]depth{near, wide, deep, deeper, far}, &commons{}, &planner{request: near.size},
		time.Unix(1, 0), func(e depth, d time.Duration) {
			t.Log(e, d)
		})
	q.busy = func() bool { looked++; return looked < 4 }
	server{latency: 50 * time.Millisecond, perThread: 1e12, most: 1e9}.play(q, 400*time.Millisecond)
	if threads, bytes := q.threads.Load(), q.bytes.Load(); threads != int64(deep.threads) || bytes != deep.bytes {
		t.Errorf("%d threads with %d bytes each after 0.4 s, want %d with %d", threads, bytes, deep.threads, deep.bytes)
	}
}

// A server that is slow at the beginning looks far. Soon it is treated as near.
func TestANearServerIsSeenAsSuchSoonAfterASlowStart(t *testing.T) {
	const mib, ms = 1 << 20, time.Millisecond
	near := depth{threads: 2, requests: 32, bytes: 2 * mib, size: mib}
	wide, deep := near, depth{threads: 6, requests: 32, bytes: 12 * mib, size: mib, deep: true}
	wide.threads = 6
	for _, tc := range []struct {
		name    string
		then    server
		threads int
	}{
		{"near and fast", server{latency: ms / 10, perThread: 1e12, most: 2e9}, near.threads},
		{"near and busy", server{latency: 5 * ms, quick: ms, perThread: 1e12, most: 2e8}, near.threads},
		{"near, and each connection slow", server{latency: ms, perThread: 1e8, most: 1e12}, wide.threads},
	} {
		t.Run(tc.name, func(t *testing.T) {
			q := newQueueDepth([]depth{near, wide, deep}, &commons{}, &planner{request: near.size}, time.Unix(1, 0),
				func(e depth, d time.Duration) {
					t.Log(e, d)
				})
			q.busy = func() bool { return false }
			server{latency: 5 * time.Millisecond, perThread: 1e12, most: 2e9}.play(q, 70*time.Millisecond)
			if threads, bytes := q.threads.Load(), q.bytes.Load(); threads != int64(deep.threads) ||
				bytes != deep.bytes {
				t.Errorf("%d threads with %d bytes each at first, want %d with %d", threads, bytes, deep.threads,
					deep.bytes)
			}
			tc.then.play(q, 300*time.Millisecond)
			if threads, bytes := q.threads.Load(), q.bytes.Load(); threads != int64(tc.threads) || bytes != near.bytes {
				t.Errorf("%d threads with %d bytes each after that, want %d with %d", threads, bytes, tc.threads,
					near.bytes)
			}
		})
	}
}

// With a server as target, each side must have work while the other works.
func TestTwiceAsMuchIsInFlightWhereAServerIsWrittenTo(t *testing.T) {
	const mib = 1 << 20
	near := depth{threads: 2, requests: 32, bytes: 2 * mib, size: mib, relays: true}
	far := depth{threads: 4, requests: 32, bytes: 64 * mib, size: 2 * mib, deep: true}
	plan := &planner{block: 4096, request: near.size}
	q := newQueueDepth([]depth{near, far}, &commons{}, plan, time.Unix(1, 0), func(depth, time.Duration) {})
	q.use(0)
	if bytes, relayed := q.bytes.Load(), q.relayed.Load(); bytes != near.bytes || relayed != 2*near.bytes ||
		!plan.halves {
		t.Errorf("%d bytes in flight, %d where they are written, in halves: %v", bytes, relayed, plan.halves)
	}
	q.use(1)
	if bytes, relayed := q.bytes.Load(), q.relayed.Load(); bytes != far.bytes || relayed != far.bytes || plan.halves {
		t.Errorf("far: %d bytes in flight, %d where they are written, in halves: %v", bytes, relayed, plan.halves)
	}
}

// While other copies run, a copy has less in flight than alone, and as much again once they have ended.
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
		t.Errorf("a fixed depth became %+v", got)
	}

	all := &commons{}
	defer all.join()()
	all.copies.Add(1000)
	changes := 0
	q := newQueueDepth([]depth{near}, all, &planner{request: near.size}, time.Unix(1, 0),
		func(depth, time.Duration) {
			changes++
		})
	quick := server{latency: 100 * time.Microsecond, perThread: 1e12, most: 2e9}
	quick.play(q, 100*time.Millisecond)
	if threads, bytes := q.threads.Load(), q.bytes.Load(); threads != 1 || bytes >= near.bytes {
		t.Errorf("one of many copies has %d threads with %d bytes", threads, bytes)
	}
	all.copies.Add(-1000)
	quick.play(q, 100*time.Millisecond)
	if threads, bytes := q.threads.Load(), q.bytes.Load(); threads != 2 || bytes != near.bytes || changes != 1 {
		t.Errorf("alone again it has %d threads with %d bytes, after %d changes", threads, bytes, changes)
	}
}

// However many copies run, each has more than one connection. A copy alone has as many as pay off.
func TestCopiesAtTheSameTimeShareOutTheConnections(t *testing.T) {
	var all commons
	for copies, want := range map[int64]int{0: 6, 1: 6, 2: 6, 3: 5, 4: 4, 5: 3, 8: 2, 100: 2} {
		all.copies.Store(copies)
		if got := all.connections(); got != want {
			t.Errorf("one of %d copies has %d connections, want %d", copies, got, want)
		}
	}
}

// A copy from server to server does not gather its chunks on one connection: one thread would read and write them all.
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
		src := &device{kind: tc.src, maxRequest: farRequestSize}
		e := &engine{block: 1, src: src, dst: &device{kind: tc.dst, maxRequest: farRequestSize}}
		e.size(tc.want, 2)
		if e.near.gathers != tc.gathers {
			t.Errorf("from %v to %v with %+v: gathers %v", tc.src, tc.dst, tc.want, e.near.gathers)
		}
	}
}

// A chunk is read while another is written: each connection has at least two in flight.
func TestAChunkIsReadWhileAnotherIsWritten(t *testing.T) {
	for _, n := range []int{1, 2, defaultConnections} {
		for _, dst := range []Kind{File, Block, NBD} {
			src := &device{kind: NBD, maxRequest: farRequestSize}
			e := &engine{block: 1, src: src, dst: &device{kind: dst, maxRequest: farRequestSize}}
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

// Where the threads would take all processors, small chunks come over one connection, and large ones over all again.
func TestManySmallChunksComeOverOneConnection(t *testing.T) {
	const mib, kib = 1 << 20, 1 << 10
	near := depth{threads: 2, requests: 32, bytes: 2 * mib, size: mib, shares: true, gathers: true}
	now := time.Unix(1, 0)
	come := func(q *queueDepth, size int64) {
		for range 200 {
			now = now.Add(time.Millisecond)
			q.observe(size, 100*time.Microsecond, now)
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
		{"fixed by the task", 2, 1, true, []int64{64 * kib}, 2, 2 * mib},
	} {
		t.Run(tc.name, func(t *testing.T) {
			e, all := near, &commons{}
			e.gathers = !tc.fixed
			all.copies.Store(tc.copies)
			q := newQueueDepth([]depth{e}, all, &planner{request: near.size}, now, func(depth, time.Duration) {})
			q.processors = tc.processors
			for _, size := range tc.sizes {
				come(q, size)
			}
			if threads, bytes := q.threads.Load(), q.bytes.Load(); threads != tc.threads || bytes != tc.bytes {
				t.Errorf("%d threads with %d bytes on each, want %d with %d", threads, bytes, tc.threads, tc.bytes)
			}
		})
	}
}
