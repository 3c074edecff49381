package http_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	apihttp "github.com/vmferry/vmferry/http"
	"github.com/vmferry/vmferry/http/rest"
	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
	"github.com/vmferry/vmferry/store"
)

const (
	mib   = 1 << 20
	gib   = 1 << 30
	epoch = 1758807780000
)

func start() time.Time { return time.Date(2025, 9, 25, 13, 43, 0, 0, time.UTC) }

// world is a small working node: jobs use the real state machine and reports the real report builders. The test gives
// the events that a vCenter and a copy would cause.
type world struct {
	memory *store.Memory

	mu       sync.Mutex
	now      time.Time
	seq      int64
	made     int
	order    []job.ID
	builders map[job.ID]*report.Builder
	external map[job.ID]*report.ExternalBuilder
	// the most external jobs; 0 for no limit
	mostExternal int

	events  map[job.ID][]apihttp.Event
	keys    map[string]key
	down    bool // redis
	away    bool // the vCenter
	limits  job.Limits
	volumes []job.VolumeRecord
}

type key struct {
	hash string
	id   job.ID
}

func newWorld() *world {
	return &world{
		memory: store.NewMemory(), now: start(), builders: map[job.ID]*report.Builder{},
		external: map[job.ID]*report.ExternalBuilder{}, events: map[job.ID][]apihttp.Event{},
		keys: map[string]key{}, limits: job.StandardLimits(),
	}
}

func (w *world) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

func (w *world) pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
}

// reports implements apihttp.Reports; the adapter in app has the same three lines.
type reports struct{ *store.Memory }

func (r reports) Subscribe(after report.Version) ([]*report.Report, []report.Change, bool, apihttp.Subscription) {
	return r.Memory.Subscribe(after)
}

func (w *world) publish(ctx context.Context, r report.Report) {
	w.seq++
	r.Epoch, r.Seq = epoch, w.seq
	_ = w.memory.Publish(ctx, []report.Report{r})
}

// apply folds events into a job and publishes its report.
func (w *world) apply(ctx context.Context, id job.ID, evs ...job.Event) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.fold(ctx, id, evs...)
}

func (w *world) fold(ctx context.Context, id job.ID, evs ...job.Event) error {
	t := w.builders[id]
	for _, ev := range evs {
		var st job.State
		if t != nil {
			st = t.State()
		}
		st, _, err := st.Apply(ev, w.now)
		if err != nil {
			return err
		}
		if t == nil {
			t = report.NewBuilder(st, nil)
			w.builders[id] = t
			w.order = append(w.order, id)
		}
		t.Changed(st)
		text, err := job.EncodeEvent(ev, w.now)
		if err != nil {
			return err
		}
		w.events[id] = append(w.events[id], apihttp.Event{Seq: st.Seq, At: w.now, JSON: text})
	}
	w.publish(ctx, t.Report(w.now, w.down))
	return nil
}

// moved reports the progress of a disk.
func (w *world) moved(ctx context.Context, id job.ID, disk job.DiskID, c job.Counters) {
	w.mu.Lock()
	defer w.mu.Unlock()
	t := w.builders[id]
	d, _ := t.State().DiskState(disk)
	t.Observe(report.Progress{
		Job: id, Disk: disk, Round: t.State().Round(), Attempt: d.Attempt, Counters: c,
		Transport: "nbd", SourcePID: 4711,
	}, w.now)
	w.publish(ctx, t.Report(w.now, w.down))
}

func unknown(id job.ID) error {
	return job.Errorf("find job", job.NotFound, "", "there is no job %s", id)
}

func (w *world) Submit(ctx context.Context, spec job.Spec, o rest.SubmitOptions) (job.ID, bool, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if k, ok := w.keys[o.IdempotencyKey]; ok && o.IdempotencyKey != "" {
		if k.hash != o.BodyHash {
			return "", false, job.Errorf("accept job", job.Invalid, "Use a new Idempotency-Key for a new request",
				"the key was used for another body, which made job %s", k.id)
		}
		return k.id, true, nil
	}
	id := o.ID
	if id == "" {
		w.made++
		id = job.NewID(w.now, [3]byte{0, 0, byte(w.made)})
	}
	if w.builders[id] != nil {
		return "", false, job.Errorf("accept job", job.Conflict, "Leave the id out to get a new one",
			"job %s exists already", id)
	}
	for _, other := range w.order {
		if st := w.builders[other].State(); st.Spec.VM == spec.VM && !st.Phase.Terminal() {
			return "", false, job.Errorf("accept job", job.Conflict, "Wait for it, or cancel it",
				"job %s moves %s already", other, spec.VM)
		}
	}
	if o.IdempotencyKey != "" {
		w.keys[o.IdempotencyKey] = key{o.BodyHash, id}
	}
	return id, false, w.fold(ctx, id, job.Submitted{ID: id, Spec: spec})
}

func (w *world) Rehearse(_ context.Context, id job.ID, disk job.DiskID) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.builders[id] == nil {
		return unknown(id)
	}
	if _, ok := w.builders[id].State().DiskState(disk); !ok {
		return job.Errorf("rehearse", job.NotFound, "", "job %s moves no %s", id, disk)
	}
	return nil
}

func (w *world) Limits() (job.Limits, []job.HostUse) {
	return w.limits, []job.HostUse{{Host: "esx1", Disks: 2, Connections: 2, BytesInFlight: 1 << 20}}
}

func (w *world) SetLimits(_ context.Context, l *job.Limits) error {
	next := job.StandardLimits()
	if l != nil {
		next = *l
	}
	if err := next.Check(); err != nil {
		return err
	}
	w.limits = next
	return nil
}

func (w *world) Command(ctx context.Context, id job.ID, a job.CommandReceived) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.builders[id] == nil {
		return unknown(id)
	}
	if a.Verb == job.Delete && w.builders[id].State().Phase.Terminal() {
		delete(w.builders, id)
		w.seq++
		w.memory.Forget(report.Deleted{JobID: id, Epoch: epoch, Seq: w.seq, At: w.now})
		return nil
	}
	return w.fold(ctx, id, a)
}

func (w *world) Limit(ctx context.Context, id job.ID, l job.Limited) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.builders[id] == nil {
		return unknown(id)
	}
	if err := l.Check(); err != nil {
		return err
	}
	return w.fold(ctx, id, l)
}

func (w *world) ExternalUpdate(ctx context.Context, id job.ID, u report.Update) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.builders[id] != nil {
		return job.Errorf("take progress update", job.Conflict, "", "job %s is vmferry's own", id)
	}
	b := w.external[id]
	if b == nil {
		if w.mostExternal > 0 && len(w.external) >= w.mostExternal {
			return job.Errorf("take progress update", job.Unavailable, "", "%w", report.ErrTooManyExternal)
		}
		b = report.NewExternalBuilder(id, nil, w.now)
	}
	if _, err := b.Apply(u, w.now); err != nil {
		return err
	}
	w.external[id] = b
	w.publish(ctx, b.Report(w.now))
	return nil
}

func (w *world) Events(_ context.Context, id job.ID) ([]apihttp.Event, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.builders[id] == nil {
		return nil, unknown(id)
	}
	return w.events[id], nil
}

// claim gives a running job a volume for each of its disks, as its preflight and its first write do.
func (w *world) claim(id job.ID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	st := w.builders[id].State()
	for _, d := range st.Disks {
		owner := job.OwnerOf(st.VM)
		owner.VCenter, owner.Disk = "9b3c0f0e-5b1d-4d1c-9a59-0d5a1a1d3f10", d.Disk.ID
		w.volumes = append(w.volumes, job.VolumeRecord{
			ID: d.Volume, Target: d.Target, Owner: owner, Job: id, MadeBy: id, Generation: 1, Writing: true,
			Size: d.Disk.Capacity, ClaimedAt: w.now,
		})
	}
}

func (w *world) All(context.Context) ([]job.VolumeRecord, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := slices.Clone(w.volumes)
	for i := range out {
		out[i].JobActive = w.active(out[i].Job)
	}
	return out, nil
}

func (w *world) active(id job.ID) bool {
	b := w.builders[id]
	return b != nil && !b.State().Phase.Terminal()
}

func (w *world) Free(_ context.Context, id string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	i := slices.IndexFunc(w.volumes, func(r job.VolumeRecord) bool { return r.ID == id })
	if i < 0 {
		return job.Errorf("release volume", job.NotFound, "Take an id that vmferry volumes lists",
			"there is no volume %s", id)
	}
	if r := w.volumes[i]; w.active(r.Job) {
		return job.Errorf("release volume", job.Conflict, fmt.Sprintf("Wait for job %s to end, or cancel it", r.Job),
			"job %s uses %s", r.Job, r.Target)
	}
	w.volumes[i].ReleasedAt = w.now
	return nil
}

func (w *world) State(context.Context) apihttp.SystemState {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := rest.Sink{Name: "redis", OK: !w.down}
	if w.down {
		since := w.now
		s.Since, s.Message, s.LagSeconds = &since, "connection refused", 2.5
	}
	v := rest.VCenter{State: rest.VCenterOK, Since: start().Add(-time.Hour), CheckedAt: &w.now}
	if w.away {
		v.State, v.Message, v.Next = rest.VCenterUnreachable, "connection refused", "Look whether it runs"
	}
	return apihttp.SystemState{
		Role: "all", StartedAt: start().Add(-time.Hour), Ready: true, Reason: v.Message, VCenter: v,
		Sinks: []rest.Sink{s},
		Webhooks: []rest.Webhook{{
			URL: "https://tickets.example.org/vmferry", Events: []string{"failed"}, OK: true, Pending: 1, Sent: 5,
		}},
		Actors: apihttp.ActorState{
			Mailboxes: map[string]int{"jobs": 2, "aggregator": 0}, Panics: map[string]int64{"job": 9, "disk": 0},
			Revived: 8, Down: 1,
		},
		Links: []apihttp.LinkState{{Node: "vma-1", Link: rest.Link{
			State: "up", Since: start().Add(-time.Hour), RoundTripMS: new(0.4), CertificateExpires: &w.now, Waiting: 2,
			Refused: map[string]int64{"type": 3},
		}}},
	}
}

// source is a vCenter with one VM.
type source struct{}

func (source) Inspect(_ context.Context, vm string) (job.VM, error) {
	if vm != "/DC0/vm/web" {
		return job.VM{}, job.Errorf("find VM", job.NotFound, "Give the inventory path, as in /DC0/vm/web",
			"there is no VM %s", vm)
	}
	return webVM(), nil
}

func (s source) Preflight(ctx context.Context, spec job.Spec) ([]rest.Check, error) {
	vm, err := s.Inspect(ctx, spec.VM)
	if err != nil {
		return []rest.Check{{Name: "vm", Message: err.Error(), Next: job.NextOf(err)}}, nil
	}
	return []rest.Check{
		{Name: "vm", OK: true, Message: vm.Path + " has 2 disks"},
		{Name: "cbt", OK: false, Message: "Change tracking is not enabled", Next: "Nothing: the job switches it on"},
	}, nil
}

func (s source) VMs(context.Context) ([]job.ListedVM, []string, error) {
	db := job.VM{
		Ref: "vm-30", UUID: "502d7a5f-1d2c-6a0e-2f3b-0d2a3c4b5e6f", Name: "db", Path: "/DC0/vm/prod/db",
		Datacenter: "DC0", PowerState: "poweredOff", Host: "esx2", Disks: []job.Disk{disk(2000, 8*gib)},
	}
	return []job.ListedVM{
		{VM: job.VM{Ref: "vm-31", Name: "lost", Path: "/DC0/vm/lost"}, Folder: "/DC0/vm"},
		{VM: db, Folder: "/DC0/vm/prod"},
		{
			VM:     job.VM{Ref: "vm-32", Name: "gold", Path: "/DC0/vm/templates/gold"},
			Folder: "/DC0/vm/templates", Template: true,
		},
		{VM: webVM(), Folder: "/DC0/vm"},
	}, nil, nil
}

func webVM() job.VM {
	return job.VM{
		Ref: "vm-29", UUID: "5029b440-7d8e-7d9a-c5d4-d5a2f1f0a3b1", Name: "web", Path: "/DC0/vm/web", Datacenter: "DC0",
		PowerState: "poweredOn", CBTEnabled: true, Disks: []job.Disk{disk(2000, 4*gib), disk(2001, 1*gib)},
	}
}

func disk(k int32, capacity int64) job.Disk {
	return job.Disk{
		ID: job.NewDiskID(k), Key: k, Label: fmt.Sprintf("Hard disk %d", k-1999), Datastore: "ds",
		File: fmt.Sprintf("[ds] web/web_%d.vmdk", k-2000), Capacity: capacity, BackingID: fmt.Sprintf("6000C29-%d", k),
	}
}

func webSpec() job.Spec {
	return job.Spec{
		VM: "/DC0/vm/web", Mode: job.Auto,
		Options: job.Options{Verify: job.VerifySample, Quiesce: true, Cutover: job.CutoverManual},
	}
}

// running brings a job into the middle of its first round.
func (w *world) running(tb testing.TB, id job.ID) {
	tb.Helper()
	ctx := tb.Context()
	vm := webVM()
	snap := job.VMSnapshot{Ref: "snapshot-40", Name: "vmferry/" + string(id) + "/1", Quiesced: true}
	var targets []job.Target
	var plans []job.DiskPlan
	for _, d := range vm.Disks {
		d.ChangeID = "52 de c0 d9/7"
		snap.Disks = append(snap.Disks, d)
		targets = append(targets, job.Target{Disk: d.ID, URI: job.DefaultTarget(vm, "/srv/targets", d.ID)})
		plans = append(plans, job.DiskPlan{
			Disk: d, Mode: job.Full, ToTransfer: d.Capacity / 2, TargetIdentity: "new",
			Zero: true, Volume: "volume-" + string(id) + "-" + string(d.ID), Stamped: true,
		})
	}
	steps := []job.Event{
		job.Submitted{ID: id, Spec: webSpec()},
		job.Admitted{},
		job.Inspected{VM: vm, Targets: targets},
		job.CBTReady{Enabled: true},
		job.SnapshotTaken{Snapshot: snap},
		job.Planned{Disks: plans},
	}
	for _, ev := range steps {
		if err := w.apply(ctx, id, ev); err != nil {
			tb.Fatal(err)
		}
		w.pass(time.Second)
	}
	for i := range 4 {
		n := int64(i+1) * 100 * mib
		w.moved(ctx, id, "disk-2000", job.Counters{
			ToTransfer: 2 * gib, Transferred: n, Skipped: 10 * mib,
			Requests: n / mib, SourceWait: time.Duration(i) * 700 * time.Millisecond,
		})
		w.moved(ctx, id, "disk-2001", job.Counters{ToTransfer: gib / 2, Transferred: n / 4, Requests: n / mib})
		w.pass(time.Second)
	}
}

// server serves the world over HTTP on a loopback port.
func (w *world) server(tb testing.TB, change ...func(*apihttp.Options)) (*apihttp.Handler, *httptest.Server) {
	tb.Helper()
	o := apihttp.Options{
		Reports: reports{w.memory}, Commands: w, Volumes: w, Source: source{}, System: w,
		Registry: prometheus.NewRegistry(), Version: "1.2.3", Now: w.clock, Speeds: w.speeds(tb),
	}
	for _, c := range change {
		c(&o)
	}
	h, err := apihttp.New(tb.Context(), o)
	if err != nil {
		tb.Fatal(err)
	}
	s := httptest.NewServer(h)
	tb.Cleanup(func() {
		h.Close()
		s.Close()
	})
	return h, s
}

// speeds follows the reports. It has taken those that there are when it returns.
func (w *world) speeds(tb testing.TB) *store.Throughput {
	tb.Helper()
	t := store.OpenThroughput("", discard(), w.clock)
	ctx, cancel := context.WithCancel(context.Background())
	over, end := context.WithCancel(ctx)
	end()
	t.Follow(over, w.memory)
	done := make(chan struct{})
	go func() {
		defer close(done)
		t.Follow(ctx, w.memory)
	}()
	tb.Cleanup(func() {
		cancel()
		<-done
	})
	return t
}

func decode[T any](tb testing.TB, text []byte) (v T) {
	tb.Helper()
	if err := json.Unmarshal(text, &v); err != nil {
		tb.Fatalf("%v in %s", err, text)
	}
	return v
}
