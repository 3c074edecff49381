package crash_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/nbd"
	"github.com/vmferry/vmferry/volumes/copytest"
)

// flip inverts one bit of a file.
func flip(tb testing.TB, path string, bit int64) {
	tb.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	check(tb, err)
	b := make([]byte, 1)
	_, err = f.ReadAt(b, bit/8)
	check(tb, err)
	b[0] ^= 1 << (bit % 8)
	_, err = f.WriteAt(b, bit/8)
	check(tb, errors.Join(err, f.Close()))
}

// flipAll inverts each of the bits. A bit that comes twice is as before, so each must come once.
func flipAll(tb testing.TB, path string, bits []int64) {
	tb.Helper()
	for _, bit := range bits {
		flip(tb, path, bit)
	}
}

func TestEachOfAThousandFlippedBitsIsFoundAndNamed(t *testing.T) {
	t.Parallel()
	const (
		size  = 2*mib + 1000
		shown = 5 // ranges that an error text names
	)
	seed := number(t, "SEED", time.Now().UnixNano()%1e6)
	random := rand.New(rand.NewPCG(uint64(seed), 1))
	src, to := source(t, size, seed), garbageTarget(t, size)
	copied, err := copytest.Copy(t.Context(), nbd.Task{Source: src, Target: copytest.Onto(to)}, &nbd.Meter{})
	check(t, err)
	same(t, to, src)
	if copied.Digests == nil {
		skipOrFail(t, "NOT THERE YET: a copy makes no digests")
	}
	for _, digests := range []*nbd.Digests{nil, copied.Digests} {
		verify := func() (nbd.VerifyResult, error) {
			return copytest.Verify(t.Context(), nbd.VerifyTask{
				Source: src, Target: copytest.Onto(to), Mode: job.VerifyFull, Digests: digests,
				Connections: 1, Requests: 2, RequestSize: 256 * kib, // less to set up, for hundreds of runs
			}, &nbd.Meter{})
		}
		r, err := verify()
		check(t, err)
		if r.Verified != size || r.Digest == "" {
			t.Errorf("%d bytes were verified, digest %q", r.Verified, r.Digest)
		}
		found := 0
		for range 1000 / shown {
			var bits []int64
			var want job.Extents
			for range shown {
				bit := random.Int64N(size * 8)
				block := bit / 8 / 4096 * 4096
				bits = append(bits, bit)
				want = append(want, job.Extent{Offset: block, Length: min(4096, size-block)})
			}
			want = want.Merge(0)
			flipAll(t, to, bits)
			r, err := verify()
			flipAll(t, to, bits)
			if job.KindOf(err) != job.Corrupt || !slices.Equal(r.Differences, want) {
				t.Errorf("seed %d: bits %v are wrong: %v, in %v", seed, bits, err, r.Differences)
				continue
			}
			for _, e := range want {
				if !strings.Contains(err.Error(), e.String()) {
					t.Errorf("seed %d: %v is not named: %v", seed, e, err)
				}
			}
			found += len(bits)
		}
		say("crash: flipped=1000 found=%d digests=%v", found, digests != nil)
		_, err = verify()
		check(t, err)
	}
}

func TestWhatWasFlippedManyTimesAtOnceIsNamedWhole(t *testing.T) {
	t.Parallel()
	const size = 16 * mib
	src, to := source(t, size, 20), garbageTarget(t, size)
	copied, err := copytest.Copy(t.Context(), nbd.Task{Source: src, Target: copytest.Onto(to)}, &nbd.Meter{})
	check(t, err)
	random := rand.New(rand.NewPCG(20, 2))
	var want job.Extents
	for range 300 {
		at := random.Int64N(size) / 4096 * 4096
		if len(want.Within(job.Extents{{Offset: at, Length: 4096}})) > 0 {
			continue
		}
		flip(t, to, at*8+random.Int64N(4096*8))
		want = append(want, job.Extent{Offset: at, Length: 4096}).Merge(0)
	}
	for _, digests := range []*nbd.Digests{nil, copied.Digests} {
		r, err := copytest.Verify(t.Context(), nbd.VerifyTask{
			Source: src, Target: copytest.Onto(to), Mode: job.VerifyFull, Digests: digests,
		}, &nbd.Meter{})
		if job.KindOf(err) != job.Corrupt {
			t.Fatalf("kind %q: %v", job.KindOf(err), err)
		}
		if lost, more := want.Cut(r.Differences), r.Differences.Cut(want); lost != nil || more != nil {
			t.Errorf("digests %v: %v was not found, %v does not differ", digests != nil, lost, more)
		}
	}
}

func TestBlocksThatChangedPlacesAreFound(t *testing.T) {
	t.Parallel()
	const size = 4 * mib
	src, to := source(t, size, 21), garbageTarget(t, size)
	fill(t, src, 0, mib)
	copied, err := copytest.Copy(t.Context(), nbd.Task{Source: src, Target: copytest.Onto(to)}, &nbd.Meter{})
	check(t, err)
	good, err := os.ReadFile(to)
	check(t, err)
	for name, swap := range map[string][2]int{
		"neighbours": {4096, 8192}, "blocks of one request": {0, 252 * kib}, "halves": {0, 512 * kib},
	} {
		n := 4096
		if name == "halves" {
			n = 512 * kib
		}
		bad := append([]byte(nil), good...)
		copy(bad[swap[0]:][:n], good[swap[1]:][:n])
		copy(bad[swap[1]:][:n], good[swap[0]:][:n])
		check(t, os.WriteFile(to, bad, 0o600))
		for _, digests := range []*nbd.Digests{nil, copied.Digests} {
			r, err := copytest.Verify(t.Context(), nbd.VerifyTask{
				Source: src, Target: copytest.Onto(to), Mode: job.VerifyFull, Digests: digests,
			}, &nbd.Meter{})
			if job.KindOf(err) != job.Corrupt || r.Differences.Sum() != int64(2*n) {
				t.Errorf("%s, digests %v: %v in %v", name, digests != nil, err, r.Differences)
			}
		}
	}
}

func TestATargetThatStoresSomethingElseIsFoundOut(t *testing.T) {
	t.Parallel()
	need(t, "nbdkit")
	src := source(t, 4*mib, 23)
	to := garbageTarget(t, 4*mib)
	// A plugin that changes one byte at a fixed offset with each write.
	plugin := file(t, fmt.Sprintf(`#!/bin/sh
case "$1" in
get_size) stat -c %%s %[1]s;;
pread) dd if=%[1]s skip=$4 count=$3 iflag=skip_bytes,count_bytes status=none;;
pwrite)
	dd of=%[1]s seek=$4 oflag=seek_bytes conv=notrunc status=none
	printf '\252' | dd of=%[1]s bs=1 seek=1234567 conv=notrunc status=none;;
can_write|can_flush) exit 0;;
flush) exit 0;;
*) exit 2;;
esac
`, to))
	check(t, os.Chmod(plugin, 0o700))
	target := nbdkit(t, "sh", plugin)
	o := run(t, src, target.uri, "--verify", "full")
	o.wantFailed(t, job.Corrupt)
	o.wantText(t, fmt.Sprintf("%d+4096", 1234567/4096*4096))
	if o.report.Verified {
		t.Error("the report says verified")
	}
}
