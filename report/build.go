package report

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"github.com/vmferry/vmferry/job"
)

// Report is the report of the job at the time now. degraded says that a projection does not take reports. The caller
// sets Epoch and Seq.
func (b *Builder) Report(now time.Time, degraded bool) Report {
	s := b.state
	r := Report{
		JobID: s.ID, ObservedAt: now, Origin: Own, Mode: s.Mode(), Status: s.Status(), Phase: s.Phase, Round: s.Round(),
		VM: VM{
			Name: cmp.Or(s.VM.Name, s.Spec.VM), Path: cmp.Or(s.VM.Path, s.Spec.VM), Ref: s.VM.Ref,
			UUID: s.VM.UUID, CBTEnabled: s.VM.CBTEnabled, PowerState: s.VM.PowerState,
		},
		CreatedAt: s.CreatedAt, StartedAt: stamp(s.StartedAt), EndedAt: stamp(s.EndedAt),
		Error: errorOf(s.Failure), Cancelling: s.Cancelling && !s.Phase.Terminal(),
		Health: []Health{}, Notes: append(append([]string{}, s.Notes...), b.unstamped()...),
		Allowed: s.Allowed(),
	}
	if s.HeldSnapshot.Ref != "" {
		r.Snapshot = &Snapshot{
			Name: s.HeldSnapshot.Name, Ref: s.HeldSnapshot.Ref,
			Quiesced: s.HeldSnapshot.Snapshot.Quiesced, TakenAt: s.HeldSnapshot.TakenAt,
		}
	}
	b.addDisks(&r, now)
	b.addRounds(&r)
	b.addPercent(&r)
	b.addWaits(&r, now)
	b.addHealth(&r, now, degraded)
	r.Operation = b.operation(r)
	b.addCrash(&r)
	return r
}

// SpeedOr0 is the speed, and 0 for null.
func SpeedOr0(s *float64) float64 {
	if s == nil {
		return 0
	}
	return *s
}

// MaxSpeed is the most that a speed in a report can be, in bytes per second. Sums of speeds end there, so that every
// reader can add them and write them as an integer.
const MaxSpeed = 1 << 60

// SpeedOf is the speed for a report: nil for none, at most MaxSpeed.
func SpeedOf(s float64) *float64 {
	if !(s > 0) { // also for what is not a number
		return nil
	}
	s = min(s, MaxSpeed)
	return &s
}

// AddSpeed adds a speed to a sum, which is at most MaxSpeed.
func AddSpeed(sum **float64, s *float64) {
	if s != nil {
		*sum = SpeedOf(SpeedOr0(*sum) + *s)
	}
}

// stamp is nil for the zero time.
func stamp(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

func errorOf(f *job.Failure) *Error {
	if f == nil {
		return nil
	}
	return &Error{Code: f.Kind, Message: f.Message, Next: f.Next, Phase: f.Phase, At: f.At}
}

// stamped says whether a write of others to a disk's target would show; nil while that is not known.
func stamped(ds job.DiskState) *bool {
	if ds.Volume == "" {
		return nil
	}
	return &ds.Stamped
}

// provedAt is when the set was committed that still holds for a disk's target; nil for none.
func (b *Builder) provedAt(ds job.DiskState) *time.Time {
	was, ok := b.state.Base.Disk(ds.Disk.ID)
	if !ok || b.state.Unverified {
		return nil
	}
	same := ds.Volume != "" && ds.Volume == was.Volume // before the mode of a new round is decided
	if !b.state.Committed() && ds.Mode != job.Incremental && (ds.Mode != job.Auto || !same) {
		return nil
	}
	return stamp(b.state.Base.Committed)
}

// unstamped are words for people about the targets of which nothing can tell later who wrote to them.
func (b *Builder) unstamped() []string {
	var out []string
	for _, ds := range b.state.Disks {
		if s := stamped(ds); s == nil || *s {
			continue
		}
		what := "the target"
		if scheme, _, ok := strings.Cut(ds.Target, "://"); ok && strings.HasPrefix(scheme, "nbd") {
			what = "an export"
		}
		out = append(out, fmt.Sprintf("%s: %s can't be stamped: nothing can tell afterwards whether others wrote to it",
			ds.Disk.ID, what))
	}
	return out
}

func (b *Builder) addDisks(r *Report, now time.Time) {
	var capacity, total int64
	planned := len(b.state.Disks) > 0
	r.Disks = make([]Disk, 0, len(b.state.Disks))
	for _, ds := range b.state.Disks {
		d := b.reportDisk(ds, now)
		r.Disks = append(r.Disks, d)
		capacity += d.BytesCapacity
		r.BytesTransferred += d.BytesTransferred
		r.BytesSkipped += d.BytesSkipped
		r.BytesResent += d.BytesResent
		AddSpeed(&r.BytesPerSecond, d.BytesPerSecond)
		AddSpeed(&r.BytesPerSecondAverage, SpeedOf(b.disks[ds.Disk.ID].speed.slowAt(now, ds.Phase)))
		if d.BytesToTransfer == nil {
			planned = false
			continue
		}
		total += *d.BytesToTransfer
	}
	b.peak = max(b.peak, SpeedOr0(r.BytesPerSecond))
	r.BytesPerSecondPeak = b.peak
	if len(b.state.Disks) > 0 {
		r.BytesCapacity = &capacity
	}
	if planned {
		r.BytesToTransfer = &total
		r.Percent = percent(r.BytesTransferred+r.BytesSkipped, total, b.allCopied())
		b.addETA(r)
	}
	b.addLoad(r)
}

func (b *Builder) reportDisk(ds job.DiskState, now time.Time) Disk {
	d := b.disk(ds.Disk.ID, b.state.Round())
	out := Disk{
		DiskID: ds.Disk.ID, Label: ds.Disk.Label, File: ds.Disk.File, Target: ds.Target, Mode: ds.Mode,
		Status:        ds.Phase,
		BytesCapacity: ds.Disk.Capacity, BytesTransferred: d.transferred, BytesSkipped: d.skipped,
		BytesDurable: d.durable, BytesVerified: d.verified, Attempt: ds.Attempt, Restarts: ds.Restarts,
		BackoffUntil: stamp(ds.BackoffUntil), LastCause: errorOf(ds.LastCause), ChangeID: ds.Disk.ChangeID,
		LastByteAt: stamp(d.lastByte), Stamped: stamped(ds), ProvedAt: b.provedAt(ds),
	}
	sent := ds.Sent
	if running(ds) && d.attempt == ds.Attempt {
		sent += d.live.Transferred - d.live.ResumedTransferred
		out.Transport, out.SourcePID, out.Load = d.transport, d.pid, d.load
		out.BytesPerSecond = SpeedOf(d.speed.fastAt(now))
	}
	d.resent = max(d.resent, sent-d.transferred)
	out.BytesResent = d.resent
	if ds.Planned() {
		n := ds.ToTransfer
		out.BytesToTransfer = &n
		out.Percent = percent(out.BytesTransferred+out.BytesSkipped, n, ds.Copied())
		if left := n - out.BytesTransferred - out.BytesSkipped; running(ds) && now.Sub(d.speed.since) >= etaAfter {
			out.ETASeconds, _ = eta(left, d.speed.slow, now)
		}
	}
	if running(ds) && d.attempt == ds.Attempt {
		out.WaitingFor = d.waitsFor
		if b.stalled(d, now) {
			out.StalledSince, out.WaitingFor = stamp(d.lastActivity), d.slowSide()
		}
	}
	return out
}

// fastAt is the reported speed. It is 0 when no sample came for 10 s.
func (r *rate) fastAt(now time.Time) float64 {
	if idle := now.Sub(r.at); idle > 2*fastWindow {
		return 0
	}
	return r.fast
}

// slowAt is the reported average of a disk in that phase. It decreases while no sample comes.
func (r *rate) slowAt(now time.Time, p job.DiskPhase) float64 {
	if p != job.DiskRunning {
		return 0
	}
	return r.slow * min(1, float64(slowWindow)/float64(max(1, now.Sub(r.at))))
}

// percent of bytes. It is 100 only if certain, that is, if all of them are durable; else at most 99.99.
func percent(done, total int64, certain bool) *float64 {
	p := 100.0
	if !certain {
		p = 0
		if total > 0 {
			p = min(99.99, float64(int64(10000*float64(done)/float64(total)))/100)
		}
	}
	return &p
}

func running(d job.DiskState) bool { return d.Phase == job.DiskRunning }

func (b *Builder) allCopied() bool {
	for _, d := range b.state.Disks {
		if !d.Copied() {
			return false
		}
	}
	return true
}

// addETA sets the ETA of the slowest disk. It sets none if a disk with bytes left has no ETA.
func (b *Builder) addETA(r *Report) {
	if b.state.Phase != job.Transfer || b.state.Paused {
		return
	}
	worst := int64(-1)
	for _, d := range r.Disks {
		if d.Status == job.DiskRunning && d.ETASeconds != nil {
			worst = max(worst, *d.ETASeconds)
		} else if d.Status != job.DiskCopied && d.Status != job.DiskDone && d.Status != job.DiskVerifying {
			return
		}
	}
	if worst >= 0 {
		at := r.ObservedAt.Add(time.Duration(worst) * time.Second).Truncate(time.Second)
		r.ETASeconds, r.ETAAt = &worst, &at
	}
}

// addLoad sets the mean load of the running disks.
func (b *Builder) addLoad(r *Report) {
	n := 0.0
	for _, d := range r.Disks {
		if d.Status == job.DiskRunning {
			n++
			r.Load.Source += d.Load.Source
			r.Load.Target += d.Load.Target
			r.Load.Throttle += d.Load.Throttle
		}
	}
	if n > 0 {
		r.Load = Load{r.Load.Source / n, r.Load.Target / n, r.Load.Throttle / n}
	}
}

func (b *Builder) addRounds(r *Report) {
	r.Phases = make([]Phase, 0, len(b.state.Phases))
	for _, p := range b.state.Phases {
		r.Phases = append(r.Phases, Phase{
			Name: p.Phase, Round: p.Round, StartedAt: p.StartedAt, EndedAt: stamp(p.EndedAt),
		})
	}
	r.Rounds = make([]Round, 0, len(b.state.Rounds))
	for i, o := range b.state.Rounds {
		rr := Round{
			Round: o.Number, Mode: o.Mode, StartedAt: o.StartedAt, EndedAt: stamp(o.EndedAt),
			BytesToTransfer: o.Counters.ToTransfer, BytesTransferred: o.Counters.Transferred,
			BytesSkipped: o.Counters.Skipped, BytesResent: o.Resent,
		}
		if !o.EndedAt.IsZero() {
			d := o.EndedAt.Sub(o.StartedAt).Seconds()
			rr.DurationSeconds = &d
		} else if i == len(b.state.Rounds)-1 {
			rr.BytesTransferred, rr.BytesSkipped, rr.BytesResent = r.BytesTransferred, r.BytesSkipped, r.BytesResent
			if r.BytesToTransfer != nil {
				rr.BytesToTransfer = *r.BytesToTransfer
			}
		}
		r.Rounds = append(r.Rounds, rr)
	}
}

// Shares of a round, in percent: preparation, copy, verification. The commit has the rest.
const (
	shareReady  = 2
	shareBytes  = 92
	shareVerify = 5
)

// addPercent sets the overall percent. A round begins where the last committed round ended. The last round ends at 99.
// Any other ends at 90 if it is the first, else halfway between the end of the round before it and 99. Completed is
// 100.
func (b *Builder) addPercent(r *Report) {
	s := b.state
	if s.Phase == job.Completed {
		b.overall = 100
	} else if n := s.Round(); n > 0 {
		low, high := 0.0, 90.0
		for _, earlier := range s.Rounds[:n-1] {
			if !earlier.EndedAt.IsZero() { // a round that was not committed does not count
				low, high = high, high+(99-high)/2
			}
		}
		if s.Final {
			high = 99
		}
		b.overall = max(b.overall, min(99.99, low+(high-low)*b.roundShare(r)/100))
	}
	r.OverallPercent = float64(int64(b.overall*100)) / 100
}

// roundShare is how much of the round is done, in percent.
func (b *Builder) roundShare(r *Report) float64 {
	switch b.state.Phase {
	case job.Queued, job.Preflight, job.EnablingCBT, job.Snapshot:
		return 0
	case job.Connect:
		return shareReady / 2
	case job.Transfer:
		if r.Percent == nil {
			return shareReady
		}
		return shareReady + shareBytes**r.Percent/100
	case job.Verify:
		var done, all int64
		for _, d := range r.Disks {
			ds := b.disks[d.DiskID]
			done, all = done+ds.live.Verified, all+ds.live.ToVerify
		}
		return shareReady + shareBytes + shareVerify*float64(done)/float64(max(1, all))
	case job.Commit, job.Waiting:
		return 100
	case job.Cleanup, job.Completed, job.Failed, job.PhaseCancelled:
		if b.state.Failure != nil || b.state.Cancelling {
			return 0 // the overall percent does not decrease, so it stays
		}
		return 100
	}
	return 0
}

// addHealth sets the health flags, and since when the job is stalled.
func (b *Builder) addHealth(r *Report, now time.Time, degraded bool) {
	retrying, stale, limited := !b.state.Step.Until.IsZero(), false, false
	for i, ds := range b.state.Disks {
		retrying = retrying || ds.Phase == job.DiskBackoff
		if !running(ds) {
			continue
		}
		if d := b.disks[ds.Disk.ID]; !d.lastProgress.IsZero() && now.Sub(d.lastProgress) > StaleAfter {
			stale = true
		}
		limited = limited || b.disks[ds.Disk.ID].waitsFor != ""
		if since := r.Disks[i].StalledSince; since != nil && (r.StalledSince == nil || since.Before(*r.StalledSince)) {
			r.StalledSince, r.WaitingFor = since, r.Disks[i].WaitingFor
		}
	}
	b.addStep(r, now)
	add := func(on bool, h Health) {
		if on {
			r.Health = append(r.Health, h)
		}
	}
	add(r.Load.Throttle > 0.5 || limited, Throttled)
	add(retrying && !b.state.Phase.Terminal(), Retrying)
	add(r.Wait != nil, Unavailable)
	add(b.silentStep(), Silent)
	add(r.StalledSince != nil, Stalled)
	add(degraded && !b.state.Phase.Terminal(), Degraded)
	add(stale, Stale)
}

// Values of WaitingFor.
const (
	waitsForSource  = "source"
	waitsForTarget  = "target"
	waitsForVCenter = "vcenter"
	waitsForJournal = "journal"
)

// slowStep is how long the removal of a snapshot may take before it is stalled: a vCenter consolidates its files
// slowly.
const slowStep = 10 * time.Minute

// addStep says what a step of the job itself waits for, and since when if the step is stalled.
func (b *Builder) addStep(r *Report, now time.Time) {
	s := b.state
	patience := StallAfter
	switch s.Phase {
	case job.Preflight, job.EnablingCBT, job.Snapshot, job.Connect:
		r.WaitingFor = waitsForVCenter
	case job.Commit:
		r.WaitingFor = waitsForJournal
		if s.Committed() {
			r.WaitingFor, patience = waitsForVCenter, slowStep
		}
	case job.Cleanup:
		r.WaitingFor, patience = waitsForVCenter, slowStep
	case job.Queued, job.Transfer, job.Verify, job.Waiting, job.Completed, job.Failed, job.PhaseCancelled:
		return
	}
	if r.Wait != nil {
		r.WaitingFor = r.Wait.For
	}
	if began := s.Phases[len(s.Phases)-1].StartedAt; s.Step.Until.IsZero() && now.Sub(began) >= patience {
		r.StalledSince = &began
	}
}

// slowSide is the side that the disk waited for most since its last activity.
func (d *diskBuilder) slowSide() string {
	if d.live.TargetWait-d.atLastActivity.TargetWait > d.live.SourceWait-d.atLastActivity.SourceWait {
		return waitsForTarget
	}
	return waitsForSource
}

// stalled says whether a running disk has had no activity for StallAfter although no limit and no pause holds it back.
func (b *Builder) stalled(d *diskBuilder, now time.Time) bool {
	return d.waitsFor == "" && !d.lastActivity.IsZero() && now.Sub(d.lastActivity) >= StallAfter &&
		d.load.Throttle <= 0.5 && !b.state.Paused
}

// age is a duration in words, to the minute.
func age(d time.Duration) string {
	d = max(0, d.Truncate(time.Minute))
	if d < time.Minute {
		return "less than a minute"
	}
	return strings.TrimSuffix(d.String(), "0s")
}

// keptSnapshot says that a paused job keeps its snapshot, and how old the snapshot is.
func keptSnapshot(h job.HeldSnapshot, now time.Time) string {
	return "the snapshot is kept, and is " + age(now.Sub(h.TakenAt)) + " old"
}

// operation says in words what the job does now, or waits for.
func (b *Builder) operation(r Report) string {
	does := b.does(r)
	return cmp.Or(b.waitOperation(r, does), does)
}

// does says in words what the job does where nothing holds it up.
func (b *Builder) does(r Report) string {
	s := b.state
	if !s.Step.Until.IsZero() && s.Failure != nil {
		return "waits to try again: " + s.Failure.Message
	}
	switch s.Phase {
	case job.Queued:
		return "waits for its turn"
	case job.Preflight:
		return "checks the VM, its disks and the targets"
	case job.EnablingCBT:
		return "makes sure that changed blocks are tracked"
	case job.Snapshot:
		return "takes a snapshot of all disks"
	case job.Connect:
		return "prepares the targets and asks what must be read"
	case job.Transfer:
		if s.Paused {
			return "paused; " + keptSnapshot(s.HeldSnapshot, r.ObservedAt)
		}
		return fmt.Sprintf("copies %d disks, round %d (%s)", len(r.Disks), r.Round, r.Mode)
	case job.Verify:
		if s.Paused {
			return "paused while reading back; " + keptSnapshot(s.HeldSnapshot, r.ObservedAt)
		}
		return "reads the targets back and compares"
	case job.Commit:
		return "records the checkpoint set and removes the snapshot"
	case job.Waiting:
		return "in step; waits for sync or cutover"
	case job.Cleanup:
		return "removes its snapshot, and with purge its targets"
	case job.Completed:
		return "every byte is on the targets"
	case job.Failed:
		return "failed"
	case job.PhaseCancelled:
		return "cancelled"
	}
	return string(s.Phase)
}
