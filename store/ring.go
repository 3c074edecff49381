package store

import (
	"sort"

	"github.com/vmferry/vmferry/report"
)

// ring holds the last changes of one epoch, ascending by version and without a gap: every change that was taken with a
// version after start is in it. The zero value is empty.
type ring struct {
	start   report.Version // a reader that has seen this version misses only changes that are in the ring
	last    report.Version
	changes []report.Change
	head    int // index of the oldest once the ring is full
}

// add takes one more change. A new epoch empties the ring: versions of two epochs cannot be compared. A change that
// comes after a higher version (of another job) empties it too: a reader that has seen the higher version would never
// get this change.
func (g *ring) add(c report.Change) {
	v := c.Version()
	switch {
	case v.Epoch > g.last.Epoch || g.last == (report.Version{}):
		g.restart(report.Version{Epoch: v.Epoch})
	case !g.last.Less(v):
		g.restart(report.Version{Epoch: g.last.Epoch, Seq: g.last.Seq + 1})
		return
	}
	g.last = v
	if len(g.changes) < ringSize {
		g.changes = append(g.changes, c)
		return
	}
	g.start = g.changes[g.head].Version()
	g.changes[g.head] = c
	g.head = (g.head + 1) % ringSize
}

func (g *ring) restart(start report.Version) {
	clear(g.changes) // frees what the changes refer to
	g.start, g.changes, g.head = start, g.changes[:0], 0
}

// after returns the changes after v. It returns false if some of them are no longer kept, or if v is of another epoch
// or newer than the last change.
func (g *ring) after(v report.Version) ([]report.Change, bool) {
	if g.last == (report.Version{}) || v.Less(g.start) || g.last.Less(v) { // start and last are of one epoch
		return nil, false
	}
	n := len(g.changes)
	from := sort.Search(n, func(i int) bool { return v.Less(g.at(i).Version()) })
	out := make([]report.Change, 0, n-from)
	for i := from; i < n; i++ {
		out = append(out, g.at(i))
	}
	return out, true
}

// at returns the i-th oldest change.
func (g *ring) at(i int) report.Change { return g.changes[(g.head+i)%len(g.changes)] }
