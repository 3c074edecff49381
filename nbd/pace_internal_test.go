package nbd

import (
	"testing"
	"time"
)

// play lets a pace see reads of a source that needs latency for each and moves at most so many bytes a second in all.
func play(p *pace, latency time.Duration, most float64, d time.Duration) {
	for now, end := p.began, p.began.Add(d); now.Before(end); {
		lanes, size := p.lanes.Load(), p.plan.request
		inFlight := min(p.bytes.Load(), p.requests.Load()*size) * lanes
		took := max(latency, time.Duration(float64(inFlight)/most*float64(time.Second)))
		for range inFlight / size {
			now = now.Add(took / time.Duration(inFlight/size))
			p.answered(size, took, now)
		}
	}
}

func TestMoreIsInFlightOnlyWhereThatHelps(t *testing.T) {
	const mib = 1 << 20
	near := effortOf{lanes: 2, requests: 32, bytes: 2 * mib, size: mib / 2}
	middle := effortOf{lanes: 4, requests: 32, bytes: 8 * mib, size: 2 * mib}
	far := effortOf{lanes: 4, requests: 32, bytes: 64 * mib, size: 2 * mib}
	tests := []struct {
		name    string
		latency time.Duration
		most    float64
		lanes   int64
		bytes   int64
	}{
		{"near and fast", 100 * time.Microsecond, 2e9, 2, near.bytes},
		{"far and fast", 50 * time.Millisecond, 4e9, 4, far.bytes},
		{"near and slow", time.Millisecond, 50e6, 2, near.bytes},
		{"busy machine", 10 * time.Millisecond, 400e6, 2, near.bytes},
		{"far, but not so fast", 50 * time.Millisecond, 600e6, 4, middle.bytes},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			p := newPace([]effortOf{near, middle, far}, &planner{request: near.size}, time.Unix(1, 0), func(effortOf, time.Duration) {})
			play(p, tc.latency, tc.most, 20*time.Second)
			if lanes, bytes := p.lanes.Load(), p.bytes.Load(); lanes != tc.lanes || bytes != tc.bytes {
				t.Errorf("%d lanes with %d bytes each, want %d with %d", lanes, bytes, tc.lanes, tc.bytes)
			}
		})
	}
}
