package actors_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vmferry/vmferry/actors"
	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
)

// oldVMA is a stand-in for an older VMA: it knows each job from a time on, and answers as its state says.
type oldVMA struct {
	mu      sync.Mutex
	answers map[job.ID]func() (report.Polled, bool, error)
	at      map[job.ID][]time.Time // of the polls
	under   int
	most    int           // polls at the same time
	takes   time.Duration // of each poll
}

func newOldVMA() *oldVMA {
	return &oldVMA{answers: map[job.ID]func() (report.Polled, bool, error){}, at: map[job.ID][]time.Time{}}
}

func (v *oldVMA) set(id job.ID, f func() (report.Polled, bool, error)) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.answers[id] = f
}

func (v *oldVMA) Poll(ctx context.Context, id job.ID) (report.Polled, bool, error) {
	v.mu.Lock()
	v.at[id] = append(v.at[id], time.Now())
	v.under++
	v.most = max(v.most, v.under)
	f, takes := v.answers[id], v.takes
	v.mu.Unlock()
	defer func() {
		v.mu.Lock()
		v.under--
		v.mu.Unlock()
	}()
	if takes > 0 {
		select {
		case <-time.After(takes):
		case <-ctx.Done():
			return report.Polled{}, false, ctx.Err()
		}
	}
	if f == nil {
		return report.Polled{}, false, nil
	}
	return f()
}

func (v *oldVMA) polls(id job.ID) []time.Time {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.Clone(v.at[id])
}

func is(status job.Status, done, total int64) func() (report.Polled, bool, error) {
	return func() (report.Polled, bool, error) {
		return report.Polled{
			Status: status, Phase: "Transfer", BytesTransferred: &done, TotalBytes: &total, UpdatedAt: time.Now(),
		}, true, nil
	}
}

func fails(text string) func() (report.Polled, bool, error) {
	return func() (report.Polled, bool, error) { return report.Polled{}, false, errors.New(text) }
}

// oma is a world that watches nodes, and the rows that its sink has had.
type oma struct {
	*world
	rows *rows
}

// rows keeps what each report said, as a line, if it differs from the one before.
type rows struct {
	mu     sync.Mutex
	begun  time.Time
	said   map[job.ID][]string
	newest map[job.ID]report.Report
}

func (*rows) Name() string { return "rows" }

func (r *rows) Publish(_ context.Context, all []report.Report) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, one := range all {
		r.newest[one.JobID] = one
		line := string(one.Status)
		if one.Watched != nil && one.Watched.Since != nil {
			line += " since " + one.Watched.Since.Sub(r.begun).String()
		}
		if before := r.said[one.JobID]; len(before) == 0 || !strings.HasSuffix(before[len(before)-1], ": "+line) {
			r.said[one.JobID] = append(before, fmt.Sprintf("%v: %s", time.Since(r.begun).Round(time.Second), line))
		}
	}
	return nil
}

func (r *rows) of(id job.ID) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.said[id])
}

// Forget takes a job away.
func (r *rows) Forget(d report.Deleted) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.newest, d.JobID)
}

func (r *rows) has(id job.ID) bool { return r.last(id).JobID != "" }

func (r *rows) last(id job.ID) report.Report {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.newest[id]
}

func inOMA(t *testing.T, nodes []actors.WatchedNode, f func(o *oma)) {
	t.Helper()
	inWorld(t, 1, func(w *world) {
		w.stop()
		o := &oma{w, &rows{begun: time.Now(), said: map[job.ID][]string{}, newest: map[job.ID]report.Report{}}}
		w.more = []actors.Sink{o.rows}
		o.begin(nodes)
		f(o)
	})
}

func (o *oma) begin(nodes []actors.WatchedNode) {
	o.startWith(func(d *actors.Deps) { d.Nodes = nodes })
}

func (o *oma) watch(node string, id job.ID) {
	o.t.Helper()
	if err := o.node.WatchJob(o.t.Context(), node, id); err != nil {
		o.t.Fatal(err)
	}
}

// TestEachRowOfAnOlderVMASaysWhatWasSeen lets an older VMA go through its states: jobs that start late, end, vanish,
// claim to be complete, and a VMA that is away.
func TestEachRowOfAnOlderVMASaysWhatWasSeen(t *testing.T) {
	vma, other := newOldVMA(), newOldVMA() // what a VMA answers for one job makes it ask for the others at once
	inOMA(t, []actors.WatchedNode{{Name: "old", Old: vma}, {Name: "other", Old: other}}, func(o *oma) {
		o.watch("other", "late")
		for _, id := range []job.ID{"never", "vanishes", "claims", "fails", "ends"} {
			o.watch("old", id)
		}
		synctest.Wait() // each was asked for once
		vma.set("vanishes", is(job.Running, 999, 1000))
		vma.set("claims", is(job.StatusCompleted, 900, 1000))
		vma.set("fails", is(job.StatusFailed, 100, 1000))
		vma.set("ends", is(job.Running, 100, 1000))
		o.pass(22 * time.Second)
		other.set("late", is(job.Running, 10, 1000))
		vma.set("ends", is(job.StatusCompleted, 1000, 1000))
		o.pass(14 * time.Second)
		vma.set("vanishes", nil)
		vma.set("ends", nil)
		o.pass(time.Minute)
		vma.set("vanishes", is(job.StatusCompleted, 1000, 1000))
		other.set("late", fails("connection refused"))
		o.pass(2 * time.Minute)
		other.set("late", is(job.Running, 500, 1000))
		o.pass(time.Minute)
		other.set("late", nil)
		o.pass(time.Minute)
		want := map[job.ID][]string{
			"late": {
				"0s: pending", "25s: running", "2m0s: unreachable since 1m35s", "4m5s: running",
				"4m40s: lost since 4m35s",
			},
			"never":    {"0s: pending", "30s: lost since 0s"},
			"vanishes": {"0s: pending", "5s: running", "40s: lost since 35s", "1m40s: completed"},
			"claims":   {"0s: pending", "5s: running", "35s: lost since 5s"},
			"fails":    {"0s: pending", "5s: failed"},
			"ends":     {"0s: pending", "5s: running", "25s: completed"},
		}
		got := map[job.ID][]string{}
		for id := range want {
			got[id] = o.rows.of(id)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Error(d)
		}
		n := len(vma.polls("ends"))
		o.pass(10 * time.Minute)
		if more := len(vma.polls("ends")) - n; more != 0 {
			t.Errorf("a job that has ended was asked for %d times more", more)
		}
	})
}

func TestAtMostTenPollsOfANodeAreUnderWay(t *testing.T) {
	vma := newOldVMA()
	vma.takes = time.Second
	inOMA(t, []actors.WatchedNode{{Name: "old", Old: vma}}, func(o *oma) {
		for i := range 25 {
			id := job.ID(fmt.Sprintf("job-%d", i))
			vma.set(id, is(job.Running, 1, 1000))
			o.watch("old", id)
		}
		o.pass(20 * time.Second)
		if vma.most != report.PollAtOnce {
			t.Errorf("%d polls were under way at the same time", vma.most)
		}
		for i := range 25 {
			if at := vma.polls(job.ID(fmt.Sprintf("job-%d", i))); len(at) < 2 {
				t.Errorf("job %d was asked for %d times", i, len(at))
			}
		}
	})
}

func TestAVMAThatHangsIsGivenUpAfterATimeAndMakesItsJobUnreachable(t *testing.T) {
	vma := newOldVMA()
	vma.takes = time.Hour
	inOMA(t, []actors.WatchedNode{{Name: "old", Old: vma, Jobs: []job.ID{"job-1"}}}, func(o *oma) {
		o.pass(time.Minute)
		r := o.rows.last("job-1")
		if r.Status != job.Unreachable || r.Watched.Reason != "no answer within 5s" {
			t.Errorf("it is %s: %+v", r.Status, r.Watched)
		}
		h := o.node.Watched()
		if len(h) != 1 || h[0].State != actors.NodeUnreachable || h[0].Kind != report.LegacyNode {
			t.Errorf("the node is %+v", h)
		}
	})
}

func TestAnOMAThatIsStartedAgainGoesOnWithItsJobs(t *testing.T) {
	vma := newOldVMA()
	nodes := []actors.WatchedNode{{Name: "old", Old: vma}}
	inOMA(t, nodes, func(o *oma) {
		vma.set("moves", is(job.Running, 500, 1000))
		vma.set("ends", is(job.StatusCompleted, 1000, 1000))
		for _, id := range []job.ID{"moves", "ends", "gone"} {
			o.watch("old", id)
		}
		o.pass(time.Minute)
		o.stop()
		vma.set("moves", is(job.Running, 700, 1000))
		polls := len(vma.polls("ends"))
		o.begin(nodes)
		o.pass(10 * time.Second)
		if r := o.rows.last("moves"); r.Status != job.Running || r.BytesTransferred != 700 || r.OverallPercent < 49 {
			t.Errorf("moves is %s with %d bytes at %v", r.Status, r.BytesTransferred, r.OverallPercent)
		}
		if r := o.rows.last("ends"); r.Status != job.StatusCompleted || len(vma.polls("ends")) != polls {
			t.Errorf("ends is %s, asked for %d times more", r.Status, len(vma.polls("ends"))-polls)
		}
		if r := o.rows.last("gone"); r.Status != job.Lost {
			t.Errorf("gone is %s", r.Status)
		}
		o.stop()
		o.begin(nil)
		o.pass(10 * time.Second)
		if r := o.rows.last("moves"); r.Status != job.Lost || !strings.Contains(r.Watched.Reason, "not configured") ||
			r.BytesTransferred != 700 {
			t.Errorf("without its node moves is %s: %+v", r.Status, r.Watched)
		}
		if err := o.node.UnwatchJob(t.Context(), "old", "moves"); err != nil {
			t.Error(err)
		}
	})
}

// TestWhatIsNotSeenStaysSoWhileTheOMAIsStartedAgain compares what rows say before and after a start: nothing was heard
// between the two.
func TestWhatIsNotSeenStaysSoWhileTheOMAIsStartedAgain(t *testing.T) {
	vma, p := newOldVMA(), &ours{}
	nodes := []actors.WatchedNode{{Name: "old", Old: vma}, {Name: "ours", Peer: p}}
	inOMA(t, nodes, func(o *oma) {
		vma.set("away", fails("connection refused"))
		vma.set("claims", is(job.StatusCompleted, 900, 1000))
		vma.set("again", is(job.Running, 800, 1000))
		for _, id := range []job.ID{"away", "claims", "again", "never"} {
			o.watch("old", id)
		}
		o.pass(time.Second)
		p.send(actors.PeerEvent{ID: "1-1", Snapshot: true, Jobs: []report.Report{
			of("a", 1, job.Running, 10), of("b", 1, job.Paused, 10), of("gone", 1, job.Running, 10),
		}})
		p.send(actors.PeerEvent{ID: "1-2", Snapshot: true, Jobs: []report.Report{
			of("a", 1, job.Running, 10), of("b", 1, job.Paused, 10),
		}})
		p.goDown(errors.New("connection refused"))
		o.pass(time.Minute)
		said := map[job.ID][]string{}
		for _, id := range []job.ID{"away", "claims", "never", "a", "b", "gone"} {
			said[id] = o.rows.of(id)
		}
		same := func(when string) {
			t.Helper()
			for id, was := range said {
				if d := cmp.Diff(was, o.rows.of(id)); d != "" {
					t.Errorf("%s %s says something else (-before +after):\n%s", when, id, d)
				}
			}
		}

		o.stop()
		vma.set("again", is(job.Running, 300, 1000))
		o.begin(nodes)
		synctest.Wait()
		if r := o.rows.last("again"); !slices.Contains(r.Health, report.Stale) || r.BytesPerSecond != nil {
			t.Errorf("before the first answer a job has health %v and speed %v", r.Health, r.BytesPerSecond)
		}
		o.pass(time.Minute)
		same("after the start")
		if r := o.rows.last("again"); r.BytesTransferred != 300 {
			t.Errorf("a new attempt that began meanwhile shows %d bytes", r.BytesTransferred)
		}
		p.goDown(nil)
		o.pass(3 * time.Second)
		same("before the node has said how its jobs are")
		p.send(actors.PeerEvent{ID: "1-3", Snapshot: true, Jobs: []report.Report{
			of("a", 1, job.Running, 10), of("b", 1, job.Paused, 10),
		}})
		synctest.Wait()
		if a, b := o.rows.last("a"), o.rows.last("b"); a.Status != job.Running || b.Status != job.Paused ||
			len(o.rows.of("b")) != len(said["b"])+1 {
			t.Errorf("with the node again a is %s, b is %s: %v", a.Status, b.Status, o.rows.of("b"))
		}
	})
}

func TestAJobThatTheConfigurationNamesIsAskedForOnlyOnce(t *testing.T) {
	vma := newOldVMA()
	inOMA(t, nil, func(o *oma) {
		begin := func() {
			o.stop()
			o.startWith(func(d *actors.Deps) {
				d.Nodes = []actors.WatchedNode{{Name: "old", Old: vma, Jobs: []job.ID{"named"}}}
				d.ExternalKeep = time.Minute
			})
		}
		vma.set("named", is(job.StatusCompleted, 1000, 1000))
		begin()
		o.pass(5 * time.Minute)
		if !o.rows.has("named") {
			t.Error("it is dropped: the next start would ask for it as for a new one")
		}
		vma.set("named", nil) // it forgets what has ended
		begin()
		o.pass(time.Minute)
		if r := o.rows.last("named"); r.Status != job.StatusCompleted {
			t.Errorf("a job that was seen completed is %s: %v", r.Status, o.rows.of("named"))
		}
	})
}

func TestANodeThatAnswersForOtherJobsIsNotUnreachable(t *testing.T) {
	vma := newOldVMA()
	inOMA(t, []actors.WatchedNode{{Name: "old", Old: vma}}, func(o *oma) {
		for i := range 2 * report.PollErrors {
			id := job.ID(fmt.Sprintf("job-%d", i))
			vma.set(id, fails("the answer is empty"))
			o.watch("old", id)
		}
		vma.set("good", is(job.Running, 1, 1000))
		o.watch("old", "good")
		for range 120 {
			o.pass(time.Second)
			if h := o.node.Watched(); h[0].State == actors.NodeUnreachable {
				t.Fatalf("the node is %+v", h[0])
			}
		}
	})
}

func TestOnlyJobsOfOlderVMAsAreNamed(t *testing.T) {
	inOMA(t, []actors.WatchedNode{{Name: "ours", Peer: &ours{}}, {Name: "old", Old: newOldVMA()}}, func(o *oma) {
		if err := o.node.WatchJob(t.Context(), "ours", "job-1"); job.KindOf(err) != job.Conflict {
			t.Errorf("one of ours: %v", err)
		}
		if err := o.node.WatchJob(t.Context(), "vma-9", "job-1"); job.KindOf(err) != job.NotFound {
			t.Errorf("no node: %v", err)
		}
	})
}

// ours is a stand-in for one of our VMAs. Follow gives the events that the test sends, until it breaks the connection.
type ours struct {
	mu     sync.Mutex
	down   error
	each   func(actors.PeerEvent)
	broken chan error
	lasts  []string // with which the stream was opened
}

func (p *ours) Follow(ctx context.Context, last string, each func(actors.PeerEvent)) error {
	p.mu.Lock()
	if p.down != nil {
		defer p.mu.Unlock()
		return p.down
	}
	p.lasts = append(p.lasts, last)
	broken := make(chan error, 1)
	p.each, p.broken = each, broken
	p.mu.Unlock()
	each(actors.PeerEvent{})
	for {
		select {
		case err := <-broken:
			return err
		case <-time.After(2 * time.Second):
			each(actors.PeerEvent{})
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (p *ours) send(ev actors.PeerEvent) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.each(ev)
}

func (p *ours) goDown(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.down = err
	if err != nil {
		p.broken <- err
	}
}

func of(id job.ID, seq int64, status job.Status, done int64) report.Report {
	return report.Report{
		JobID: id, Epoch: 1, Seq: seq, Origin: report.Own, Status: status, Phase: job.Transfer, BytesTransferred: done,
		Health: []report.Health{}, Allowed: []job.Verb{job.Pause},
	}
}

func TestTheJobsOfOurVMAAreShownAsItTellsThem(t *testing.T) {
	p := &ours{}
	inOMA(t, []actors.WatchedNode{{Name: "vma-1", Peer: p}}, func(o *oma) {
		o.pass(time.Second)
		p.send(actors.PeerEvent{ID: "1-3", Snapshot: true, Jobs: []report.Report{
			of("a", 1, job.Running, 10), of("b", 2, job.StatusCompleted, 20), of("c", 3, job.Running, 30),
		}})
		p.send(actors.PeerEvent{ID: "1-4", Jobs: []report.Report{of("a", 4, job.Running, 50)}})
		p.send(actors.PeerEvent{ID: "1-4", Jobs: []report.Report{of("a", 2, job.Running, 20)}}) // late
		synctest.Wait()
		if r := o.rows.last("c"); r.Node != "vma-1" || r.Watched.Version != "1-3" || r.Status != job.Running {
			t.Errorf("c is %s at %q: %+v", r.Status, r.Node, r.Watched)
		}
		p.send(actors.PeerEvent{ID: "1-5", Jobs: []report.Report{of("c", 5, job.Paused, 30)}})
		synctest.Wait()
		if r := o.rows.last("c"); r.Status != job.Paused {
			t.Errorf("a new status is shown only later: %s", r.Status)
		}
		o.pass(time.Second)
		if r := o.rows.last("a"); r.BytesTransferred != 50 {
			t.Errorf("a has %d bytes", r.BytesTransferred)
		}

		p.goDown(errors.New("connection refused"))
		o.pass(2 * time.Second)
		if r := o.rows.last("a"); r.Status != job.Running || !slices.Contains(r.Health, report.Stale) {
			t.Errorf("a moment later a is %s, %v", r.Status, r.Health)
		}
		o.pass(time.Minute)
		if r := o.rows.last("a"); r.Status != job.Unreachable || r.Watched.Reason != "connection refused" ||
			r.BytesTransferred != 50 {
			t.Errorf("without its node a is %s: %+v", r.Status, r.Watched)
		}
		if r := o.rows.last("b"); r.Status != job.StatusCompleted {
			t.Errorf("a job that has ended is %s", r.Status)
		}
		p.goDown(nil)
		o.pass(3 * time.Second)
		if r := o.rows.last("a"); r.Status != job.Running || len(r.Health) > 0 {
			t.Errorf("with its node again a is %s, %v", r.Status, r.Health)
		}
		if d := cmp.Diff([]string{"", "1-5"}, p.lasts); d != "" {
			t.Errorf("the stream went on from elsewhere: %s", d)
		}
		// Another journal: a went on, b was deleted, c is not known.
		p.send(actors.PeerEvent{ID: "9-1", Snapshot: true, Jobs: []report.Report{of("a", 1, job.StatusCompleted, 60)}})
		o.pass(time.Second)
		if a, c := o.rows.last("a"), o.rows.last("c"); a.Status != job.StatusCompleted || c.Status != job.Lost {
			t.Errorf("a is %s, c is %s", a.Status, c.Status)
		}
		p.send(actors.PeerEvent{ID: "1-3", Deleted: []report.Deleted{{JobID: "a"}}})
		o.pass(time.Second)
		if !o.rows.has("a") {
			t.Error("the deletion of an earlier job took away the later one of its id")
		}
		p.send(actors.PeerEvent{ID: "9-2", Deleted: []report.Deleted{{JobID: "a", Epoch: 9, Seq: 2}}})
		o.pass(time.Second)
		for _, id := range []job.ID{"a", "b"} {
			if o.rows.has(id) {
				t.Errorf("%s was deleted at its node, and is still shown", id)
			}
		}
	})
}

func TestThePercentOfAJobDoesNotFallWhenItsNodeWasKilledAndKnowsLess(t *testing.T) {
	p := &ours{}
	inOMA(t, []actors.WatchedNode{{Name: "vma-1", Peer: p}}, func(o *oma) {
		o.pass(time.Second)
		says := func(epoch, done int64, created time.Time) {
			r := of("a", epoch, job.Running, done)
			r.Epoch, r.CreatedAt, r.OverallPercent = epoch, created, float64(done)
			p.send(actors.PeerEvent{Snapshot: true, Jobs: []report.Report{r}})
			o.pass(time.Second)
		}
		says(1, 40, time.Unix(1, 0))
		says(2, 30, time.Unix(1, 0))
		if r := o.rows.last("a"); r.OverallPercent != 40 || r.BytesTransferred != 30 {
			t.Errorf("it shows %v, and %d bytes", r.OverallPercent, r.BytesTransferred)
		}
		says(3, 10, time.Unix(2, 0))
		if r := o.rows.last("a"); r.OverallPercent != 10 {
			t.Errorf("a later job of its id shows %v", r.OverallPercent)
		}
	})
}

func TestAnIdOfTwoNodesIsShownOfTheFirst(t *testing.T) {
	one, two := &ours{}, &ours{}
	inOMA(t, []actors.WatchedNode{{Name: "one", Peer: one}, {Name: "two", Peer: two}}, func(o *oma) {
		o.pass(time.Second)
		one.send(actors.PeerEvent{Snapshot: true, Jobs: []report.Report{of("a", 1, job.Running, 10)}})
		synctest.Wait()
		two.send(actors.PeerEvent{Snapshot: true, Jobs: []report.Report{of("a", 7, job.StatusCompleted, 20)}})
		o.pass(time.Second)
		if r := o.rows.last("a"); r.Node != "one" || r.BytesTransferred != 10 {
			t.Errorf("it is of %s with %d bytes", r.Node, r.BytesTransferred)
		}
		two.send(actors.PeerEvent{Deleted: []report.Deleted{{JobID: "a", Epoch: 9, Seq: 9}}})
		o.pass(time.Second)
		if !o.rows.has("a") {
			t.Error("the other node's deletion took it away")
		}
	})
}

// broken panics the first times.
type broken struct {
	ours
	times int
}

func (b *broken) Follow(ctx context.Context, last string, each func(actors.PeerEvent)) error {
	b.mu.Lock()
	b.times++
	n := b.times
	b.mu.Unlock()
	if n < 3 {
		panic("no such thing")
	}
	return b.ours.Follow(ctx, last, each)
}

func TestAWatcherWhoseConnectionPanicsConnectsAgain(t *testing.T) {
	p := &broken{}
	inOMA(t, []actors.WatchedNode{{Name: "vma-1", Peer: p}}, func(o *oma) {
		o.pass(10 * time.Second)
		p.send(actors.PeerEvent{Snapshot: true, Jobs: []report.Report{of("a", 1, job.Running, 10)}})
		o.pass(time.Second)
		if r := o.rows.last("a"); r.BytesTransferred != 10 {
			t.Errorf("nothing was seen: %+v", r)
		}
	})
}
