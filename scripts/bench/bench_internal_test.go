package main

import (
	"bytes"
	"errors"
	"flag"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vmferry/vmferry/job"
)

func TestMedianIsTheMiddleOrBetweenTheTwoInTheMiddle(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		in   []float64
		want float64
	}{
		{nil, 0}, {[]float64{3}, 3}, {[]float64{9, 1}, 5}, {[]float64{5, 1, 3}, 3}, {[]float64{4, 1, 3, 2}, 2.5},
	} {
		if got := median(tc.in); got != tc.want {
			t.Errorf("median of %v is %v, want %v", tc.in, got, tc.want)
		}
	}
}

func TestADuelIsMetMissedOrLost(t *testing.T) {
	t.Parallel()
	by := func(ratio float64, d ...demand) duel {
		return duel{
			rival: rival{demands: d}, ours: []sample{{wall: ratio, peak: 20}},
			theirs: []sample{{wall: 1, peak: 40}},
		}
	}
	own := by(1.2, timeAtMost(1.1))
	own.ourself = true
	for _, tc := range []struct {
		duel duel
		want string
	}{
		{by(0.8, timeAtMost(0.9)), isMet},
		{by(1.04, timeAtMost(1.05)), isMet},
		{by(0.95, timeAtMost(0.9)), isMissed},
		{by(1.1, timeAtMost(0.9)), isLost},
		{by(0.8, timeAtMost(0.9), demand{of: inMemory, most: 0.4}), isMissed},
		{by(0.8, demand{of: inMiB, most: 20}), isMet},
		{by(0.8), isFaster},
		{by(1.2), isSlower},
		{own, isMissed},
	} {
		if got := tc.duel.result(); got != tc.want {
			t.Errorf("%v with %v: %q, want %q", tc.duel.value(inTime), tc.duel.demands, got, tc.want)
		}
	}
}

// Uneven ratios tell of a disturbed machine, and give more pairs. Who won never does.
func TestUnevenRatiosGiveMorePairs(t *testing.T) {
	for _, tc := range []struct {
		name   string
		ratios []float64
		took   time.Duration
		want   bool
	}{
		{"fewer than usual", []float64{1, 1}, time.Hour, true},
		{"even", []float64{1, 1, 1, 1.1, 1}, 0, false},
		{"even and lost", []float64{2, 2, 2, 2, 2}, 0, false},
		{"uneven", []float64{1, 1, 1, 1.3, 1}, 0, true},
		{"uneven and dear", []float64{1, 1, 1, 1.3, 1}, time.Hour, false},
		{"wide and dear", []float64{1, 1, 1, 1.6, 1}, time.Hour, true},
		{"wide, dear and two more", []float64{1, 1, 1, 1.6, 1, 1, 1}, time.Hour, false},
		{"uneven and twice as many", []float64{1, 1, 1, 1.6, 1, 1, 1, 1, 1, 1}, 0, true},
		{"uneven and four times as many", slices.Repeat([]float64{1, 1, 1, 1, 1.6}, 4), 0, false},
	} {
		d := duel{rival: rival{demands: []demand{timeAtMost(1)}}}
		for _, x := range tc.ratios {
			d.ours, d.theirs = append(d.ours, sample{wall: x}), append(d.theirs, sample{wall: 1})
		}
		if got := d.wants(5, tc.took); got != tc.want {
			t.Errorf("%s: one more pair: %v", tc.name, got)
		}
	}
	forInformation := duel{
		ours:   make([]sample, 5),
		theirs: []sample{{wall: 1}, {wall: 1}, {wall: 1}, {wall: 1}, {wall: 1}},
	}
	for i := range forInformation.ours {
		forInformation.ours[i].wall = 1 + float64(i)/10
	}
	if forInformation.wants(5, 0) {
		t.Error("more pairs for a figure without a demand")
	}
}

func TestServerTimesAreFoundAfterAnyName(t *testing.T) {
	t.Parallel()
	got, err := statSeconds("42 (a ) b) S 1 42 42 0 -1 4194560 100 0 0 0 150 75 0 0 20 0 1 0 5")
	if err != nil || got != 2.25 {
		t.Errorf("%v seconds and %v, want 2.25", got, err)
	}
	if _, err := statSeconds("42 (short) S 1"); err == nil {
		t.Error("a short line is taken")
	}
}

func TestBytesOutsideTheRangesAreBlank(t *testing.T) {
	t.Parallel()
	only := job.Extents{{Offset: 0, Length: 2}, {Offset: 6, Length: 4}, {Offset: 15, Length: 1}}
	var got []byte
	left := only
	for off := int64(0); off < 20; off += 4 {
		b := bytes.Repeat([]byte("x"), 4)
		left = blankOutside(b, off, left)
		got = append(got, b...)
	}
	if want := "xx....xxxx.....x...."; strings.ReplaceAll(string(got), "\x00", ".") != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestScatteredRangesNeverTouch(t *testing.T) {
	t.Parallel()
	for _, step := range []int64{rangeSize, fsBlock} {
		extents := scatter(1000, changedStride, step)
		all := append(extents[:1000:1000], litter(1000, changedStride)...)
		if got := all.Merge(0); len(got) != 1020 || got.Sum() != 1000*rangeSize+20*4<<10 {
			t.Errorf("%d ranges of %d bytes at multiples of %d", len(got), got.Sum(), step)
		}
		if err := all.Check(1000 * changedStride); err != nil {
			t.Error(err)
		}
		odd := slices.ContainsFunc(extents, func(e job.Extent) bool { return e.Offset%rangeSize != 0 })
		if odd != (step < rangeSize) {
			t.Errorf("at multiples of %d some lie between the ranges' places: %t", step, odd)
		}
	}
}

func TestAPartialRunDoesNotReplaceTheReport(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ args, want string }{
		{"", "docs/benchmarks.md"},
		{"-only dense", ""},
		{"-scale 0.1", ""},
		{"-only dense -out x.md", "x.md"},
		{"-out=", ""},
	} {
		f := flag.NewFlagSet("bench", flag.ContinueOnError)
		o := define(f)
		if err := errors.Join(f.Parse(strings.Fields(tc.args)), o.complete(f)); err != nil || o.out != tc.want {
			t.Errorf("%q: report in %q and %v, want %q", tc.args, o.out, err, tc.want)
		}
	}
}

func TestTheReportTellsWhatFailedAndNoPaths(t *testing.T) {
	t.Parallel()
	b := &bench{options: options{scale: 1}, dir: "/scratch/vmferry-bench-1"}
	text := report(b, machine{}, []outcome{
		{workload: workload{name: "one"}, err: errors.New("open /scratch/vmferry-bench-1/one/src: gone")},
		{workload: workload{name: "two"}, err: skippedError{"no loop device"}},
	})
	for _, want := range []string{
		"| one | - | | | | | | | **failed**: open one/src: gone |",
		"| two | - | | | | | | | not run: no loop device |",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing in\n%s", want, text)
		}
	}
}

func TestAnEarlierVmferryIsTheOnlyRival(t *testing.T) {
	c := contest{
		ours:   tool{name: ourName, commands: [][]string{{"/new/vmferry", "copy", "a", "b"}}},
		rivals: []rival{against(tool{name: "another"})},
	}
	if got := c.against(""); len(got.rivals) != 1 || got.rivals[0].name != "another" {
		t.Errorf("without one: %+v", got.rivals)
	}
	got := c.against("/old/vmferry")
	if len(got.rivals) != 1 || got.rivals[0].commands[0][0] != "/old/vmferry" || got.rivals[0].commands[0][2] != "a" ||
		len(got.rivals[0].demands) != 1 || c.ours.commands[0][0] != "/new/vmferry" {
		t.Errorf("rivals %+v, ours %+v", got.rivals, c.ours)
	}
}
