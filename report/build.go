package report

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/vmferry/vmferry/job"
)

// Report is the report of the job at the time now. degraded says that a projection does not take reports. The caller
// sets Epoch and Seq.
func (b *Builder) Report(now time.Time, degraded bool) Report {
	b.countWaits(now)
	s := b.state
	r := Report{
		JobID: s.ID, ObservedAt: now, Origin: Own, Mode: s.Mode(), Status: s.Status(), Phase: s.Phase, Round: s.Round(),
		VM: VM{
			Name: cmp.Or(s.VM.Name, s.Spec.VM), Path: cmp.Or(s.VM.Path, s.Spec.VM), Ref: s.VM.Ref,
			UUID: s.VM.UUID, CBTEnabled: s.VM.CBTEnabled, PowerState: s.VM.PowerState,
			VCenter: s.VM.VCenter, Datacenter: s.VM.Datacenter,
		},
		RequestedMode: &s.Spec.Mode, Options: &s.Spec.Options,
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
	b.addLoad(&r)
	b.addPercent(&r)
	b.addWaits(&r, now)
	if !s.Phase.Terminal() {
		b.addHealth(&r, now, degraded)
	}
	r.Operation = b.operation(r)
	b.addCrash(&r)
	return r
}

// AtRest is the report without what was true only while the job was followed: its speeds and times left, and its
// measured flags. It is for a job whose daemon has ended, until its actor says how it goes on.
func (r Report) AtRest() Report {
	r.Health = slices.DeleteFunc(append([]Health{}, r.Health...), func(h Health) bool {
		return h != Retrying && h != Unavailable && h != Degraded
	})
	r.Disks = slices.Clone(r.Disks)
	r.abandon()
	return r
}

// stand takes the speeds and the times left out of the report, and of its disks.
func (r *Report) stand() {
	r.BytesPerSecond, r.BytesPerSecondAverage, r.ETASeconds, r.ETAAt = nil, nil, nil, nil
	for i := range r.Disks {
		r.Disks[i].BytesPerSecond, r.Disks[i].ETASeconds = nil, nil
	}
}

// abandon takes out all that is true only while attempts go on.
func (r *Report) abandon() {
	r.stand()
	r.StalledSince, r.WaitingFor = nil, ""
	for i := range r.Disks {
		d := &r.Disks[i]
		d.StalledSince, d.SilentSince = nil, nil
		d.WaitingFor, d.Load, d.SourcePID, d.Transport = "", Load{}, 0, ""
	}
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

// SpeedOf is the speed for a report: nil for none, for less than one byte in a hundred seconds, and for what is no
// number. It is at most MaxSpeed.
func SpeedOf(s float64) *float64 {
	if !(s >= 0.01) {
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

// seconds is the time from a begin to an end; nil without an end.
func seconds(begin, end time.Time) *float64 {
	if end.IsZero() {
		return nil
	}
	d := end.Sub(begin).Seconds()
	return &d
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
	moves := false
	for _, ds := range b.state.Disks {
		d := b.reportDisk(ds, now)
		r.Disks = append(r.Disks, d)
		capacity = add(capacity, d.BytesCapacity)
		r.BytesTransferred = add(r.BytesTransferred, d.BytesTransferred)
		r.BytesSkipped = add(r.BytesSkipped, d.BytesSkipped)
		r.BytesResent = add(r.BytesResent, d.BytesResent)
		moves = moves || b.copies(ds)
		if t := d.SampledAt; t != nil && (r.SampledAt == nil || t.After(*r.SampledAt)) {
			r.SampledAt = t
		}
		if d.BytesToTransfer == nil {
			planned = false
			continue
		}
		total = add(total, *d.BytesToTransfer)
	}
	if moves { // of all disks together: their sum would count bytes of different moments as one moment's
		if r.BytesPerSecond = SpeedOf(b.speed.fastAt(now)); r.BytesPerSecond != nil {
			r.BytesPerSecondAverage = SpeedOf(b.speed.slowAt(now))
		}
	}
	b.peak = max(b.peak, SpeedOr0(r.BytesPerSecond))
	r.BytesPerSecondPeak = b.peak
	if len(b.state.Disks) > 0 {
		r.BytesCapacity = &capacity
	}
	if planned {
		r.BytesToTransfer = &total
		r.Percent = percent(add(r.BytesTransferred, r.BytesSkipped), total, b.allCopied())
		b.addETA(r)
	}
}

// provisioning says how the disk takes room in its datastore.
func provisioning(d job.Disk) string {
	if d.Thin {
		return "thin"
	}
	return "thick"
}

// copies says whether an attempt copies the disk now, and its numbers are known.
func (b *Builder) copies(ds job.DiskState) bool {
	return ds.Phase == job.DiskRunning && b.works(ds) && !b.state.Paused && b.disks[ds.Disk.ID].waitsFor == ""
}

// works says whether an attempt copies the disk or reads it back, and has sent progress.
func (b *Builder) works(ds job.DiskState) bool {
	return b.busy(ds) && b.disk(ds.Disk.ID, b.state.Round()).attempt == ds.Attempt
}

// busy says whether an attempt at the disk goes on.
func (b *Builder) busy(ds job.DiskState) bool {
	return !b.state.Phase.Terminal() && (ds.Phase == job.DiskRunning || ds.Phase == job.DiskVerifying)
}

func (b *Builder) reportDisk(ds job.DiskState, now time.Time) Disk {
	d := b.disk(ds.Disk.ID, b.state.Round())
	out := Disk{
		DiskID: ds.Disk.ID, Label: ds.Disk.Label, File: ds.Disk.File, Target: ds.Target, Mode: ds.Mode,
		Status:        ds.Phase,
		BytesCapacity: ds.Disk.Capacity, BytesTransferred: d.transferred, BytesSkipped: d.skipped,
		BytesDurable: d.durable, BytesVerified: d.verified, Attempt: ds.Attempt, Restarts: ds.Restarts,
		LastCause: errorOf(ds.LastCause), ChangeID: ds.Disk.ChangeID,
		LastByteAt: stamp(d.lastByte), SampledAt: stamp(d.sampled), Stamped: stamped(ds), ProvedAt: b.provedAt(ds),
		Volume: ds.Volume, Unit: &ds.Disk.Unit, Provisioning: provisioning(ds.Disk),
	}
	if before, ok := b.state.Base.Disk(ds.Disk.ID); ok && ds.Mode != job.Full {
		out.PreviousChangeID = before.ChangeID
	}
	if !b.state.Phase.Terminal() {
		out.BackoffUntil = stamp(ds.BackoffUntil)
	}
	sent := ds.Sent
	if ds.Phase == job.DiskRunning && d.attempt == ds.Attempt {
		sent = add(sent, d.live.Transferred-d.live.ResumedTransferred)
	}
	d.resent = max(d.resent, add(sent, -d.transferred))
	out.BytesResent = d.resent
	if b.copies(ds) {
		out.BytesPerSecond = SpeedOf(d.speed.fastAt(now))
	}
	if ds.Planned() {
		n := ds.ToTransfer
		out.BytesToTransfer = &n
		done := add(out.BytesTransferred, out.BytesSkipped)
		out.Percent = percent(done, n, ds.Copied())
		if out.BytesPerSecond != nil && now.Sub(d.speed.since) >= etaAfter {
			out.ETASeconds, _ = eta(add(n, -done), d.speed.doneAt(now), now)
		}
	}
	if b.works(ds) {
		out.Transport, out.SourcePID, out.Load = d.transport, d.pid, d.speed.load(shortWindow)
		out.WaitingFor = d.waitsFor
		if b.stalled(d, now) {
			out.StalledSince, out.WaitingFor = stamp(d.lastActivity), d.slowSide()
		}
		if d.silent(now) { // also while it is to pause: it can't end then
			out.SilentSince, out.WaitingFor = stamp(d.silentSince), d.silentSide
		}
	}
	return out
}

// percent of bytes. It is 100 only if certain, that is, if all of them are durable; else at most 99.99.
func percent(done, total int64, certain bool) *float64 {
	p := 100.0
	if !certain {
		p = 0
		if total > 0 {
			p = math.Floor(10000*max(0, min(0.9999, float64(done)/float64(total)))) / 100
		}
	}
	return &p
}

func (b *Builder) allCopied() bool {
	for _, d := range b.state.Disks {
		if !d.Copied() {
			return false
		}
	}
	return true
}

// addETA sets the ETA of the slowest disk. It sets none while nothing moves, or if a disk with bytes left has no ETA.
func (b *Builder) addETA(r *Report) {
	if b.state.Phase != job.Transfer || r.BytesPerSecond == nil {
		return
	}
	worst := int64(-1)
	for _, d := range r.Disks {
		left := d.BytesToTransfer != nil && add(d.BytesTransferred, d.BytesSkipped) < *d.BytesToTransfer
		switch {
		case d.ETASeconds != nil:
			worst = max(worst, *d.ETASeconds)
		case left:
			return
		}
	}
	if worst >= 0 {
		at := r.ObservedAt.Add(time.Duration(worst) * time.Second).Truncate(time.Second)
		r.ETASeconds, r.ETAAt = &worst, &at
	}
}

// addLoad sets the mean load of the disks that are worked on. While none is, it is that of the whole round.
func (b *Builder) addLoad(r *Report) {
	n := 0.0
	for i, ds := range b.state.Disks {
		if b.works(ds) {
			n++
			load := r.Disks[i].Load
			r.Load.Source += load.Source
			r.Load.Target += load.Target
			r.Load.Throttle += load.Throttle
		}
	}
	switch k := len(r.Rounds); {
	case n > 0:
		r.Load = Load{r.Load.Source / n, r.Load.Target / n, r.Load.Throttle / n}
	case k > 0:
		r.Load = r.Rounds[k-1].Load
	}
}

// roundLoad is what the copies of the current round waited for, from its begin on.
func (b *Builder) roundLoad() Load {
	var w job.Waited
	for _, ds := range b.state.Disks {
		w = w.And(ds.Waited)
		if ds.Phase == job.DiskRunning && b.works(ds) {
			w = w.And(b.disks[ds.Disk.ID].live.Waited())
		}
	}
	if w.Of == 0 && b.kept.round == b.state.Round() {
		return b.kept.load // of the attempt that the end of the daemon has cut off
	}
	return loadOf(w)
}

func (b *Builder) addRounds(r *Report) {
	r.Phases = make([]Phase, 0, len(b.state.Phases))
	for _, p := range b.state.Phases {
		out := Phase{
			Name: p.Phase, Round: p.Round, StartedAt: p.StartedAt, EndedAt: stamp(p.EndedAt),
			DurationSeconds: seconds(p.StartedAt, p.EndedAt),
		}
		end := p.EndedAt
		if end.IsZero() {
			end = r.ObservedAt
		}
		out.Waits, out.WaitedSeconds = b.waited.list(stay{p.Phase, p.StartedAt.UnixNano()}, end.Sub(p.StartedAt))
		r.Phases = append(r.Phases, out)
	}
	r.Rounds = make([]Round, 0, len(b.state.Rounds))
	for i, o := range b.state.Rounds {
		rr := Round{
			Round: o.Number, Mode: o.Mode, StartedAt: o.StartedAt, EndedAt: stamp(o.EndedAt),
			BytesToTransfer: o.Counters.ToTransfer, BytesTransferred: o.Counters.Transferred,
			BytesSkipped: o.Counters.Skipped, BytesResent: o.Resent, BytesKept: o.Kept, Load: loadOf(o.Waited),
		}
		rr.DurationSeconds = seconds(o.StartedAt, o.EndedAt)
		if o.EndedAt.IsZero() && i == len(b.state.Rounds)-1 {
			rr.BytesTransferred, rr.BytesSkipped, rr.BytesResent = r.BytesTransferred, r.BytesSkipped, r.BytesResent
			rr.Load = b.roundLoad()
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
			done, all = add(done, ds.live.Verified), add(all, ds.live.ToVerify)
		}
		return shareReady + shareBytes + shareVerify*max(0, min(1, float64(done)/float64(max(1, all))))
	case job.Commit, job.Waiting:
		return 100
	case job.Cleanup, job.Completed, job.Failed, job.PhaseCancelled:
		if b.state.Outcome != job.Completed {
			return 0 // the overall percent does not decrease, so it stays
		}
		return 100
	}
	return 0
}

// limited says whether a disk waits for a limit: for a permit, or for more than half of the last two seconds for bytes.
func (b *Builder) limited(ds job.DiskState) bool {
	d := b.disks[ds.Disk.ID]
	return b.works(ds) && !b.state.Paused && (d.waitsFor != "" || d.speed.load(flagWindow).Throttle > 0.5)
}

// addHealth sets the health flags, and since when the job is stalled. What the state says holds at once. What is
// measured comes when it was so for the flag's own time, and goes when it was not so for two seconds.
func (b *Builder) addHealth(r *Report, now time.Time, degraded bool) {
	retrying, stale, limited, silent := !b.state.Step.Until.IsZero(), false, false, false
	for i, ds := range b.state.Disks {
		retrying = retrying || ds.Phase == job.DiskBackoff
		if !b.busy(ds) {
			continue
		}
		out := r.Disks[i]
		stale = stale || b.disks[ds.Disk.ID].stale(ds.Attempt, now)
		limited = limited || b.limited(ds)
		if out.SilentSince != nil {
			silent, r.WaitingFor = true, cmp.Or(r.WaitingFor, out.WaitingFor)
		}
		if since := out.StalledSince; since != nil && (r.StalledSince == nil || since.Before(*r.StalledSince)) {
			r.StalledSince, r.WaitingFor = since, out.WaitingFor
		}
	}
	b.addStep(r, now)
	measured := func(h Health, cond bool, comes time.Duration) {
		if b.flags[h] == nil {
			b.flags[h] = &steady{}
		}
		if b.flags[h].follow(cond, comes, now) {
			r.Health = append(r.Health, h)
		}
	}
	measured(Throttled, limited, FlagAfter)
	if retrying {
		r.Health = append(r.Health, Retrying)
	}
	if r.Wait != nil {
		r.Health = append(r.Health, Unavailable)
	}
	measured(Silent, silent || b.silentStep(), 0) // after SilentAfter
	measured(Stalled, r.StalledSince != nil, 0)   // after StallAfter
	measured(Degraded, degraded, FlagAfter)
	measured(Stale, stale, 0) // after StaleAfter
}

// stale says whether the attempt has sent no progress for StaleAfter, also if it has never sent any.
func (d *diskBuilder) stale(attempt int, now time.Time) bool {
	if d.attempt == attempt {
		return now.Sub(d.lastProgress) > StaleAfter
	}
	if d.expected != attempt || now.Before(d.expectedSince) {
		d.expected, d.expectedSince = attempt, now
	}
	return now.Sub(d.expectedSince) > StaleAfter
}

// silent says whether a request has been under way without a sign of life of its side, a second less than SilentAfter:
// the report takes up to a second to those who read it.
func (d *diskBuilder) silent(now time.Time) bool {
	return !d.silentSince.IsZero() && now.Sub(d.silentSince) >= SilentAfter-time.Second
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
		d.speed.load(flagWindow).Throttle <= 0.5 && !b.state.Paused
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
	waits := b.waitOperation(r, does)
	switch {
	case !r.Cancelling:
		return cmp.Or(waits, does)
	case waits == "" && (b.state.Phase == job.Transfer || b.state.Phase == job.Verify):
		return "cancelling: ends what runs and records what is durable"
	default:
		return "cancelling: " + cmp.Or(waits, does)
	}
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
