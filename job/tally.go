package job

import (
	"time"
)

// Rules of time for the health flags.
const (
	StallAfter = 60 * time.Second // without a byte and without a finished request
	StaleAfter = 15 * time.Second // without any word from whoever should report
)

// Progress is the word of one running disk, sent on a tick: absolute numbers, so that one lost or late does no harm.
type Progress struct {
	Job       ID
	Disk      DiskID
	Round     int
	Attempt   int
	Counters  Counters
	Transport string // how the disk is read
	SourcePID int    // of the nbdkit that reads it; 0 if there is none
	WaitsFor  string // what it waits for by our own limits; "" if nothing
}

// Tally makes reports of one job: from its state, which says what is so, and from the progress of its running disks,
// which says how far they are. Within a round no number falls, whatever comes in whatever order. It belongs to one
// goroutine.
type Tally struct {
	state   State
	disks   map[DiskID]*diskTally
	overall float64
	peak    float64
}

type diskTally struct {
	round, attempt int
	live           Counters // of that attempt
	transferred    int64    // highest in this round
	skipped        int64
	durable        int64
	verified       int64
	resent         int64
	speed          rate
	load           Load
	seen           time.Time // last word
	alive          time.Time // last byte or finished request
	lastByte       time.Time
	waits          string   // for what, by our own limits
	then           Counters // when it was alive last
	transport      string
	pid            int
}

// NewTally begins with a state; last, if not nil, is the newest report before a restart of the daemon, below which no
// number may fall.
func NewTally(st State, last *Report) *Tally {
	t := &Tally{disks: map[DiskID]*diskTally{}}
	if last != nil {
		t.overall, t.peak = last.OverallPercent, last.BytesPerSecondPeak
		t.remember(st, last)
	}
	t.Changed(st)
	return t
}

// remember takes what was shown of the disks in the round that still goes on.
func (t *Tally) remember(st State, last *Report) {
	if last.Round != st.Round() {
		return
	}
	for _, r := range last.Disks {
		if _, ok := st.DiskState(r.DiskID); ok {
			d := t.disk(r.DiskID, last.Round)
			d.transferred, d.skipped, d.durable, d.verified, d.resent = r.BytesTransferred, r.BytesSkipped,
				r.BytesDurable, r.BytesVerified, r.BytesResent
		}
	}
}

// State is the newest state.
func (t *Tally) State() State { return t.state }

// Changed takes a new state; one that is older than the newest is late and ignored.
func (t *Tally) Changed(st State) {
	if st.Seq < t.state.Seq {
		return
	}
	t.state = st
	for _, d := range st.Disks {
		t.disk(d.Disk.ID, st.Round()).raise(d.Counters, d.High, d.HighSkipped)
	}
}

// disk finds the numbers of a disk in a round, new ones if the round is new.
func (t *Tally) disk(id DiskID, round int) *diskTally {
	d := t.disks[id]
	if d == nil || d.round < round {
		fresh := &diskTally{round: round}
		if d != nil {
			fresh.speed.peak = d.speed.peak
		}
		t.disks[id] = fresh
		return fresh
	}
	return d
}

func (d *diskTally) raise(c Counters, transferred, skipped int64) {
	d.transferred = max(d.transferred, c.Transferred, transferred)
	d.skipped = max(d.skipped, c.Skipped, skipped)
	d.durable = max(d.durable, c.Durable)
	d.verified = max(d.verified, c.Verified)
}

// Observe takes the progress of a running disk. What belongs to an earlier round or attempt is late and ignored.
func (t *Tally) Observe(p Progress, now time.Time) {
	if p.Job != t.state.ID || p.Round != t.state.Round() {
		return
	}
	if _, ok := t.state.DiskState(p.Disk); !ok {
		return
	}
	d := t.disk(p.Disk, p.Round)
	if p.Attempt < d.attempt {
		return
	}
	if p.WaitsFor != "" {
		d.await(p, now)
		return
	}
	if p.Attempt > d.attempt || d.waits != "" {
		d.begin(p, now)
	}
	d.observe(p, now)
}

// await takes that an attempt has not begun: it waits for a slot, and has no numbers of its own yet.
func (d *diskTally) await(p Progress, now time.Time) {
	if p.Attempt > d.attempt {
		d.begin(p, now)
	}
	if d.live == (Counters{}) { // else it is late
		d.waits, d.seen, d.alive = p.WaitsFor, now, now
	}
}

func (d *diskTally) begin(p Progress, now time.Time) {
	d.attempt = p.Attempt
	d.live, d.waits = Counters{}, ""
	d.speed.reset()
	d.load = Load{}
	d.alive, d.seen, d.then = now, now, p.Counters
	d.speed.total(p.Counters.Transferred, now)
}

func (d *diskTally) observe(p Progress, now time.Time) {
	c := p.Counters
	if c.Transferred < d.live.Transferred || c.Skipped < d.live.Skipped {
		return // overtaken by a newer one
	}
	if c.Transferred > d.transferred {
		d.lastByte = now
	}
	if c.Done() > d.live.Done() || c.Requests > d.live.Requests || c.Verified > d.live.Verified {
		d.alive, d.then = now, c
	}
	if dt := now.Sub(d.seen); dt > 0 {
		d.load = Load{
			Source:   share(c.SourceWait-d.live.SourceWait, dt),
			Target:   share(c.TargetWait-d.live.TargetWait, dt),
			Throttle: share(c.ThrottleWait-d.live.ThrottleWait, dt),
		}
	}
	d.speed.total(c.Transferred, now)
	d.live, d.seen = c, now
	d.transport, d.pid = p.Transport, p.SourcePID
	d.raise(c, 0, 0)
}

func share(part, whole time.Duration) float64 {
	return float64(int(1000*min(1, max(0, part.Seconds()/whole.Seconds())))) / 1000
}
