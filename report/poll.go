package report

import (
	"fmt"
	"time"

	"github.com/vmferry/vmferry/job"
)

// How an older VMA is asked for a job.
const (
	PollEvery   = 5 * time.Second
	PollMost    = 30 * time.Second // between two polls of a job that is unreachable or lost
	PollErrors  = 5                // in a row: then the job is unreachable
	PollGrace   = 30 * time.Second // after the begin, in which an unknown job means that it has not started
	PollAtOnce  = 10               // polls of one node that are under way at the same time
	PollTimeout = 5 * time.Second  // of one poll
)

// Poll is what is known of one job at an older VMA. It is a plain value: Apply makes the next one.
type Poll struct {
	Begun  time.Time
	SeenAt time.Time // of the last answer about the job; zero before the first
	Errors int       // in a row
	Status job.Status
	Reason string // why it is unreachable, lost or not believed; "" for nothing
	Ended  bool   // seen at its end: it is asked for no more

	Last    Polled    // the last answer whose numbers were taken
	Lower   bool      // the answer after it had lower numbers, which were not taken
	Claimed time.Time // since when it says completed although bytes are missing; zero if it does not
}

// PollEvent is news of a job.
//
//sumtype:decl
type PollEvent interface{ pollEvent() }

// The events.
type (
	// PollBegun begins to ask for a job.
	PollBegun struct{}
	// PollAnswered has an answer.
	PollAnswered struct{ Answer Polled }
	// PollUnknown says that the VMA does not know the job: 404.
	PollUnknown struct{}
	// PollFailed says that a poll had no answer that could be believed, and why.
	PollFailed struct{ Reason string }
	// PollReachable says that the VMA has answered for another job.
	PollReachable struct{}
)

func (PollBegun) pollEvent()     {}
func (PollAnswered) pollEvent()  {}
func (PollUnknown) pollEvent()   {}
func (PollFailed) pollEvent()    {}
func (PollReachable) pollEvent() {}

// PollAction is what must be done next, as a plain value.
//
//sumtype:decl
type PollAction interface{ pollAction() }

// The actions.
type (
	// PollAt asks for the job at a time. It replaces the one before.
	PollAt struct{ At time.Time }
	// TakeNumbers takes the numbers of the answer. Again says that they begin a new attempt; Ends that the answer's
	// status is the end of the job.
	TakeNumbers struct {
		Answer      Polled
		Again, Ends bool
	}
	// ShowPoll makes a report.
	ShowPoll struct{}
)

func (PollAt) pollAction()      {}
func (TakeNumbers) pollAction() {}
func (ShowPoll) pollAction()    {}

// ResumePoll goes on from the last report before a restart.
func ResumePoll(last Report) Poll {
	see := last.Sight()
	p := Poll{Begun: last.CreatedAt, SeenAt: see.SeenAt, Ended: last.Status.Terminal(), Last: polledOf(last)}
	if p.Ended {
		return p
	}
	p.Status, p.Reason = see.Status, see.Reason
	switch {
	case see.Status == job.Unreachable:
		p.Errors = PollErrors
	case see.Status == job.Lost && see.Since.Before(see.SeenAt):
		p.Claimed = see.Since // the VMA goes on speaking of it
	}
	return p
}

// polledOf has the bytes of a report, as an answer that the next one is compared with.
func polledOf(r Report) (a Polled) {
	if len(r.Disks) == 0 {
		a.BytesTransferred = &r.BytesTransferred
	}
	for _, d := range r.Disks {
		a.Disks = append(a.Disks, PolledDisk{ID: d.DiskID, BytesTransferred: &d.BytesTransferred})
	}
	return a
}

// Sight is how the OMA sees the job.
func (p Poll) Sight() Sight {
	s := Sight{Status: p.Status, Stale: p.Errors > 0, SeenAt: p.SeenAt, Reason: p.Reason}
	switch {
	case p.Status == "":
	case !p.Claimed.IsZero():
		s.Since = p.Claimed
	case p.SeenAt.IsZero():
		s.Since = p.Begun
	default:
		s.Since = p.SeenAt
	}
	return s
}

// Apply makes the next state of an event, and says what to do. It is a pure function. Rules:
//
//   - An answer is believed if it is about this job. Completed is the end only with all bytes there; failed and
//     cancelled always are. Completed with bytes missing is asked for again, and lost after PollGrace.
//   - Numbers that fall are taken if the next answer has them too, or if they are 0: a new attempt.
//   - An unknown job has not started yet within PollGrace of the begin. After that it is lost, and is asked for at
//     PollMost until the VMA knows it again. It is never completed by silence.
//   - PollErrors failures in a row make it unreachable; it is asked for again after a pause that doubles up to
//     PollMost, and at once when the VMA has answered for another job. Before that it is asked at PollEvery, whatever
//     the VMA answers for others: five errors are five polls apart.
func (p Poll) Apply(ev PollEvent, now time.Time) (Poll, []PollAction) {
	if p.Ended {
		return p, nil
	}
	switch ev := ev.(type) {
	case PollBegun:
		p.Begun = now
		return p, []PollAction{PollAt{now}}
	case PollAnswered:
		return p.answered(ev.Answer, now)
	case PollUnknown:
		return p.unknown(now)
	case PollFailed:
		return p.failed(ev.Reason, now)
	case PollReachable:
		if p.Errors >= PollErrors {
			return p, []PollAction{PollAt{now}}
		}
	}
	return p, nil
}

func (p Poll) answered(a Polled, now time.Time) (Poll, []PollAction) {
	p.SeenAt, p.Errors, p.Status, p.Reason = now, 0, "", ""
	if ends := a.Status.Terminal(); ends && (a.Status != job.StatusCompleted || a.whole()) {
		p.Ended, p.Claimed = true, time.Time{}
		return p, []PollAction{TakeNumbers{Answer: a, Again: a.lower(p.Last), Ends: true}, ShowPoll{}}
	}
	next := PollAt{now.Add(PollEvery)}
	if a.Status != job.StatusCompleted {
		p.Claimed = time.Time{}
	} else {
		if p.Claimed.IsZero() {
			p.Claimed = now
		}
		if now.Sub(p.Claimed) >= PollGrace {
			p.Status, next.At = job.Lost, now.Add(PollMost)
			p.Reason = "the VMA says completed, but " + a.missing()
		}
	}
	if a.lower(p.Last) && !p.Lower && !a.zero(p.Last) {
		p.Lower = true
		return p, []PollAction{next, ShowPoll{}}
	}
	again := a.lower(p.Last)
	p.Lower, p.Last = false, a
	return p, []PollAction{TakeNumbers{Answer: a, Again: again}, next, ShowPoll{}}
}

func (p Poll) unknown(now time.Time) (Poll, []PollAction) {
	was := p.Errors
	p.Errors = 0
	if now.Sub(p.Begun) < PollGrace {
		p.Status, p.Reason = "", ""
		if was > 0 {
			return p, []PollAction{PollAt{now.Add(PollEvery)}, ShowPoll{}}
		}
		return p, []PollAction{PollAt{now.Add(PollEvery)}}
	}
	actions := []PollAction{PollAt{now.Add(PollMost)}}
	if p.Status == job.Lost && was == 0 {
		return p, actions
	}
	p.Status, p.Reason = job.Lost, "the VMA does not know the job (404), and it was not seen at its end"
	if p.SeenAt.IsZero() {
		p.Reason = "the VMA does not know the job (404), and has never known it"
	}
	return p, append(actions, ShowPoll{})
}

func (p Poll) failed(reason string, now time.Time) (Poll, []PollAction) {
	p.Errors = min(p.Errors+1, 1000)
	pause := PollEvery
	if p.Errors >= PollErrors {
		pause = min(PollMost, PollEvery<<min(p.Errors-PollErrors, 10))
	}
	actions := []PollAction{PollAt{now.Add(pause)}}
	switch {
	case p.Errors >= PollErrors && (p.Status != job.Unreachable || p.Reason != reason):
		p.Status, p.Reason = job.Unreachable, reason
		return p, append(actions, ShowPoll{})
	case p.Errors == 1:
		return p, append(actions, ShowPoll{})
	default:
		return p, actions
	}
}

// Polled is what an older VMA answered about a job. Pointers are nil for what the answer does not have.
type Polled struct {
	Status           job.Status // "" for a word that is not known
	Phase            string
	Operation        string
	SyncType         string
	BytesTransferred *int64
	BytesSkipped     int64
	TotalBytes       *int64
	Percent          *float64
	BytesPerSecond   *float64
	StartedAt        time.Time // zero if not said, as the next
	UpdatedAt        time.Time
	VM               VM
	Error            string
	Disks            []PolledDisk
}

// PolledDisk is one disk of a Polled.
type PolledDisk struct {
	ID               job.DiskID
	Label            string
	Status           string
	BytesTransferred *int64
	BytesSkipped     int64
	TotalBytes       *int64
	BytesPerSecond   *float64
}

// StatusOf reads a status of an older service; "" for a word that is not known.
func StatusOf(word string) job.Status { return externalStatuses[lower(word)] }

// whole says whether all bytes are there: they are known, of the job and of each disk, and none is missing.
func (a Polled) whole() bool {
	if !enough(a.BytesTransferred, a.BytesSkipped, a.TotalBytes) {
		return false
	}
	for _, d := range a.Disks {
		if !enough(d.BytesTransferred, d.BytesSkipped, d.TotalBytes) {
			return false
		}
	}
	return true
}

func enough(done *int64, skipped int64, total *int64) bool {
	return done != nil && total != nil && add(*done, skipped) >= *total
}

// missing says in words what is missing of all bytes.
func (a Polled) missing() string {
	if a.BytesTransferred == nil || a.TotalBytes == nil {
		return "not how many bytes there are"
	}
	return fmt.Sprintf("%d of %d bytes are there", add(*a.BytesTransferred, a.BytesSkipped), *a.TotalBytes)
}

// lower says whether a number of bytes is lower than in the answer before.
func (a Polled) lower(before Polled) bool {
	if less(a.BytesTransferred, before.BytesTransferred) {
		return true
	}
	for _, d := range a.Disks {
		for _, b := range before.Disks {
			if d.ID == b.ID && less(d.BytesTransferred, b.BytesTransferred) {
				return true
			}
		}
	}
	return false
}

// zero says whether each number that is lower is 0 now.
func (a Polled) zero(before Polled) bool {
	if less(a.BytesTransferred, before.BytesTransferred) && *a.BytesTransferred == 0 {
		return true
	}
	found := false
	for _, d := range a.Disks {
		for _, b := range before.Disks {
			if d.ID == b.ID && less(d.BytesTransferred, b.BytesTransferred) {
				if *d.BytesTransferred != 0 {
					return false
				}
				found = true
			}
		}
	}
	return found
}

func less(a, b *int64) bool { return a != nil && b != nil && *a < *b }
