package store

import (
	"sort"

	"github.com/vmferry/vmferry/report"
)

// ring holds the last reports of one epoch, ascending by version and without a gap: everything that was taken at or
// behind start is in it. The zero value is empty.
type ring struct {
	start   report.Version // a reader that has seen this version misses nothing but what is in the ring
	last    report.Version
	reports []report.Report
	head    int // index of the oldest once the ring is full
}

// add takes one more report. A new epoch starts the ring anew: versions of two epochs say nothing about each other. So
// does a report that comes behind a higher version (of another job): whoever has seen that one would never get this.
func (g *ring) add(r report.Report) {
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
	clear(g.reports) // lets what they hold go
	g.start, g.reports, g.head = start, g.reports[:0], 0
}

// after returns the reports behind v; false if some of them are gone, or if v is of another epoch or of the future.
func (g *ring) after(v report.Version) ([]report.Report, bool) {
	if g.last == (report.Version{}) || v.Less(g.start) || g.last.Less(v) { // start and last are of one epoch
		return nil, false
	}
	n := len(g.reports)
	from := sort.Search(n, func(i int) bool { return v.Less(g.at(i).Version()) })
	out := make([]report.Report, 0, n-from)
	for i := from; i < n; i++ {
		out = append(out, *g.at(i))
	}
	return out, true
}

// at returns the i-th oldest.
func (g *ring) at(i int) *report.Report { return &g.reports[(g.head+i)%len(g.reports)] }
