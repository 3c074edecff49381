package report

import (
	"time"

	"github.com/vmferry/vmferry/job"
)

// Rules of time for the health flags.
const (
	StallAfter = 60 * time.Second // without a byte and without a finished request
	StaleAfter = 15 * time.Second // without any word from whoever should report
)

// Progress is the word of one running disk, sent on a tick: absolute numbers, so that one lost or late does no harm.
type Progress struct {
	Job       job.ID
	Disk      job.DiskID
	Round     int
	Attempt   int
	Counters  job.Counters
	Transport string // how the disk is read
	SourcePID int    // of the nbdkit that reads it; 0 if there is none
	WaitsFor  string // what it waits for by our own limits; "" if nothing
}

// Builder makes reports of one job: from its state, which says what is so, and from the progress of its running disks,
// which says how far they are. Within a round no number falls, whatever comes in whatever order. It belongs to one
// goroutine.
type Builder struct {
	state   job.State
	disks   map[job.DiskID]*diskBuilder
	overall float64
	peak    float64
}

type diskBuilder struct {
	round, attempt int
	live           job.Counters // of that attempt
	transferred    int64        // highest in this round
	skipped        int64
	durable        int64
	verified       int64
	resent         int64
	speed          rate
	load           Load
	seen           time.Time // last word
	alive          time.Time // last byte or finished request
	lastByte       time.Time
	waits          string       // for what, by our own limits
	then           job.Counters // when it was alive last
	transport      string
	pid            int
}

// NewBuilder begins with a state; last, if not nil, is the newest report before a restart of the daemon, below which no
// number may fall.
func NewBuilder(st job.State, last *Report) *Builder {
	b := &Builder{disks: map[job.DiskID]*diskBuilder{}}
	if last != nil {
		b.overall, b.peak = last.OverallPercent, last.BytesPerSecondPeak
		b.remember(st, last)
	}
	b.Changed(st)
	return b
}

// remember takes what was shown of the disks in the round that still goes on.
func (b *Builder) remember(st job.State, last *Report) {
	if last.Round != st.Round() {
		return
	}
	for _, r := range last.Disks {
		if _, ok := st.DiskState(r.DiskID); ok {
			d := b.disk(r.DiskID, last.Round)
			d.transferred, d.skipped, d.durable, d.verified, d.resent = r.BytesTransferred, r.BytesSkipped,
				r.BytesDurable, r.BytesVerified, r.BytesResent
		}
	}
}

// State is the newest state.
func (b *Builder) State() job.State { return b.state }

// Changed takes a new state; one that is older than the newest is late and ignored.
func (b *Builder) Changed(st job.State) {
	if st.Seq < b.state.Seq {
		return
	}
	b.state = st
	for _, d := range st.Disks {
		b.disk(d.Disk.ID, st.Round()).raise(d.Counters, d.High, d.HighSkipped)
	}
}

// disk finds the numbers of a disk in a round, new ones if the round is new.
func (b *Builder) disk(id job.DiskID, round int) *diskBuilder {
	d := b.disks[id]
	if d == nil || d.round < round {
		fresh := &diskBuilder{round: round}
		if d != nil {
			fresh.speed.peak = d.speed.peak
		}
		b.disks[id] = fresh
		return fresh
	}
	return d
}

func (d *diskBuilder) raise(c job.Counters, transferred, skipped int64) {
	d.transferred = max(d.transferred, c.Transferred, transferred)
	d.skipped = max(d.skipped, c.Skipped, skipped)
	d.durable = max(d.durable, c.Durable)
	d.verified = max(d.verified, c.Verified)
}

// Observe takes the progress of a running disk. What belongs to an earlier round or attempt is late and ignored.
func (b *Builder) Observe(p Progress, now time.Time) {
	if p.Job != b.state.ID || p.Round != b.state.Round() {
		return
	}
	if _, ok := b.state.DiskState(p.Disk); !ok {
		return
	}
	d := b.disk(p.Disk, p.Round)
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
func (d *diskBuilder) await(p Progress, now time.Time) {
	if p.Attempt > d.attempt {
		d.begin(p, now)
	}
	if d.live == (job.Counters{}) { // else it is late
		d.waits, d.seen, d.alive = p.WaitsFor, now, now
	}
}

func (d *diskBuilder) begin(p Progress, now time.Time) {
	d.attempt = p.Attempt
	d.live, d.waits = job.Counters{}, ""
	d.speed.reset()
	d.load = Load{}
	d.alive, d.seen, d.then = now, now, p.Counters
	d.speed.total(p.Counters.Transferred, now)
}

func (d *diskBuilder) observe(p Progress, now time.Time) {
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
