package actors_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vmferry/vmferry/actors"
	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
	"github.com/vmferry/vmferry/transfer"
)

const mib = 1 << 20

// journal keeps states and sets in memory, by the rules of the real journal.
type journal struct {
	mu     sync.Mutex
	states map[job.ID]job.State
	order  []job.ID
	sets   map[string]*job.CheckpointSet
	broken error // what Save answers while it is set
}

func newJournal() *journal {
	return &journal{states: map[job.ID]job.State{}, sets: map[string]*job.CheckpointSet{}}
}

func (j *journal) Create(_ context.Context, st job.State, _ []byte, _, _ string) (job.ID, bool, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, o := range j.states {
		if o.ID == st.ID || o.Spec.VM == st.Spec.VM && !o.Phase.Terminal() {
			return "", false, job.Errorf("create", job.Conflict, "", "job %s moves %s", o.ID, o.Spec.VM)
		}
	}
	j.states[st.ID] = st
	j.order = append(j.order, st.ID)
	return st.ID, false, nil
}

func (j *journal) active(id job.ID) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	st, ok := j.states[id]
	return ok && !st.Phase.Terminal()
}

func (j *journal) Lookup(context.Context, string, string, time.Time) (job.ID, bool, error) {
	return "", false, nil
}

func (j *journal) Save(_ context.Context, st job.State, event []byte) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.broken != nil {
		return j.broken
	}
	if len(event) == 0 || j.states[st.ID].Seq+1 != st.Seq {
		return job.Errorf("save", job.Conflict, "", "seq %d after %d", st.Seq, j.states[st.ID].Seq)
	}
	j.states[st.ID] = st
	return nil
}

func (j *journal) Jobs(context.Context) (out []job.State, _ error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, id := range j.order {
		out = append(out, j.states[id])
	}
	return out, nil
}

func (j *journal) Delete(_ context.Context, id job.ID) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	st, ok := j.states[id]
	if !ok {
		return job.Errorf("delete", job.NotFound, "", "no job %s", id)
	}
	if !st.Phase.Terminal() {
		return job.Errorf("delete", job.Conflict, "", "job %s is %s", id, st.Phase)
	}
	delete(j.states, id)
	return nil
}

func (j *journal) Commit(_ context.Context, set job.CheckpointSet) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.sets[set.VMUUID] = &set
	return nil
}

func (j *journal) Set(_ context.Context, uuid string) (*job.CheckpointSet, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.sets[uuid], nil
}

func (j *journal) DropSet(_ context.Context, uuid string) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	delete(j.sets, uuid)
	return nil
}

func (j *journal) state(id job.ID) job.State {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.states[id]
}

// lose drops everything, as the loss of the state directory does.
func (j *journal) lose() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.states, j.order, j.sets = map[job.ID]job.State{}, nil, map[string]*job.CheckpointSet{}
}

// replace sets the state of a job, as another version left it.
func (j *journal) replace(st job.State) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.states[st.ID] = st
}

func (j *journal) breakWith(err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.broken = err
}

// outage is a peer that is unavailable while it is on: what needs it fails, or gets no answer.
type outage struct {
	peer job.Peer
	mu   sync.Mutex
	on   bool
	hung bool
}

func (o *outage) begin(hung bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.on, o.hung = true, hung
}

func (o *outage) end() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.on = false
}

// err is nil while the peer is there.
func (o *outage) err(ctx context.Context) error {
	o.mu.Lock()
	on, hung := o.on, o.hung
	o.mu.Unlock()
	if !on {
		return nil
	}
	if !hung {
		return job.At(o.peer, job.Errorf("call", job.Unavailable, "", "connection refused"))
	}
	call := job.Calling(ctx, o.peer)
	pauseFor(ctx, 2*time.Minute)
	if ctx.Err() != nil {
		return call.Done(ctx.Err())
	}
	return call.Done(job.At(o.peer, job.Errorf("call", job.Timeout, "", "no answer")))
}

// vcenter has VMs with disks of 100 MiB. Each call takes a second.
type vcenter struct {
	outage
	after     func(what string) // is called after each call that succeeded; nil for nothing
	mu        sync.Mutex
	disks     int
	taken     int
	snapshots []job.FoundSnapshot
	fail      map[string][]error
	calls     []string
}

func (v *vcenter) do(ctx context.Context, what string) error {
	pauseFor(ctx, time.Second)
	v.mu.Lock()
	defer v.mu.Unlock()
	v.calls = append(v.calls, what)
	v.mu.Unlock()
	err := v.err(ctx)
	v.mu.Lock()
	if err != nil {
		return err
	}
	if v.after != nil {
		defer v.after(what)
	}
	if errs := v.fail[what]; len(errs) > 0 {
		v.fail[what] = errs[1:]
		return errs[0]
	}
	return ctx.Err()
}

// pauseFor waits for d, or until ctx ends. It makes no timer that is over at once: in a bubble of synctest, several
// threads of Go 1.26 run such timers in one context of the race detector, and that crashes.
func pauseFor(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

func (v *vcenter) list(change string) (out []job.Disk) {
	for i := range v.disks {
		out = append(out, job.Disk{
			ID: job.NewDiskID(int32(2000 + i)), Key: int32(2000 + i), Capacity: 100 * mib, ChangeID: change,
		})
	}
	return out
}

func (v *vcenter) Inspect(ctx context.Context, vm string) (job.VM, error) {
	return job.VM{Ref: "vm-1", UUID: "uuid-" + vm, Name: vm, Disks: v.list("")}, v.do(ctx, "inspect")
}

func (v *vcenter) EnsureCBT(ctx context.Context, _ job.VM) (bool, error) {
	return true, v.do(ctx, "cbt")
}

func (v *vcenter) Snapshot(ctx context.Context, vm job.VM, want job.SnapshotRef, _ bool) (job.VMSnapshot, error) {
	if err := v.do(ctx, "snapshot"); err != nil {
		return job.VMSnapshot{}, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	i := slices.IndexFunc(v.snapshots, func(s job.FoundSnapshot) bool { return isOwn(s, want) })
	if i < 0 {
		i = len(v.snapshots)
		v.add(job.FoundSnapshot{VM: vm, SnapshotRef: want, Owner: "node-1"})
	}
	return job.VMSnapshot{
		Ref: v.snapshots[i].Ref, Name: v.snapshots[i].Name, Disks: v.list(fmt.Sprintf("52/%d", v.taken)),
	}, nil
}

func (v *vcenter) CheckSnapshot(ctx context.Context, _ job.VM, which job.SnapshotRef) error {
	if err := v.do(ctx, "check"); err != nil {
		return err
	}
	if !v.has(which.Ref) {
		return job.Errorf("look", job.Conflict, "", "snapshot %s was removed", which.Ref)
	}
	return nil
}

// isOwn says whether node-1 took the snapshot for that job and round.
func isOwn(s job.FoundSnapshot, want job.SnapshotRef) bool {
	return s.Owner == "node-1" && s.Mark == want.Mark && (want.Mark != "" || s.Name == want.Name)
}

// add makes a snapshot. The caller holds the lock.
func (v *vcenter) add(s job.FoundSnapshot) {
	v.taken++
	s.Ref = fmt.Sprintf("snapshot-%d", v.taken)
	v.snapshots = append(v.snapshots, s)
}

func (v *vcenter) RemoveSnapshot(ctx context.Context, _ job.VM, which job.SnapshotRef) error {
	if err := v.do(ctx, "remove"); err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.snapshots = slices.DeleteFunc(v.snapshots, func(s job.FoundSnapshot) bool {
		return s.Ref == which.Ref || isOwn(s, which)
	})
	return nil
}

func (v *vcenter) OurSnapshots(context.Context) ([]job.FoundSnapshot, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.Clone(v.snapshots), nil
}

// put makes a snapshot that a node took, and returns its reference.
func (v *vcenter) put(node, name, mark string) string {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.add(job.FoundSnapshot{
		VM: job.VM{Ref: "vm-29"}, SnapshotRef: job.SnapshotRef{Name: name, Mark: mark}, Owner: node,
		TakenAt: time.Now(),
	})
	return v.snapshots[len(v.snapshots)-1].Ref
}

// lose removes a snapshot, as another program would.
func (v *vcenter) lose(ref string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.snapshots = slices.DeleteFunc(v.snapshots, func(s job.FoundSnapshot) bool { return s.Ref == ref })
}

func (v *vcenter) has(ref string) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.ContainsFunc(v.snapshots, func(s job.FoundSnapshot) bool { return s.Ref == ref })
}

func (v *vcenter) count() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return len(v.snapshots)
}

func (v *vcenter) failNext(what string, errs ...error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.fail[what] = append(v.fail[what], errs...)
}

// targets are volumes that exist or do not. It keeps which are open, to prove that none is left open.
type targets struct {
	outage
	mu       sync.Mutex
	exists   map[string]bool
	open     map[job.VolumeRef]bool
	replaced map[string]bool // replaced while they were written
	fail     error           // what Open answers, once
}

func newTargets() *targets {
	return &targets{exists: map[string]bool{}, open: map[job.VolumeRef]bool{}, replaced: map[string]bool{}}
}

func (v *targets) Known(context.Context, job.VolumeOwner) (map[job.DiskID]string, error) {
	return nil, nil
}

func (v *targets) Claim(ctx context.Context, claims []job.VolumeClaim, accept func(context.Context) error) (
	out []job.TargetInfo, err error,
) {
	if accept != nil {
		return nil, accept(ctx)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, c := range claims {
		out = append(out, v.info(c.Target))
	}
	return out, nil
}

func (v *targets) info(target string) job.TargetInfo {
	if !v.exists[target] {
		return job.TargetInfo{Volume: "row of " + target}
	}
	return job.TargetInfo{Exists: true, Identity: "inode of " + target, Volume: "row of " + target}
}

func (v *targets) Open(ctx context.Context, ref job.VolumeRef) (job.TargetInfo, error) {
	if err := v.err(ctx); err != nil {
		return job.TargetInfo{}, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if err := v.fail; err != nil {
		v.fail = nil
		return job.TargetInfo{}, err
	}
	if v.exists[ref.Target] {
		v.open[ref] = true
	}
	return v.info(ref.Target), nil
}

func (v *targets) Prepare(_ context.Context, ref job.VolumeRef) (job.TargetInfo, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	fresh := !v.exists[ref.Target]
	v.exists[ref.Target], v.open[ref] = true, true
	out := v.info(ref.Target)
	out.Zero = fresh
	return out, nil
}

func (v *targets) Confirm(ctx context.Context, ref job.VolumeRef, _ string) (job.TargetInfo, error) {
	if err := v.err(ctx); err != nil {
		return job.TargetInfo{}, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.replaced[ref.Target] {
		return job.TargetInfo{}, job.Errorf("confirm", job.Conflict, "", "%s was replaced", ref.Target)
	}
	return v.info(ref.Target), nil
}

func (v *targets) Release(id job.ID) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for ref := range v.open {
		if ref.Job == id {
			delete(v.open, ref)
		}
	}
}

func (v *targets) Purge(_ context.Context, ref job.VolumeRef) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.exists, ref.Target)
	return nil
}

func (v *targets) make(target string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.exists[target] = true
}

func (v *targets) there(target string) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.exists[target]
}

func (v *targets) replace(target string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.replaced[target] = true
}

func (v *targets) openCount() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return len(v.open)
}

func (v *targets) failOnce(err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.fail = err
}

// copies copies a MiB a second, makes it durable every 10 MiB, and fails where a test wants it. It uses real permits.
// It counts the writers of each target, to prove that there is never more than one.
type copies struct {
	*transfer.Permits
	mu          sync.Mutex
	durable     map[string]int64
	failAt      map[job.DiskID]map[int64]error // by MiB; each once
	starts      map[job.DiskID][]int64         // in MiB
	verified    map[job.DiskID]int
	badOnce     map[job.DiskID]error
	writers     map[string]int
	overlaps    atomic.Int32
	slowStop    time.Duration
	panicAt     int64
	panicViewAt map[job.DiskID]int64 // by MiB: reading the counters from there on panics, once
	badCBT      bool                 // change IDs are refused
	refused     int                  // attempts after the first of a round that end before they begin
	hangAt      int64                // MiB: from there on the source does not answer; 0 for never
	source      outage
	others      []*outage // that stop a copy as well
}

func newCopies() *copies {
	return &copies{
		Permits: transfer.NewPermits(job.Limits{Jobs: 2}),
		durable: map[string]int64{}, failAt: map[job.DiskID]map[int64]error{}, starts: map[job.DiskID][]int64{},
		verified: map[job.DiskID]int{}, badOnce: map[job.DiskID]error{}, writers: map[string]int{},
		panicViewAt: map[job.DiskID]int64{}, source: outage{peer: job.PeerSource},
	}
}

func (m *copies) Ready() error { return nil }

// away is the first peer that is unavailable.
func (m *copies) away(ctx context.Context) error {
	for _, o := range append([]*outage{&m.source}, m.others...) {
		if err := o.err(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (m *copies) Areas(ctx context.Context, t job.TransferTask) (job.Extents, bool, error) {
	for _, o := range m.others {
		if err := o.err(ctx); err != nil && o.peer == job.PeerVCenter {
			return nil, false, err
		}
	}
	if t.Disk.Mode == job.Full {
		return job.Whole(100 * mib), true, nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.badCBT {
		return nil, false, job.Errorf("areas", job.CBTInvalid, "", "change ID %s is not known", t.Since)
	}
	return job.Extents{{Offset: 10 * mib, Length: 5 * mib}}, true, nil
}

func (m *copies) Run(ctx context.Context, t job.TransferTask, show func(job.TransferView)) (job.Counters, error) {
	last := t.Disk.Counters
	p := &transfer.Permit{Job: t.Job, Limits: t.Limits, Host: t.VM.Host, Connections: 1}
	show(job.TransferView{
		Counters: func() job.Counters { return last },
		WaitsFor: func() string { return m.Waits(p) },
	})
	if _, err := m.Acquire(ctx, p); err != nil {
		return last, err
	}
	defer m.Release(p)
	if t.Verify != "" {
		return m.verify(ctx, t)
	}
	if t.Disk.Attempt > 1 && m.refused > 0 {
		m.refused--
		return last, job.Errorf("start nbdkit", job.Unavailable, "", "the host is not there")
	}
	return m.copy(ctx, t, show)
}

func (m *copies) enter(target string) func() {
	m.mu.Lock()
	m.writers[target]++
	if m.writers[target] > 1 {
		m.overlaps.Add(1)
	}
	m.mu.Unlock()
	return func() {
		m.mu.Lock()
		m.writers[target]--
		m.mu.Unlock()
	}
}

func (m *copies) next(t job.TransferTask, at int64) (fail error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if at%10 == 0 {
		m.durable[key(t)] = at
	}
	err := m.failAt[t.Disk.Disk.ID][at]
	delete(m.failAt[t.Disk.Disk.ID], at)
	return err
}

func key(t job.TransferTask) string { return fmt.Sprintf("%s/%d/%s", t.Job, t.Round, t.Disk.Disk.ID) }

func (m *copies) copy(ctx context.Context, t job.TransferTask, show func(job.TransferView)) (job.Counters, error) {
	id := t.Disk.Disk.ID
	defer m.enter(t.Disk.Target)()
	m.mu.Lock()
	from := m.durable[key(t)]
	m.starts[id] = append(m.starts[id], from)
	m.mu.Unlock()
	var at atomic.Int64
	at.Store(from)
	counters := func() job.Counters {
		m.panicIfWanted(id, at.Load())
		return job.Counters{
			ToTransfer: t.Disk.ToTransfer, Transferred: at.Load() * mib, ResumedTransferred: from * mib,
			Durable: at.Load() / 10 * 10 * mib,
		}
	}
	var hangs atomic.Int64 // since then, in ns of Unix; 0 for not
	silence := func() (source, target time.Duration) {
		if since := hangs.Load(); since > 0 {
			source = time.Since(time.Unix(0, since))
		}
		return source, 0
	}
	show(job.TransferView{Counters: counters, Silence: silence, Transport: "fake", SourcePID: 4711})
	for at.Load() < t.Disk.ToTransfer/mib {
		if m.hangAt > 0 && at.Load() == m.hangAt {
			hangs.Store(time.Now().UnixNano())
			<-ctx.Done()
		}
		pauseFor(ctx, time.Second)
		if ctx.Err() != nil {
			time.Sleep(m.slowStop) // in a synctest bubble: a copy that ends slowly
			return counters(), ctx.Err()
		}
		if m.panicAt > 0 && at.Load() == m.panicAt {
			m.panicAt = 0
			panic("out of cheese")
		}
		if err := m.next(t, at.Load()); err != nil {
			return counters(), err
		}
		if err := m.away(ctx); err != nil {
			return counters(), err
		}
		at.Add(1)
	}
	return counters(), nil
}

func (m *copies) verify(ctx context.Context, t job.TransferTask) (job.Counters, error) {
	pauseFor(ctx, 5*time.Second)
	if err := m.away(ctx); err != nil {
		return t.Disk.Counters, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.verified[t.Disk.Disk.ID]++
	err := m.badOnce[t.Disk.Disk.ID]
	delete(m.badOnce, t.Disk.Disk.ID)
	c := t.Disk.Counters
	c.Verified = c.ToTransfer
	return c, err
}

// Keep takes over what is durable of the earlier round, if that is not less than what changed since.
func (m *copies) Keep(_ context.Context, t job.TransferTask, from job.KeptCopy, _ job.Extents, _ bool) (
	*job.KeptPart, string, error,
) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.badCBT {
		return nil, "its change ID is no longer good", nil
	}
	n := m.durable[key(from.Identified(t))]
	if n == 0 {
		return nil, "", nil
	}
	m.durable[key(t)] = n
	return &job.KeptPart{Round: from.Round, Transferred: n * mib}, "", nil
}

func (m *copies) Discard(context.Context, job.ID) error { return nil }

// panicIfWanted panics in the actor of the transfer, which reads the counters.
func (m *copies) panicIfWanted(id job.DiskID, at int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if from, ok := m.panicViewAt[id]; ok && at >= from {
		delete(m.panicViewAt, id)
		panic("the numbers are out of reach")
	}
}

func (m *copies) panicWhenSeen(id job.DiskID, at int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.panicViewAt[id] = at
}

// writing is how many attempts write to a target now.
func (m *copies) writing() (n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, k := range m.writers {
		n += k
	}
	return n
}

// forget drops what is durable.
func (m *copies) forget() {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.durable)
	clear(m.starts)
}

func (m *copies) refuseChangeIDs() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.badCBT = true
}

func (m *copies) startsOf(id job.DiskID) []int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]int64(nil), m.starts[id]...)
}

func (m *copies) failDisk(id job.DiskID, at int64, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.failAt[id] == nil {
		m.failAt[id] = map[int64]error{}
	}
	m.failAt[id][at] = err
}

// sink keeps each report. It can be slow, and it can fail.
type sink struct {
	mu    sync.Mutex
	delay time.Duration
	err   error
	calls int
	all   []report.Report
}

func (s *sink) Name() string { return "redis" }

// Volatile says that it may lose its reports.
func (s *sink) Volatile() {}

func (s *sink) Publish(ctx context.Context, r []report.Report) error {
	s.mu.Lock()
	delay := s.delay
	s.mu.Unlock()
	pauseFor(ctx, delay)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls++
	if s.err == nil {
		s.all = append(s.all, r...)
	}
	return s.err
}

func (s *sink) set(delay time.Duration, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.delay, s.err = delay, err
}

func (s *sink) count() (calls, reports int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls, len(s.all)
}

func (s *sink) reports() []report.Report {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]report.Report(nil), s.all...)
}

// newest is the last report of each job, as a journal has them.
func (s *sink) newest() (out []report.Report) {
	of := map[job.ID]report.Report{}
	for _, r := range s.reports() {
		of[r.JobID] = r
	}
	for _, r := range of {
		out = append(out, r)
	}
	return out
}

func (s *sink) last() report.Report {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.all) == 0 {
		return report.Report{}
	}
	return s.all[len(s.all)-1]
}

// page is a sink in this process.
type page struct{ sink }

// Immediate says that it never blocks and never fails.
func (p *page) Immediate() {}

// world is a node and fakes of everything that it needs, inside a synctest bubble.
type world struct {
	t       *testing.T
	node    *actors.Node
	journal *journal
	vcenter *vcenter
	targets *targets
	copies  *copies
	sink    *sink
	page    *page
	more    []actors.Sink
	epoch   int64
	tick    time.Duration
}

// inWorld runs a test in virtual time. All goroutines must have ended at its end, or the bubble fails the test.
func inWorld(t *testing.T, disks int, f func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{
			t: t, journal: newJournal(), targets: newTargets(), copies: newCopies(), sink: &sink{}, page: &page{},
			vcenter: &vcenter{disks: disks, fail: map[string][]error{}, outage: outage{peer: job.PeerVCenter}},
		}
		w.targets.peer = job.PeerTarget
		w.copies.others = []*outage{&w.vcenter.outage, &w.targets.outage}
		w.start()
		defer func() {
			w.stop()
			time.Sleep(2 * time.Second) // a goroutine of protoactor's dead-letter throttle ends after a second
			if n := w.copies.overlaps.Load(); n != 0 {
				t.Errorf("%d times two attempts wrote to one target", n)
			}
		}()
		f(w)
	})
}

func (w *world) start() {
	w.t.Helper()
	w.startWith(func(*actors.Deps) {})
}

// startWith starts a node whose parts the test has changed.
func (w *world) startWith(change func(*actors.Deps)) {
	w.t.Helper()
	w.epoch++
	last := w.sink.newest()
	d := actors.Deps{
		Journal: w.journal, Sets: w.journal, VCenter: w.vcenter, Targets: w.targets, Transfers: w.copies,
		Sinks:   append([]actors.Sink{w.page, w.sink}, w.more...),
		Reports: last, Epoch: w.epoch, Root: "/targets", Owner: "node-1", Tick: w.tick,
	}
	change(&d)
	n, err := actors.Start(w.t.Context(), d)
	if err != nil {
		w.t.Fatal(err)
	}
	w.node = n
}

func (w *world) stop() {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(w.t.Context()), time.Minute)
	defer cancel()
	if err := w.node.Stop(ctx); err != nil {
		w.t.Errorf("stop: %v", err)
	}
}

func (w *world) submit(vm string, o job.Options) job.ID {
	w.t.Helper()
	id, _, err := w.node.Submit(w.t.Context(), job.Spec{VM: vm, Options: o}, "", "", "")
	if err != nil {
		w.t.Fatal(err)
	}
	return id
}

// pass lets time pass, until all goroutines wait.
func (w *world) pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func (w *world) command(id job.ID, v job.Verb) {
	w.t.Helper()
	if err := w.node.Command(w.t.Context(), id, job.CommandReceived{Verb: v}); err != nil {
		w.t.Fatal(err)
	}
}

// want checks the phase of a job and returns its state.
func (w *world) want(id job.ID, p job.Phase) job.State {
	w.t.Helper()
	st := w.journal.state(id)
	if st.Phase != p {
		w.t.Fatalf("job is in %s, want %s (failure %+v, disks %+v)", st.Phase, p, st.Failure, st.Disks)
	}
	return st
}
