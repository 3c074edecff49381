package report

import (
	"math"
	"time"

	"github.com/vmferry/vmferry/job"
)

// Windows of the two speeds: the short one is the reported speed, the long one is the average and gives the ETA.
const (
	shortWindow = 5 * time.Second
	longWindow  = 60 * time.Second
	leastWindow = time.Second          // a speed is over at least this time, so that one burst makes no peak
	flagWindow  = 2 * time.Second      // of the share that sets the flag throttled
	etaAfter    = 2 * time.Second      // a speed that is measured for a shorter time gives no ETA
	etaMost     = 100 * 24 * time.Hour // a longer ETA is none
	perWindow   = 50                   // samples that a window keeps, about
	backwards   = -time.Second         // a sample that is older than the newest by more starts anew
)

// sample is how far a count was at one moment.
type sample struct {
	at                       time.Time
	moved                    int64 // bytes that were sent
	done                     int64 // bytes that were sent or skipped
	source, target, throttle time.Duration
}

// window is the newest samples of a count: those of the last span, and one that is older. So it covers the span and no
// more than one tick beyond it. The first sample is a base: what was there before it did not move within the window.
type window struct {
	span time.Duration
	list []sample // oldest first
}

// add takes a sample. One that is not newer than the newest adds to that: samples of several disks come at the same
// time. It is a new base after a clock that went back, and after a longer time than the span without samples: when
// within that time the bytes moved is not known.
func (w *window) add(s sample) {
	if n := len(w.list); n > 0 {
		last := w.list[n-1]
		gap := s.at.Sub(last.at)
		switch {
		case gap < backwards, gap > w.span:
			w.list = w.list[:0]
		case gap <= 0:
			s.at, s.moved, s.done = last.at, max(s.moved, last.moved), max(s.done, last.done)
			s.source, s.target = max(s.source, last.source), max(s.target, last.target)
			s.throttle = max(s.throttle, last.throttle)
			w.list[n-1] = s
			return
		case n > 1 && last.at.Sub(w.list[n-2].at) < w.span/perWindow:
			w.list = w.list[:n-1] // the newest sample stands for those that are close together
		}
	}
	w.list = append(w.list, s)
	keep := 0
	for keep+1 < len(w.list) && s.at.Sub(w.list[keep+1].at) >= w.span {
		keep++
	}
	w.list = append(w.list[:0], w.list[keep:]...)
}

// over is the growth in the last span up to now, and in how much time. The time is 0 while there is only a base.
func (w *window) over(span time.Duration, now time.Time) (grown sample, in time.Duration) {
	n := len(w.list)
	if n < 2 {
		return sample{}, 0
	}
	i, last := 0, w.list[n-1]
	for i+1 < n && now.Sub(w.list[i+1].at) >= span {
		i++
	}
	first := w.list[i]
	return sample{
		last.at, last.moved - first.moved, last.done - first.done,
		last.source - first.source, last.target - first.target, last.throttle - first.throttle,
	}, max(leastWindow, now.Sub(first.at))
}

// rate is the speed of a growing count: true means over the last 5 s and the last 60 s, or over the time since the
// first sample if that is shorter. The first sample counts nothing. The zero value is ready.
type rate struct {
	short, long window
	since       time.Time // of the first sample
	fast        float64   // bytes per second over the short window, as of the last sample
	last        int64     // the count as of the last sample
}

// add takes a sample.
func (r *rate) add(s sample) {
	if r.since.IsZero() {
		r.since = s.at
		r.short.span, r.long.span = shortWindow, longWindow
	}
	r.short.add(s)
	r.long.add(s)
}

// sample takes a new value of a count that has no other numbers. A count that decreased starts over.
func (r *rate) sample(n int64, now time.Time) {
	if n < r.last {
		*r = rate{}
	}
	r.last = n
	r.add(sample{at: now, moved: n, done: n})
	r.fast = r.fastAt(now)
}

// fastAt is the speed at that time, in bytes per second; 0 when nothing has moved for 5 s.
func (r *rate) fastAt(now time.Time) float64 { return speed(r.short.over(shortWindow, now)) }

// slowAt is the average at that time, in bytes per second.
func (r *rate) slowAt(now time.Time) float64 { return speed(r.long.over(longWindow, now)) }

// doneAt is how fast bytes are done, those that need not travel included.
func (r *rate) doneAt(now time.Time) float64 {
	grown, in := r.long.over(longWindow, now)
	grown.moved = grown.done
	return speed(grown, in)
}

func speed(grown sample, in time.Duration) float64 {
	if in <= 0 || grown.moved <= 0 {
		return 0
	}
	return float64(grown.moved) / in.Seconds()
}

// load is what the work waited for, up to the newest sample, over that time.
func (r *rate) load(over time.Duration) Load {
	n := len(r.short.list)
	if n == 0 {
		return Load{}
	}
	last := r.short.list[n-1].at
	grown, _ := r.short.over(over, last)
	i := n - 1
	for i > 0 && last.Sub(r.short.list[i].at) < over {
		i--
	}
	return loadOf(job.Waited{
		Source: grown.source, Target: grown.target, Throttle: grown.throttle,
		Of: last.Sub(r.short.list[i].at),
	})
}

// loadOf are waits as shares.
func loadOf(w job.Waited) Load {
	return Load{Source: share(w.Source, w.Of), Target: share(w.Target, w.Of), Throttle: share(w.Throttle, w.Of)}
}

// share is part of whole, from 0 to 1, to the thousandth; 0 of nothing.
func share(part, whole time.Duration) float64 {
	if whole <= 0 {
		return 0
	}
	return float64(int(1000*min(1, max(0, part.Seconds()/whole.Seconds())))) / 1000
}

// eta is the time left for that many bytes, in seconds and as a time. It is nil below 1 byte per second and beyond 100
// days: such a speed tells nothing.
func eta(left int64, bytesPerSecond float64, now time.Time) (*int64, *time.Time) {
	if !(bytesPerSecond >= 1) { // also for a speed that is no number
		return nil, nil
	}
	s := max(0, math.Ceil(float64(left)/bytesPerSecond))
	if s > etaMost.Seconds() {
		return nil, nil
	}
	n := int64(s)
	at := now.Add(time.Duration(n) * time.Second).Truncate(time.Second)
	return &n, &at
}

// add is a sum of sizes. It stays at the largest number instead of beginning again below zero.
func add(a, b int64) int64 {
	switch {
	case b > 0 && a > math.MaxInt64-b:
		return math.MaxInt64
	case b < 0 && a < math.MinInt64-b:
		return math.MinInt64
	default:
		return a + b
	}
}
