package main

import (
	"fmt"
	"slices"
	"time"

	"github.com/vmferry/vmferry/job"
)

// class is what bytes that differ mean. A higher one is worse.
type class int

const (
	equal        class = iota
	afterwards         // the target was touched after the round was committed
	unseenNone         // verify none: written to while the bytes were copied
	unseenSample       // verify sample: likewise, and no sample was read there afterwards
	unseenExport       // a write to an export that comes after the last look at these bytes
	unseenDuring       // a write during a round to bytes that the round does not move
	undecided          // the touch and the commit came at the same time
	wrong              // it must have been seen
)

func (c class) String() string {
	return []string{
		"equal", "touched afterwards", "unseen by none", "unseen by sample", "unseen on an export",
		"unseen during a round", "undecided", "WRONG",
	}[c]
}

// verdict is what a comparison says.
type verdict struct {
	class class
	why   string
}

// worst is the worse of the two. What is wrong in two ways is told in both.
func worst(a, b verdict) verdict {
	if a.class == wrong && b.class == wrong {
		a.why += "; " + b.why
	}
	if b.class > a.class {
		return b
	}
	return a
}

// scene is all that is known when a round has been committed and its target compared.
type scene struct {
	kind    kind
	size    int64
	rounds  []round // of the disk, over all jobs of its VM, in their order; the last is the one that is judged
	touches []touch // of the target, in their order
	reads   []asked // of an export
	others  []span  // attempts of other VMs at the same target
}

func (s scene) last() round { return s.rounds[len(s.rounds)-1] }

// judge says what it means that a target holds the bytes is, and is that long, where the disk as the snapshot froze it
// holds want. err is why the target can't be read. Every byte is judged by the last touch of it.
func (s scene) judge(want, is []byte, length int64, err error) verdict {
	v := verdict{class: equal}
	if err != nil {
		return s.judgeName("can't be read: " + err.Error())
	}
	if length < s.size || s.kind == onFile && length != s.size {
		v = s.judgeName(fmt.Sprintf("is %d bytes long, not %d", length, s.size))
	}
	owned, other := s.owners(want, is)
	for i, where := range owned {
		v = worst(v, s.judgeTouch(s.touches[i], where))
	}
	if len(other) > 0 {
		v = worst(v, s.judgeName(fmt.Sprintf("differs in %d bytes that no touch wrote, from %d on", other.Sum(),
			other[0].Offset)))
	}
	return v
}

// owners sorts the bytes that differ by the last touch that wrote them. other are bytes that are not as the last touch
// left them, or that no touch wrote.
func (s scene) owners(want, is []byte) (owned map[int]job.Extents, other job.Extents) {
	owned = map[int]job.Extents{}
	for off := range int64(min(len(want), len(is))) {
		if want[off] == is[off] {
			continue
		}
		e := job.Extent{Offset: off, Length: 1}
		if i := s.owner(off, is[off]); i >= 0 {
			owned[i] = extend(owned[i], e)
		} else {
			other = extend(other, e)
		}
	}
	return owned, other
}

// owner is the index of the touch that left this byte there; -1 if it was none.
func (s scene) owner(off int64, is byte) int {
	for i, t := range slices.Backward(s.touches) {
		if t.replaces() {
			return -1
		}
		if b, ok := t.at(off); ok {
			if b == is {
				return i
			}
			return -1
		}
	}
	return -1
}

// extend adds an extent that lies after all of x.
func extend(x job.Extents, e job.Extent) job.Extents {
	if n := len(x); n > 0 && x[n-1].End() == e.Offset {
		x[n-1].Length += e.Length
		return x
	}
	return append(x, e)
}

// judgeName judges what no write explains: the name leads to another thing, or another VM's job has written.
func (s scene) judgeName(what string) verdict {
	r := s.last()
	for _, o := range s.others {
		if !o.begin.Before(r.committed) {
			return verdict{afterwards, "another VM's job has begun to write"}
		}
	}
	for _, t := range slices.Backward(s.touches) {
		if !t.whole {
			continue
		}
		switch {
		case !t.begin.Before(r.committed):
			return verdict{afterwards, string(t.act)}
		case !t.end.Before(r.settled):
			return verdict{undecided, string(t.act)}
		}
		return verdict{wrong, fmt.Sprintf("it %s, after: %s, %s", what, t.act, s.when(t))}
	}
	if len(s.others) > 0 {
		return verdict{wrong, "it " + what + "; another VM's job wrote to it"}
	}
	return verdict{wrong, "it " + what}
}

// judgeTouch judges bytes that differ, and are as a touch left them.
func (s scene) judgeTouch(t touch, where job.Extents) verdict {
	r := s.last()
	bad := func(format string, args ...any) verdict {
		return verdict{wrong, fmt.Sprintf("%s, %s, %d bytes at %d: ", t.act, s.when(t), where.Sum(), where[0].Offset) +
			fmt.Sprintf(format, args...)}
	}
	switch {
	case !t.begin.Before(r.committed):
		return verdict{afterwards, string(t.act)}
	case s.kind != onExport && !t.end.Before(r.settled):
		return verdict{undecided, string(t.act)}
	}
	for _, q := range s.rounds {
		if later := bad; len(q.attempts) > 0 && q.attempts[0].begin.After(t.end) && !q.copied.IsZero() {
			if moved, _ := q.part(where); len(moved) > 0 {
				return later("round %d of %s copied these bytes afterwards", q.number, q.job)
			}
		}
		if q.verify == job.VerifyFull && q.verified >= s.size && q.copied.After(t.end) {
			return bad("round %d of %s read all back afterwards", q.number, q.job)
		}
	}
	if s.kind == onExport {
		return s.judgeExport(t, where, bad)
	}
	return s.judgeStamped(t, where, bad)
}

// judgeStamped judges a write to a file or device. Who looks at its stamp sees it, unless an attempt ran then: our own
// writes change the stamp, too.
func (s scene) judgeStamped(t touch, where job.Extents, bad func(string, ...any) verdict) verdict {
	i := slices.IndexFunc(s.rounds, func(q round) bool {
		return slices.ContainsFunc(q.attempts, func(a span) bool { return a.overlaps(span{t.begin, t.end}) })
	})
	if i < 0 {
		return bad("no attempt ran then, so the stamp tells it")
	}
	q := s.rounds[i]
	moved, unmoved := q.part(where)
	if !q.known && q.mode != job.Full {
		return bad("what the round moves is not known")
	}
	v := verdict{class: equal}
	if len(unmoved) > 0 {
		v = verdict{unseenDuring, string(t.act)}
	}
	if len(moved) == 0 {
		return v
	}
	switch q.verify {
	case job.VerifyNone:
		return worst(v, verdict{unseenNone, string(t.act)})
	case job.VerifySample:
		if q.known && q.verified >= q.moved.Sum() && len(moved.Within(q.moved)) > 0 {
			return bad("the round moved these bytes, and read back all that it moved")
		}
		return worst(v, verdict{unseenSample, string(t.act)})
	default:
		return bad("the round moved these bytes, and read them back")
	}
}

// judgeExport judges a write to an export. Nothing tells it but a look at the bytes, and the server's log knows when
// they were looked at.
func (s scene) judgeExport(t touch, where job.Extents, bad func(string, ...any) verdict) verdict {
	if at, ok := s.lookedAt(t.end, where); ok {
		return bad("these bytes were read back at %s", at.Format("15:04:05.000"))
	}
	i := slices.IndexFunc(s.rounds, func(q round) bool {
		return span{q.begin, q.end}.overlaps(span{t.begin, t.end})
	})
	if i < 0 {
		return verdict{unseenExport, string(t.act)}
	}
	q := s.rounds[i]
	if !q.known && q.mode == job.Incremental {
		return bad("what the round moves is not known")
	}
	moved, unmoved := q.part(where)
	v := verdict{class: equal}
	if len(unmoved) > 0 {
		v = verdict{unseenDuring, string(t.act)}
	}
	switch {
	case len(moved) == 0:
		return v
	case q.verify == job.VerifyNone:
		return worst(v, verdict{unseenNone, string(t.act)})
	case q.verify == job.VerifySample:
		return worst(v, verdict{unseenSample, string(t.act)})
	case q.copied.IsZero() || t.end.Before(q.copied):
		return bad("the round moved these bytes, and never read them back")
	default:
		return worst(v, verdict{unseenExport, string(t.act)})
	}
}

// lookedAt says whether a verification read any of these bytes after that time. Copies read targets, too, to find
// zeros; those reads do not count.
func (s scene) lookedAt(after time.Time, where job.Extents) (time.Time, bool) {
	for _, a := range s.reads {
		if !a.at.After(after) || len(where.Within(job.Extents{a.Extent})) == 0 {
			continue
		}
		for _, q := range s.rounds {
			if !q.copied.IsZero() && !a.at.Before(q.copied) && (q.settled.IsZero() || !a.at.After(q.settled)) {
				return a.at, true
			}
		}
	}
	return time.Time{}, false
}

// when says in words at which moment of which round something was done.
func (s scene) when(t touch) string {
	for i, q := range slices.Backward(s.rounds) {
		if q.begin.After(t.end) {
			continue
		}
		name := fmt.Sprintf("round %d", q.number)
		if i < len(s.rounds)-1 && q.job != s.last().job {
			name += " of an earlier job"
		}
		in := slices.ContainsFunc(q.attempts, func(a span) bool { return a.overlaps(span{t.begin, t.end}) })
		switch {
		case in:
			return "during the copy of " + name
		case len(q.attempts) == 0 || t.end.Before(q.attempts[0].begin):
			return "before the copy of " + name
		case !q.committed.IsZero() && !t.begin.Before(q.committed):
			return "after " + name
		case q.copied.IsZero() || t.begin.Before(q.copied):
			return "between attempts of " + name
		default:
			return "after the copy of " + name
		}
	}
	return "before all rounds"
}
