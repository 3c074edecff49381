package job_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/vmferry/vmferry/job"
)

const bits = 300 // bytes of a disk; a bitmap has one entry for each

type bitmap [bits]bool

func mapOf(x job.Extents) (b bitmap) {
	for _, e := range x {
		for i := e.Offset; i < e.End(); i++ {
			b[i] = true
		}
	}
	return b
}

func anyExtents(t *rapid.T, label string) job.Extents {
	var out job.Extents
	for range rapid.IntRange(0, 20).Draw(t, label) {
		off := rapid.Int64Range(0, bits).Draw(t, "offset")
		out = append(out, job.Extent{Offset: off, Length: rapid.Int64Range(0, bits-off).Draw(t, "length")})
	}
	return out
}

func mustBeNormal(t *rapid.T, x job.Extents) {
	for i, e := range x {
		if e.Length <= 0 {
			t.Fatalf("extent %d is empty: %v", i, x)
		}
		if i > 0 && x[i-1].End() >= e.Offset {
			t.Fatalf("extents %d and %d touch or overlap: %v", i-1, i, x)
		}
	}
}

func TestExtentsBehaveLikeSetsOfBytes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rawX, rawY := anyExtents(t, "x"), anyExtents(t, "y")
		x, y := rawX.Merge(0), rawY.Merge(0)
		mustBeNormal(t, x)
		if mapOf(x) != mapOf(rawX) {
			t.Fatalf("merge of %v is %v", rawX, x)
		}
		cut, within := x.Cut(y), x.Within(y)
		mustBeNormal(t, cut)
		mustBeNormal(t, within)
		bx, by, bc, bw := mapOf(x), mapOf(y), mapOf(cut), mapOf(within)
		sum := int64(0)
		for i := range bits {
			if bc[i] != (bx[i] && !by[i]) || bw[i] != (bx[i] && by[i]) {
				t.Fatalf("byte %d: x %v y %v cut %v within %v", i, bx[i], by[i], bc[i], bw[i])
			}
			if bx[i] {
				sum++
			}
		}
		if x.Sum() != sum || cut.Sum()+within.Sum() != sum {
			t.Fatalf("sum %d, cut %d, within %d, want %d", x.Sum(), cut.Sum(), within.Sum(), sum)
		}
	})
}

func TestMergeWithAGapAndAlignAddOnlyBytesNearby(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		x := anyExtents(t, "x").Merge(0)
		gap := rapid.Int64Range(0, 50).Draw(t, "gap")
		merged := x.Merge(gap)
		mustBeNormal(t, merged)
		if left := x.Cut(merged); left != nil {
			t.Fatalf("merging lost %v", left)
		}
		for _, added := range merged.Cut(x) {
			if added.Length > gap {
				t.Fatalf("gap %d, but %v was added", gap, added)
			}
		}
		align := rapid.Int64Range(1, 64).Draw(t, "align")
		wide := x.Align(align, bits)
		mustBeNormal(t, wide)
		if left := x.Cut(wide); left != nil {
			t.Fatalf("aligning lost %v", left)
		}
		for _, e := range wide {
			if e.Offset%align != 0 || e.End()%align != 0 && e.End() != bits {
				t.Fatalf("%v is not aligned to %d", e, align)
			}
		}
	})
}

func TestCheckRefusesExtentsThatDoNotFit(t *testing.T) {
	const huge = int64(1<<63 - 1)
	for name, tc := range map[string]struct {
		x  job.Extents
		ok bool
	}{
		"empty list":         {nil, true},
		"whole disk":         {job.Whole(100), true},
		"negative offset":    {job.Extents{{Offset: -1, Length: 2}}, false},
		"no length":          {job.Extents{{Offset: 1, Length: 0}}, false},
		"beyond the end":     {job.Extents{{Offset: 90, Length: 11}}, false},
		"sum would overflow": {job.Extents{{Offset: 50, Length: huge}}, false},
	} {
		err := tc.x.Check(100)
		if (err == nil) != tc.ok || err != nil && job.KindOf(err) != job.Invalid {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestSizesAreReadAsPeopleWriteThem(t *testing.T) {
	for text, want := range map[string]int64{
		"0": 0, "512": 512, "1K": 1 << 10, "64KiB": 64 << 10, "200MiB": 200 << 20, "1.5GiB": 3 << 29, "2TB": 2e12,
		"10 MB/s": 1e7, "7b": 7,
	} {
		if got, err := job.ParseSize(text); err != nil || got != want {
			t.Errorf("%q: got %d, %v; want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "-1", "x", "1X", "1KiBs", "9e99", "99999999999TiB", "NaN", "1..5G"} {
		if got, err := job.ParseSize(text); job.KindOf(err) != job.Invalid {
			t.Errorf("%q: got %d, %v; want an error", text, got, err)
		}
	}
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1024: "1 KiB", 1536: "1.5 KiB", 5 << 30: "5 GiB"} {
		if d := cmp.Diff(want, job.FormatSize(n)); d != "" {
			t.Error(d)
		}
	}
}
