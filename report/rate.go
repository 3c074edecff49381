package report

import (
	"math"
	"time"
)

// Windows of the two speeds: the fast one is shown, the slow one is for the time that is left.
const (
	fastWindow = 5 * time.Second
	slowWindow = 60 * time.Second
	etaAfter   = 2 * time.Second // a speed younger than this says nothing about the end
)

// rate is the speed of a growing count: two exponentially weighted means that know how much time passed between two
// samples, so that uneven ticks do not bend them. The zero value is ready.
type rate struct {
	fast, slow, peak float64 // bytes per second
	last             int64
	at, since        time.Time // of the last and the first sample
}

// total takes a new value of the count. A count that fell starts over.
func (r *rate) total(n int64, now time.Time) {
	if r.at.IsZero() || n < r.last {
		r.last, r.at = n, now
		if r.since.IsZero() {
			r.since = now
		}
		return
	}
	dt := now.Sub(r.at)
	if dt <= 0 {
		return
	}
	v := float64(n-r.last) / dt.Seconds()
	r.fast = r.mix(r.fast, v, dt, fastWindow, now)
	r.slow = r.mix(r.slow, v, dt, slowWindow, now)
	r.peak = max(r.peak, r.fast)
	r.last, r.at = n, now
}

// mix is an EWMA whose window grows from nothing to its full width, so that the first seconds are a plain mean.
func (r *rate) mix(old, v float64, dt, window time.Duration, now time.Time) float64 {
	age := now.Sub(r.since)
	w := 1 - math.Exp(-float64(dt)/float64(window))
	if age < window && age > 0 {
		w = max(w, float64(dt)/float64(age))
	}
	return old + min(1, w)*(v-old)
}

// reset forgets the speed but not its peak: a new round or attempt begins.
func (r *rate) reset() { *r = rate{peak: r.peak} }

// eta is the time left for that many bytes; nil if that cannot be told.
func eta(left int64, bytesPerSecond float64, now time.Time) (*int64, *time.Time) {
	if bytesPerSecond < 1 {
		return nil, nil
	}
	s := max(0, math.Ceil(float64(left)/bytesPerSecond))
	if s > 10*365*24*3600 {
		return nil, nil
	}
	n := int64(s)
	at := now.Add(time.Duration(n) * time.Second).Truncate(time.Second)
	return &n, &at
}
