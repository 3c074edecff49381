package actors

import (
	"time"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
)

// How long a report of an external job waits for a Slow sink that does not say otherwise, so that many of its tool's
// updates cost one write.
const (
	waitNumbers = 30 * time.Second // only numbers changed
	waitState   = time.Second      // more than numbers changed

	// An ExternallyPaced sink gets at most this many reports with new numbers: one for each such time.
	waitEach = 10 * time.Millisecond
)

// waiting are the newest reports of external jobs that a Slow sink does not get yet. What a call costs does not depend
// on the number of jobs.
type waiting struct {
	jobs        map[job.ID]*waits
	soon, later []dueReport // in the order of their times

	numbers, state time.Duration // how long a report waits
	each           time.Duration // how much longer one with new numbers waits, for each job that waits
}

type waits struct {
	report report.Report
	until  time.Time
}

type dueReport struct {
	id job.ID
	at time.Time
}

// add keeps a report, and puts it in the place of an earlier one of its job.
func (q *waiting) add(r report.Report, changed bool) {
	until := r.ObservedAt.Add(max(q.numbers, time.Duration(len(q.jobs))*q.each))
	if changed {
		until = r.ObservedAt.Add(q.state)
	}
	w := q.jobs[r.JobID]
	if w != nil && !until.Before(w.until) {
		w.report = r
		return
	}
	q.jobs[r.JobID] = &waits{r, until}
	if changed {
		q.soon = append(q.soon, dueReport{r.JobID, until})
	} else {
		q.later = append(q.later, dueReport{r.JobID, until})
	}
}

// ripe moves the reports that have waited long enough to pending.
func (q *waiting) ripe(now time.Time, pending map[job.ID]report.Report) {
	q.soon = q.move(q.soon, now, pending)
	q.later = q.move(q.later, now, pending)
}

func (q *waiting) move(list []dueReport, now time.Time, pending map[job.ID]report.Report) []dueReport {
	for len(list) > 0 && !list[0].at.After(now) {
		if w := q.jobs[list[0].id]; w != nil && w.until.Equal(list[0].at) {
			pending[list[0].id] = w.report
			delete(q.jobs, list[0].id)
		}
		list = list[1:]
	}
	return list
}

// all moves all reports to pending.
func (q *waiting) all(pending map[job.ID]report.Report) {
	for id, w := range q.jobs {
		pending[id] = w.report
	}
	clear(q.jobs)
	q.soon, q.later = nil, nil
}

func (q *waiting) remove(id job.ID) { delete(q.jobs, id) }
