package crash_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/nbd"
	"github.com/vmferry/vmferry/nbd/sim"
	"github.com/vmferry/vmferry/volumes/copytest"
)

// serveDisk serves a disk by the rehearsal NBD server. It fails the test if a client violates the protocol.
func serveDisk(tb testing.TB, disk sim.Backend, opt sim.Options) *sim.Server {
	tb.Helper()
	opt.Backend, opt.Listen = disk, filepath.Join(shortDir(tb), "s")
	s, err := sim.Start(tb.Context(), opt)
	check(tb, err)
	tb.Cleanup(func() {
		if v := s.State().Violations; len(v) > 0 {
			tb.Errorf("violations of the protocol: %q", v)
		}
		check(tb, s.Close())
	})
	return s
}

// inMemory is a disk with the bytes of a file.
func inMemory(tb testing.TB, path string) *sim.Memory {
	tb.Helper()
	b, err := os.ReadFile(path)
	check(tb, err)
	m := sim.NewMemory(int64(len(b)))
	for _, e := range allocated(tb, path) {
		_, err := m.WriteAt(b[e.Offset:e.End()], e.Offset)
		check(tb, err)
	}
	return m
}

// garbageDisk is a disk with a cache that holds durable garbage.
func garbageDisk(tb testing.TB, size int64) *sim.Memory {
	tb.Helper()
	m := sim.NewVolatileMemory(size)
	block := bytes.Repeat([]byte{0xAA}, 4*kib)
	for at := int64(0); at+4*kib <= size; at += 64 * kib {
		_, err := m.WriteAt(block, at)
		check(tb, err)
	}
	check(tb, m.Flush())
	return m
}

// mustHold checks that a disk holds the bytes of a file after it has lost what was not flushed.
func mustHold(tb testing.TB, disk *sim.Memory, path string) {
	tb.Helper()
	disk.Crash()
	want, err := os.ReadFile(path)
	check(tb, err)
	got := make([]byte, len(want))
	_, err = disk.ReadAt(got, 0)
	check(tb, err)
	if bytes.Equal(got, want) {
		return
	}
	n := 0
	for i := range want {
		if got[i] != want[i] {
			n++
		}
	}
	tb.Errorf("%d bytes differ", n)
}

func TestRequestsWithoutAnAnswerAreSentAgain(t *testing.T) {
	t.Parallel()
	needFlags(t, "--deadline", "--reconnect")
	const size = 16 * mib
	src := source(t, size, 60)
	every := func(kind sim.FaultKind, op sim.Command) []sim.Fault {
		return []sim.Fault{{Kind: kind, Op: op, Every: 50}}
	}
	tests := map[string]struct{ source, target []sim.Fault }{
		"the source forgets every 50th":         {every(sim.FaultIgnore, sim.Read), nil},
		"the target forgets every 50th":         {nil, every(sim.FaultIgnore, sim.Write)},
		"the source hangs up at every 50th":     {every(sim.FaultClose, sim.Read), nil},
		"the target hangs up at every 50th":     {nil, every(sim.FaultClose, sim.Write)},
		"both hang up at every 50th":            {every(sim.FaultClose, ""), every(sim.FaultClose, "")},
		"the source hangs up in half an answer": {every(sim.FaultHalf, sim.Read), nil},
		"the source fails at every 50th": {
			[]sim.Fault{{Kind: sim.FaultError, Op: sim.Read, Every: 50, Errno: 5}}, nil,
		},
		"the target fails at every 50th": {
			nil, []sim.Fault{{Kind: sim.FaultError, Op: sim.Write, Every: 50, Errno: 5}},
		},
		"the target can't zero every 5th": {nil, []sim.Fault{{Kind: sim.FaultError, Op: sim.Zero, Every: 5, Errno: 5}}},
		"the target can't zero at all":    {nil, []sim.Fault{{Kind: sim.FaultError, Op: sim.Zero, Errno: 5}}},
		"the source answers in chunks":    {[]sim.Fault{{Kind: sim.FaultShuffle, Every: 3}}, nil},
		"the second flush hangs up": {
			nil, []sim.Fault{{Kind: sim.FaultClose, Op: sim.Flush, Every: 2, Count: 1}},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			from := serveDisk(t, inMemory(t, src), sim.Options{ReadOnly: true, Faults: tc.source})
			disk := garbageDisk(t, size)
			to := serveDisk(t, disk, sim.Options{Faults: tc.target})
			args := []string{
				from.URI(), to.URI(), "--checkpoint", filepath.Join(t.TempDir(), "checkpoint"),
				"--deadline", "1s", "--reconnect", "4s", "--request-size", "64KiB", "--bandwidth", "8MiB",
			}
			if o := run(t, args...); o.code != 0 && tc.target == nil {
				t.Fatalf("exit %d: %s", o.code, o.err)
			} else if o.code != 0 { // a target that fails before the first flush may end the copy
				o.wantFailed(t, job.Unavailable, job.Timeout)
				t.Logf("given up: %s", o.report.Error.Message)
				check(t, to.SetFaults())
				mustRun(t, args...)
			}
			mustHold(t, disk, src)
		})
	}
}

func TestACacheThatIsLostAgainAndAgainLosesNothing(t *testing.T) {
	t.Parallel()
	needFlags(t, "--reconnect")
	const size = 48 * mib
	seed := number(t, "SEED", time.Now().UnixNano()%1e6)
	say("crash: cache seed=%d", seed)
	src := source(t, size, 61)
	var crashes atomic.Int64
	rounds := max(2, number(t, "ROUNDS", 2)/5)
	t.Cleanup(func() { say("crash: rounds=%d lost_caches=%d", rounds, crashes.Load()) })
	for i := range rounds {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			random := rand.New(rand.NewPCG(uint64(seed), uint64(i)))
			disk := garbageDisk(t, size)
			late := sim.Fault{Kind: sim.FaultLate, Op: sim.Flush, Delay: 20 * time.Millisecond}
			to := serveDisk(t, disk, sim.Options{Faults: []sim.Fault{late}})
			args := []string{
				src, to.URI(), "--reconnect", "20s", "--bandwidth", "12MiB", "--connections", fmt.Sprint(1 + 3*(i%2)),
			}
			if random.IntN(2) == 0 {
				args = append(args, "--checkpoint", filepath.Join(t.TempDir(), "checkpoint"))
			}
			c := start(t, args...)
			for n := int64(0); n < 5 && !c.over(); n++ {
				more := to.State().Written + random.Int64N(8*mib)
				flushes := to.State().Commands[sim.Flush] + int64(random.IntN(2))
				await(t, "the moment to crash has come", func() bool {
					s := to.State()
					return c.over() || s.Written >= more && s.Commands[sim.Flush] >= flushes
				})
				c.after(time.Duration(random.Int64N(int64(30 * time.Millisecond))))
				to.Crash()
				crashes.Add(1)
			}
			c.mustWait()
			mustHold(t, disk, src)
		})
	}
}

// A server may answer in parts, and to many requests at once. A thread that holds memory or a range must not keep other
// threads from ending.
func TestACopyNeverStalls(t *testing.T) {
	t.Parallel()
	const size = 32 * mib
	src, other := source(t, size, 67), garbageTarget(t, size)
	fill(t, src, 0, 16*mib)
	tests := map[string]func(ctx context.Context, from, to string, m *nbd.Meter) error{
		"to a server": func(ctx context.Context, _, to string, m *nbd.Meter) error {
			_, err := copytest.Copy(ctx, nbd.Task{Source: src, Target: copytest.Onto(to)}, m)
			return err
		},
		"from a server": func(ctx context.Context, from, _ string, m *nbd.Meter) error {
			_, err := copytest.Copy(ctx, nbd.Task{Source: from, Target: copytest.Onto(other)}, m)
			return err
		},
		"between servers": func(ctx context.Context, from, to string, m *nbd.Meter) error {
			_, err := copytest.Copy(ctx, nbd.Task{Source: from, Target: copytest.Onto(to)}, m)
			return err
		},
		"verified": func(ctx context.Context, from, _ string, m *nbd.Meter) error {
			_, err := copytest.Verify(ctx, nbd.VerifyTask{
				Source: from, Target: copytest.Onto(src),
				Mode: job.VerifyFull,
			},
				m)
			return err
		},
	}
	for name, work := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for i := range 2 {
				from := serveDisk(t, inMemory(t, src), sim.Options{ReadOnly: true})
				to := serveDisk(t, sim.NewMemory(size), sim.Options{})
				ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
				var m nbd.Meter
				err := work(ctx, from.URI(), to.URI(), &m)
				cancel()
				if err != nil {
					c := m.Counters()
					t.Fatalf("run %d: %v, with %d bytes of %d copied, %d of %d verified", i+1, err, c.Done(),
						c.ToTransfer, c.Verified, c.ToVerify)
				}
			}
		})
	}
}

// failsFirstFlush is a disk whose first flush fails and loses the bytes that it should have made durable, as Linux does
// when a disk fails. Later flushes succeed.
type failsFirstFlush struct {
	*sim.Memory
	failed atomic.Bool
}

func (g *failsFirstFlush) Flush() error {
	if g.failed.CompareAndSwap(false, true) {
		g.Crash()
		return syscall.EIO
	}
	return g.Memory.Flush()
}

func TestAFlushThatFailedIsNotBelievedTheSecondTime(t *testing.T) {
	t.Parallel()
	const size = 64 * mib
	src := source(t, size, 62)
	for name, speed := range map[string]string{"at the end": "1GiB", "on the way": "12MiB"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			disk := &failsFirstFlush{Memory: garbageDisk(t, size)}
			to := serveDisk(t, disk, sim.Options{})
			args := []string{
				src, to.URI(), "--checkpoint", filepath.Join(t.TempDir(), "checkpoint"), "--bandwidth", speed,
			}
			o := run(t, args...)
			if o.code != 0 {
				o.wantFailed(t, job.IO)
				mustRun(t, args...)
			}
			mustHold(t, disk.Memory, src)
		})
	}
}

func TestATargetThatLiesAboutFlushIsFoundOut(t *testing.T) {
	t.Parallel()
	const size = 32 * mib
	src := source(t, size, 63)
	fill(t, src, 0, 16*mib)
	lie := sim.Options{Faults: []sim.Fault{{Kind: sim.FaultFlushLie}}}
	t.Run("between copy and verification", func(t *testing.T) {
		t.Parallel()
		to := serveDisk(t, garbageDisk(t, size), lie)
		copied, err := copytest.Copy(t.Context(), nbd.Task{Source: src, Target: copytest.Onto(to.URI())}, &nbd.Meter{})
		check(t, err)
		for _, crashed := range []bool{false, true} {
			if crashed {
				to.Crash()
			}
			for _, digests := range []*nbd.Digests{nil, copied.Digests} {
				task := nbd.VerifyTask{
					Source: src, Target: copytest.Onto(to.URI()), Mode: job.VerifyFull, Digests: digests,
					Deadline: 10 * time.Second,
				}
				_, err = copytest.Verify(t.Context(), task, &nbd.Meter{})
				if (job.KindOf(err) == job.Corrupt) != crashed || !crashed && err != nil {
					t.Errorf("crashed %v, digests %v: kind %q: %v", crashed, digests != nil, job.KindOf(err), err)
				}
			}
		}
	})
	t.Run("between two runs", func(t *testing.T) {
		t.Parallel()
		to := serveDisk(t, garbageDisk(t, size), lie)
		checkpoint := halfway(t, src, to.URI())
		to.Crash()
		o := run(t, src, to.URI(), "--checkpoint", checkpoint, "--verify", "full", "--deadline", "10s")
		o.wantFailed(t, job.Corrupt)
		o.wantText(t, "does not hold what was written to it: at ")
		if o.report.Verified {
			t.Error("the report says verified")
		}
	})
}

func TestABitThatTheTargetFlipsIsFound(t *testing.T) {
	t.Parallel()
	const size = 16 * mib
	src := source(t, size, 64)
	fill(t, src, 4*mib, 8*mib)
	for i, at := range []int64{4 * mib, 5*mib + 777, 8*mib - 1} {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			fault := sim.Fault{Kind: sim.FaultFlipWritten, At: job.Extents{{Offset: at, Length: 1}}}
			to := serveDisk(t, garbageDisk(t, size), sim.Options{Faults: []sim.Fault{fault}})
			o := run(t, src, to.URI(), "--verify", "full", "--deadline", "10s")
			o.wantFailed(t, job.Corrupt)
			o.wantText(t, fmt.Sprintf("differ at %d+4096", at/4096*4096))
		})
	}
}

func TestRangesThatCannotBeWrittenAreNamedAndAllOthersCopied(t *testing.T) {
	t.Parallel()
	const size = 32 * mib
	src := source(t, size, 65)
	fill(t, src, 8*mib, 16*mib)
	injected := job.Extents{{Offset: 9 * mib, Length: 4 * kib}, {Offset: 12*mib + 512*kib, Length: 64 * kib}}
	disk := garbageDisk(t, size)
	bad := sim.Fault{Kind: sim.FaultError, Op: sim.Write, At: injected, Errno: 5}
	to := serveDisk(t, disk, sim.Options{Faults: []sim.Fault{bad}})
	checkpoint := filepath.Join(t.TempDir(), "checkpoint")
	o := run(t, src, to.URI(), "--checkpoint", checkpoint)
	o.wantFailed(t, job.IO)
	if o.report.BadRanges == nil {
		skipOrFail(t, "NOT THERE YET: copy -o json has no bad_ranges")
	}
	if bad := o.report.BadRanges; injected.Cut(bad) != nil || bad.Cut(injected) != nil {
		t.Errorf("bad ranges are %v, want %v", bad, injected)
	}
	check(t, to.SetFaults())
	o = mustRun(t, src, to.URI(), "--checkpoint", checkpoint)
	mustHold(t, disk, src)
	if o.report.BytesResumed != o.report.BytesToTransfer-injected.Sum() {
		t.Errorf("resumed %d bytes of %d", o.report.BytesResumed, o.report.BytesToTransfer)
	}
}

// sink is a disk that accepts every write and stores none.
type sink int64

func (s sink) Size() int64                             { return int64(s) }
func (sink) WriteAt(p []byte, _ int64) (int, error)    { return len(p), nil }
func (sink) ReadAt([]byte, int64) (int, error)         { return 0, errors.ErrUnsupported }
func (sink) Zero(int64, int64, bool) error             { return nil }
func (sink) Flush() error                              { return nil }
func (sink) Extents(int64, int64) (job.Extents, error) { return nil, io.ErrUnexpectedEOF }

// A kill must not cost more than mostRecopied, however slowly a target flushes.
func TestAKillInASlowFlushCostsNoMoreThanIsAllowed(t *testing.T) {
	t.Parallel()
	const size = 640 * mib
	from := nbdkit(t, "-r", "pattern", fmt.Sprint(size))
	late := sim.Fault{Kind: sim.FaultLate, Op: sim.Flush, Delay: 2 * time.Second}
	to := serveDisk(t, sink(size), sim.Options{Faults: []sim.Fault{late}})
	folder := watch(t, t.TempDir())
	args := []string{
		from.uri, to.URI(), "--bandwidth", "300MiB", "--checkpoint", filepath.Join(folder.path, "checkpoint"),
	}
	c := start(t, args...)
	log := from.tail()
	await(t, "a checkpoint is about to be recorded", func() bool {
		log.look()
		return c.over() || folder.look().made > 0
	})
	if c.over() {
		t.Fatalf("the copy has ended: %s", c.words())
	}
	c.kill()
	if cost := log.look().reads; cost > mostRecopied {
		t.Errorf("the kill cost %d bytes, %d are allowed", cost, mostRecopied)
	}
}

func TestAServerThatDoesNotKeepToTheProtocolIsNotBelieved(t *testing.T) {
	t.Parallel()
	const size = 8 * mib
	src := source(t, size, 66)
	for _, kind := range []sim.FaultKind{
		sim.FaultGarbage, sim.FaultOptionLength, sim.FaultNothing, sim.FaultCookie, sim.FaultMagic, sim.FaultTwice,
		sim.FaultOutside, sim.FaultHuge, sim.FaultOverlap, sim.FaultStatusEmpty, sim.FaultStatusZero,
		sim.FaultStatusLong, sim.FaultStatusOdd, sim.FaultStatusOther, sim.FaultStatusNone,
	} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			from := serveDisk(t, inMemory(t, src), sim.Options{ReadOnly: true, Faults: []sim.Fault{{Kind: kind}}})
			to := garbageTarget(t, size)
			task := nbd.Task{
				Source: from.URI(), Target: copytest.Onto(to), Deadline: 2 * time.Second,
				Reconnect: time.Second,
			}
			if _, err := copytest.Copy(t.Context(), task, &nbd.Meter{}); err != nil {
				t.Logf("kind %q: %v", job.KindOf(err), err)
				return
			}
			same(t, to, src) // a copy that succeeds must be right
		})
	}
}
