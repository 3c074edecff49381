package report

import (
	"time"

	"github.com/vmferry/vmferry/job"
)

// Times after which a health flag is set, and which it keeps once its condition is over.
const (
	StallAfter  = 60 * time.Second // no byte and no finished request
	SilentAfter = 6 * time.Second  // a request under way without an answer shows within that time
	StaleAfter  = 15 * time.Second // no progress of a running disk, no update of an external job
	FlagAfter   = 2 * time.Second  // a measured condition that has no time of its own
	FlagStays   = 2 * time.Second  // any measured condition
)

// Progress is how far one running disk is. Its transfer sends it on a tick. Its numbers are absolute, so a lost or late
// one does no harm.
type Progress struct {
	Job       job.ID
	Disk      job.DiskID
	Round     int
	Attempt   int
	At        time.Time // when the numbers were taken; zero for when they are observed
	Counters  job.Counters
	Transport string // how the disk is read
	SourcePID int    // of the nbdkit that reads it; 0 if there is none
	WaitsFor  string // the limit of the node or job that the attempt waits for; "" for none
	// for how long each side has given no sign of life although a request to it is under way; 0 if none is
	SourceSilence time.Duration
	TargetSilence time.Duration
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
	moved   int64  // bytes that the attempts were seen to send, over all disks
	speed   rate   // of moved
	flags   map[Health]*steady
	kept    keptLoad
	waited  phaseWaits
}

// keptLoad is what the last report before a restart of the daemon said of the round that goes on.
type keptLoad struct {
	round int
	load  Load
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
	moved          int64 // bytes that the attempt has sent; the first sample of an attempt is the base
	done           int64 // likewise, with what needed not travel
	speed          rate  // of both
	lastProgress   time.Time
	lastActivity   time.Time // last byte or finished request
	lastByte       time.Time
	sampled        time.Time // when the newest numbers were taken
	silentSince    time.Time // zero while a side answers or nothing is asked
	silentSide     string
	waitsFor       string       // the limit of the node or job; "" for none
	atLastActivity job.Counters // as they were at lastActivity
	transport      string
	pid            int
	expected       int       // an attempt that runs and has sent no progress yet
	expectedSince  time.Time // when that was noticed
}

// steady is a measured condition that neither comes nor goes at once.
type steady struct {
	on    bool
	since time.Time // when the condition was first seen to differ from on; zero while it does not
}

// follow takes the condition at the time now. It returns whether the flag is on: it comes when the condition was seen
// for that long without a break, and goes when it was missing for FlagStays.
func (f *steady) follow(cond bool, comes time.Duration, now time.Time) bool {
	if cond == f.on {
		f.since = time.Time{}
		return f.on
	}
	if f.since.IsZero() || now.Before(f.since) {
		f.since = now
	}
	patience := FlagStays
	if cond {
		patience = comes
	}
	if now.Sub(f.since) >= patience {
		f.on, f.since = cond, time.Time{}
	}
	return f.on
}

// NewBuilder begins with a state. last is the newest report before a restart of the daemon, nil for none; no counted
// number of its round goes below it. Its speeds are those of another time and count nothing.
func NewBuilder(st job.State, last *Report) *Builder {
	b := &Builder{
		disks: map[job.DiskID]*diskBuilder{}, flags: map[Health]*steady{}, silent: map[job.DiskID]Silence{},
	}
	if last != nil {
		b.overall, b.peak = last.OverallPercent, last.BytesPerSecondPeak
		b.restore(st, last)
		b.waited.restore(st, last)
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
			d.sampled, d.lastByte = timeOf(r.SampledAt), timeOf(r.LastByteAt)
		}
	}
	for _, r := range last.Rounds {
		if r.Round == last.Round {
			b.kept = keptLoad{r.Round, r.Load}
		}
	}
}

// timeOf is the zero time for nil.
func timeOf(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return *t
}

// State is the newest state.
func (b *Builder) State() job.State { return b.state }

// Changed takes a new state. A state that is older than the newest one is ignored.
func (b *Builder) Changed(st job.State) {
	if st.Seq < b.state.Seq {
		return
	}
	if st.Phase != b.state.Phase || st.Round() != b.state.Round() || st.Paused != b.state.Paused {
		b.turn()
	}
	b.heardOf(b.state, st)
	b.state, b.crash = st, nil
	for _, d := range st.Disks {
		b.disk(d.Disk.ID, st.Round()).raise(d.Counters, d.High, d.HighSkipped)
	}
}

// turn drops the flags that belong to what the job did before: those of another phase, round or pause go at once.
func (b *Builder) turn() {
	for h := range b.flags {
		if h != Degraded { // it belongs to a sink
			delete(b.flags, h)
		}
	}
}

// disk finds the numbers of a disk in a round. A new round begins with new numbers.
func (b *Builder) disk(id job.DiskID, round int) *diskBuilder {
	d := b.disks[id]
	if d == nil || d.round < round {
		d = &diskBuilder{round: round}
		b.disks[id] = d
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
	if p.At.IsZero() || p.At.After(now) {
		p.At = now
	}
	d := b.disk(p.Disk, p.Round)
	if p.Attempt < d.attempt {
		return
	}
	if p.WaitsFor != "" {
		d.waiting(p)
		return
	}
	first := p.Attempt > d.attempt || d.waitsFor != ""
	if first {
		d.begin(p)
	}
	before := d.moved
	d.observe(p)
	if !first {
		b.moved = add(b.moved, d.moved-before)
	}
	b.speed.add(sample{at: p.At, moved: b.moved, done: b.moved})
}

// waiting takes the progress of an attempt that waits for a permit: it has no numbers of its own yet.
func (d *diskBuilder) waiting(p Progress) {
	if p.Attempt > d.attempt {
		d.begin(p)
	}
	if d.live == (job.Counters{}) { // else the attempt has begun, and this progress is late
		d.waitsFor, d.lastProgress, d.lastActivity, d.sampled = p.WaitsFor, p.At, p.At, p.At
	}
}

// begin resets what belongs to one attempt.
func (d *diskBuilder) begin(p Progress) {
	d.attempt = p.Attempt
	d.live, d.waitsFor = job.Counters{}, ""
	d.silentSince, d.silentSide = time.Time{}, ""
	d.moved, d.done, d.speed = 0, 0, rate{}
	d.lastActivity, d.lastProgress, d.atLastActivity = p.At, p.At, p.Counters
}

func (d *diskBuilder) observe(p Progress) {
	c := p.Counters
	grew := c.Done() > d.live.Done() || c.Requests > d.live.Requests || c.Verified > d.live.Verified
	if c.Transferred < d.live.Transferred || c.Skipped < d.live.Skipped || !grew && p.At.Before(d.lastProgress) {
		return // newer progress came before
	}
	if c.Transferred > d.transferred {
		d.lastByte = p.At
	}
	if grew {
		d.lastActivity, d.atLastActivity = p.At, c
	}
	d.moved = max(d.moved, c.Transferred-c.ResumedTransferred)
	d.done = max(d.done, c.Done()-c.ResumedTransferred-c.ResumedSkipped)
	d.speed.add(sample{p.At, d.moved, d.done, c.SourceWait, c.TargetWait, c.ThrottleWait})
	d.live, d.lastProgress, d.sampled = c, p.At, p.At
	d.transport, d.pid = p.Transport, p.SourcePID
	d.silentSince, d.silentSide = time.Time{}, ""
	if most := max(p.SourceSilence, p.TargetSilence); most > 0 {
		d.silentSince, d.silentSide = p.At.Add(-most), waitsForSource
		if p.TargetSilence > p.SourceSilence {
			d.silentSide = waitsForTarget
		}
	}
	d.raise(c, 0, 0)
}
