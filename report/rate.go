package report

import (
	"math"
	"time"
)

// Windows of the two speeds: the fast one is the reported speed, the slow one is the average and gives the ETA.
const (
	fastWindow = 5 * time.Second
	slowWindow = 60 * time.Second
	etaAfter   = 2 * time.Second // a speed that is measured for a shorter time gives no ETA
)

// rate is the speed of a growing count, as two exponentially weighted means. Each sample is weighted by the time since
// the sample before it, so uneven ticks do not distort the means. The zero value is ready.
type rate struct {
	fast, slow, peak float64 // bytes per second
	last             int64
	at, since        time.Time // times of the last and the first sample
}

// sample takes a new value of the count. A count that decreased starts over.
func (r *rate) sample(n int64, now time.Time) {
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

// mix is an exponentially weighted mean whose window grows from 0 to its full width: the first samples have a plain
// mean.
func (r *rate) mix(old, v float64, dt, window time.Duration, now time.Time) float64 {
	age := now.Sub(r.since)
	w := 1 - math.Exp(-float64(dt)/float64(window))
	if age < window && age > 0 {
		w = max(w, float64(dt)/float64(age))
	}
	return old + min(1, w)*(v-old)
}

// reset forgets the speed and keeps its peak: a new round or attempt begins.
func (r *rate) reset() { *r = rate{peak: r.peak} }

// eta is the time left for that many bytes, in seconds and as a time. It is nil below 1 byte per second and beyond ten
// years.
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
