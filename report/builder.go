package report

import (
	"time"

	"github.com/vmferry/vmferry/job"
)

// Times after which a health flag is set.
const (
	StallAfter  = 60 * time.Second // no byte and no finished request
	SilentAfter = 6 * time.Second  // a request under way without an answer
	StaleAfter  = 15 * time.Second // no progress of a running disk, no update of an external job
)

// Progress is how far one running disk is. Its transfer sends it on a tick. Its numbers are absolute, so a lost or late
// one does no harm.
type Progress struct {
	Job       job.ID
	Disk      job.DiskID
	Round     int
	Attempt   int
	Counters  job.Counters
	Transport string // how the disk is read
	SourcePID int    // of the nbdkit that reads it; 0 if there is none
	WaitsFor  string // the limit of the node or job that the attempt waits for; "" for none
}

// Builder makes the reports of one job from its state and from the progress of its running disks. Within a round no
// counted number decreases, in whatever order states and progress come. It belongs to one goroutine.
type Builder struct {
	state   job.State
	disks   map[job.DiskID]*diskBuilder
	silent  map[job.DiskID]Silence // by disk; "" is for a step of the job itself
	overall float64
	peak    float64
	crash   *crash // of the job's actor; nil for none
}

// diskBuilder holds the numbers of one disk in one round.
type diskBuilder struct {
	round, attempt int
	live           job.Counters // newest of that attempt
	transferred    int64        // highest in this round; likewise those below
	skipped        int64
	durable        int64
	verified       int64
	resent         int64
	speed          rate
	load           Load
	lastProgress   time.Time
	lastActivity   time.Time // last byte or finished request
	lastByte       time.Time
	waitsFor       string       // the limit of the node or job; "" for none
	atLastActivity job.Counters // as they were at lastActivity
	transport      string
	pid            int
}

// NewBuilder begins with a state. last is the newest report before a restart of the daemon, nil for none; no counted
// number of its round goes below it.
func NewBuilder(st job.State, last *Report) *Builder {
	b := &Builder{disks: map[job.DiskID]*diskBuilder{}, silent: map[job.DiskID]Silence{}}
	if last != nil {
		b.overall, b.peak = last.OverallPercent, last.BytesPerSecondPeak
		b.restore(st, last)
	}
	b.Changed(st)
	return b
}

// restore takes the reported numbers of the disks if their round still goes on.
func (b *Builder) restore(st job.State, last *Report) {
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

// Changed takes a new state. A state that is older than the newest one is ignored.
func (b *Builder) Changed(st job.State) {
	if st.Seq < b.state.Seq {
		return
	}
	b.heardOf(b.state, st)
	b.state, b.crash = st, nil
	for _, d := range st.Disks {
		b.disk(d.Disk.ID, st.Round()).raise(d.Counters, d.High, d.HighSkipped)
	}
}

// disk finds the numbers of a disk in a round. A new round begins with new numbers.
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

// raise takes each number that is higher than the one known.
func (d *diskBuilder) raise(c job.Counters, transferred, skipped int64) {
	d.transferred = max(d.transferred, c.Transferred, transferred)
	d.skipped = max(d.skipped, c.Skipped, skipped)
	d.durable = max(d.durable, c.Durable)
	d.verified = max(d.verified, c.Verified)
}

// Observe takes the progress of a running disk. Progress of another round or an earlier attempt is ignored.
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
		d.waiting(p, now)
		return
	}
	if p.Attempt > d.attempt || d.waitsFor != "" {
		d.begin(p, now)
	}
	d.observe(p, now)
}

// waiting takes the progress of an attempt that waits for a permit: it has no numbers of its own yet.
func (d *diskBuilder) waiting(p Progress, now time.Time) {
	if p.Attempt > d.attempt {
		d.begin(p, now)
	}
	if d.live == (job.Counters{}) { // else the attempt has begun, and this progress is late
		d.waitsFor, d.lastProgress, d.lastActivity = p.WaitsFor, now, now
	}
}

// begin resets what belongs to one attempt.
func (d *diskBuilder) begin(p Progress, now time.Time) {
	d.attempt = p.Attempt
	d.live, d.waitsFor = job.Counters{}, ""
	d.speed.reset()
	d.load = Load{}
	d.lastActivity, d.lastProgress, d.atLastActivity = now, now, p.Counters
	d.speed.sample(p.Counters.Transferred, now)
}

func (d *diskBuilder) observe(p Progress, now time.Time) {
	c := p.Counters
	if c.Transferred < d.live.Transferred || c.Skipped < d.live.Skipped {
		return // newer progress came before
	}
	if c.Transferred > d.transferred {
		d.lastByte = now
	}
	if c.Done() > d.live.Done() || c.Requests > d.live.Requests || c.Verified > d.live.Verified {
		d.lastActivity, d.atLastActivity = now, c
	}
	if dt := now.Sub(d.lastProgress); dt > 0 {
		d.load = Load{
			Source:   share(c.SourceWait-d.live.SourceWait, dt),
			Target:   share(c.TargetWait-d.live.TargetWait, dt),
			Throttle: share(c.ThrottleWait-d.live.ThrottleWait, dt),
		}
	}
	d.speed.sample(c.Transferred, now)
	d.live, d.lastProgress = c, now
	d.transport, d.pid = p.Transport, p.SourcePID
	d.raise(c, 0, 0)
}

// share is part of whole, from 0 to 1, to the thousandth.
func share(part, whole time.Duration) float64 {
	return float64(int(1000*min(1, max(0, part.Seconds()/whole.Seconds())))) / 1000
}
