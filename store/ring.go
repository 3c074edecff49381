package store

import (
	"sort"

	"github.com/vmferry/vmferry/report"
)

// ring holds the last reports of one epoch, ascending by version and without a gap: every report that was taken with a
// version after start is in it. The zero value is empty.
type ring struct {
	start   report.Version // a reader that has seen this version misses only reports that are in the ring
	last    report.Version
	reports []*report.Report
	head    int // index of the oldest once the ring is full
}

// add takes one more report. A new epoch empties the ring: versions of two epochs cannot be compared. A report that
// comes after a higher version (of another job) empties it too: a reader that has seen the higher version would never
// get this report.
func (g *ring) add(r *report.Report) {
	v := r.Version()
	switch {
	case v.Epoch > g.last.Epoch || g.last == (report.Version{}):
		g.restart(report.Version{Epoch: v.Epoch})
	case !g.last.Less(v):
		g.restart(report.Version{Epoch: g.last.Epoch, Seq: g.last.Seq + 1})
		return
	}
	g.last = v
	if len(g.reports) < ringSize {
		g.reports = append(g.reports, r)
		return
	}
	g.start = g.reports[g.head].Version()
	g.reports[g.head] = r
	g.head = (g.head + 1) % ringSize
}

func (g *ring) restart(start report.Version) {
	clear(g.reports) // frees what the reports refer to
	g.start, g.reports, g.head = start, g.reports[:0], 0
}

// after returns the reports after v. It returns false if some of them are no longer kept, or if v is of another epoch
// or newer than the last report.
func (g *ring) after(v report.Version) ([]*report.Report, bool) {
	if g.last == (report.Version{}) || v.Less(g.start) || g.last.Less(v) { // start and last are of one epoch
		return nil, false
	}
	n := len(g.reports)
	from := sort.Search(n, func(i int) bool { return v.Less(g.at(i).Version()) })
	out := make([]*report.Report, 0, n-from)
	for i := from; i < n; i++ {
		out = append(out, g.at(i))
	}
	return out, true
}

// at returns the i-th oldest report.
func (g *ring) at(i int) *report.Report { return g.reports[(g.head+i)%len(g.reports)] }
