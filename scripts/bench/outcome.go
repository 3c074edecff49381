package main

import (
	"errors"
	"slices"
	"time"
)

const least = 0.001 // instead of a 0, which is too little to measure

// outcome is the result of a workload.
type outcome struct {
	workload
	ours  string // name of our tool
	duels []duel
	err   error // why there are no duels
}

// duel is the result of the pairs with one rival.
type duel struct {
	rival
	ours, theirs []sample // by pair
	err          error    // why there are no more samples
}

// failed says whether the workload or a duel failed; a workload that was skipped did not.
func (u outcome) failed() bool {
	if skipped := (skippedError{}); u.err != nil {
		return !errors.As(u.err, &skipped)
	}
	return slices.ContainsFunc(u.duels, func(d duel) bool { return d.err != nil })
}

// The results of a duel, as the report writes them.
const (
	isMet    = "met"
	isMissed = "**missed**"               // not as good as demanded
	isLost   = "**lost**"                 // missed, and slower than the rival
	isFaster = "faster, nothing demanded" // for information
	isSlower = "**slower**, nothing demanded"
)

func (d duel) result() string {
	slower := d.value(inTime) > 1 && !d.ourself
	missed := slices.ContainsFunc(d.demands, func(m demand) bool { return d.value(m.of) > m.most })
	switch {
	case len(d.demands) == 0 && slower:
		return isSlower
	case len(d.demands) == 0:
		return isFaster
	case missed && slower:
		return isLost
	case missed:
		return isMissed
	default:
		return isMet
	}
}

// value is our figure for a quantity.
func (d duel) value(of quantity) float64 {
	switch of {
	case inMiB:
		return medianOf(d.ours, peak)
	case inMemory:
		return medianOf(d.ours, peak) / max(medianOf(d.theirs, peak), least)
	case inCPU:
		return median(d.ratios(cpu))
	case inTime:
		return median(d.ratios(wall))
	default:
		return 0
	}
}

// ratios are our figures by theirs, one for each pair.
func (d duel) ratios(of func(sample) float64) []float64 {
	out := make([]float64, len(d.ours))
	for i := range out {
		out[i] = of(d.ours[i]) / max(of(d.theirs[i]), least)
	}
	return out
}

// wants says whether there should be one more pair. took is the time of the pairs so far. Who won does not count.
func (d duel) wants(usual int, took time.Duration) bool {
	done, spread := len(d.ours), d.spread()
	return done < usual ||
		done < usual+widePairs && spread > wide ||
		done < mostPairs*usual && spread > uneven && took < cheap && len(d.demands) > 0
}

// spread is the largest ratio of times by the smallest.
func (d duel) spread() float64 {
	x := d.ratios(wall)
	if len(x) < 2 {
		return 1
	}
	return slices.Max(x) / slices.Min(x)
}

func wall(s sample) float64   { return s.wall }
func client(s sample) float64 { return s.client }
func served(s sample) float64 { return s.server }
func cpu(s sample) float64    { return s.client + s.server }
func peak(s sample) float64   { return s.peak }

func medianOf(samples []sample, of func(sample) float64) float64 {
	x := make([]float64, len(samples))
	for i, s := range samples {
		x[i] = of(s)
	}
	return median(x)
}

// median of no values is 0.
func median(x []float64) float64 {
	if len(x) == 0 {
		return 0
	}
	x = slices.Sorted(slices.Values(x))
	return (x[(len(x)-1)/2] + x[len(x)/2]) / 2
}
