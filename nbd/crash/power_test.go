package crash_test

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"
)

// volatile serves a target that loses writes that were not flushed when it is killed.
func volatile(tb testing.TB, path string) *server {
	tb.Helper()
	return nbdkit(tb, "--filter=cache", "file", path, "cache=writeback")
}

// crashAt waits for a random moment to crash the target: after up to most bytes since the last crash, or in a flush
// after them.
func crashAt(c *child, to *tail, random *rand.Rand, most int64) {
	c.tb.Helper()
	n, flush := random.Int64N(most), random.IntN(2) == 0
	await(c.tb, "the moment to crash has come", func() bool {
		to.look()
		return c.over() || to.wrote >= n && (!flush || to.flushes > 0)
	})
	if random.IntN(2) == 0 {
		// in the middle of the flush, or just after it
		c.after(time.Duration(random.Int64N(int64(20 * time.Millisecond))))
	}
}

func TestATargetThatLosesWhatWasNotFlushedIsFilledByTheSameRun(t *testing.T) {
	t.Parallel()
	needFlags(t, "--reconnect")
	const size = 64 * mib
	seed := number(t, "SEED", time.Now().UnixNano()%1e6)
	say("crash: target seed=%d", seed)
	src := source(t, size, seed)
	fill(t, src, 0, 16*mib) // so that the copy lasts until after the first flush
	for i := range max(2, number(t, "ROUNDS", 2)/5) {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			random := rand.New(rand.NewPCG(uint64(seed), uint64(i)))
			to := garbageTarget(t, size)
			from, target := nbdkit(t, "-r", "--filter=rate", "file", src, "rate=72M", "burstiness=0.1"), volatile(t, to)
			args := []string{from.uri, target.uri, "--reconnect", "20s", "--connections", fmt.Sprint(1 + 3*(i%2))}
			if random.IntN(2) == 0 {
				args = append(args, "--checkpoint", filepath.Join(t.TempDir(), "checkpoint"))
			}
			c := start(t, args...)
			crashes := 0
			for ; crashes < 3; crashes++ {
				crashAt(c, target.tail(), random, 16*mib)
				if c.over() {
					break
				}
				target.again()
			}
			o := c.mustWait()
			target.kill() // bytes that were not flushed are lost
			same(t, to, src)
			if crashes == 0 {
				t.Error("the copy ended before the first crash")
			}
			t.Logf("%d crashes, %d MiB sent again, after %v", crashes, o.report.BytesResent/mib, o.took)
		})
	}
}

func TestATargetThatLosesWhatWasNotFlushedIsFilledByTheNextRun(t *testing.T) {
	t.Parallel()
	const size = 64 * mib
	seed := number(t, "SEED", time.Now().UnixNano()%1e6)
	src := source(t, size, seed)
	for i := range max(2, number(t, "ROUNDS", 2)/5) {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			random := rand.New(rand.NewPCG(uint64(seed), uint64(i)))
			to, checkpoint := garbageTarget(t, size), filepath.Join(t.TempDir(), "checkpoint")
			from, target := nbdkit(t, "-r", "--filter=rate", "file", src, "rate=96M", "burstiness=0.1"), volatile(t, to)
			args := []string{from.uri, target.uri, "--checkpoint", checkpoint}
			// without these flags the copy could wait for a minute
			both := i%2 == 1 || !hasFlags("--deadline", "--reconnect")
			if !both {
				args = append(args, "--deadline", "1s", "--reconnect", "1s")
			}
			for crashes := 0; ; crashes++ {
				c := start(t, args...)
				if crashes < 3 {
					crashAt(c, target.tail(), random, 16*mib)
					target.kill()
					if both {
						c.kill() // both lose power
					}
				}
				if o := c.wait(); o.code == 0 {
					break
				} else if o.code != 3 && !both {
					t.Fatalf("exit %d: %s", o.code, o.err)
				}
				target.again()
			}
			target.kill()
			same(t, to, src)
		})
	}
}
