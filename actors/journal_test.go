package actors_test

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vmferry/vmferry/actors"
	"github.com/vmferry/vmferry/job"
)

// asked are the calls to the vCenter so far, without those that only look for snapshots.
func (v *vcenter) asked() []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return append([]string{}, v.calls...)
}

func TestNothingIsAskedOfTheVCenterBeforeTheJournalHasIt(t *testing.T) {
	for at, want := range map[time.Duration][]string{
		0:                       {},
		500 * time.Millisecond:  {"inspect"},
		1500 * time.Millisecond: {"inspect", "cbt"},
		2500 * time.Millisecond: {"inspect", "cbt", "snapshot"},
	} {
		t.Run(at.String(), func(t *testing.T) {
			inWorld(t, 1, func(w *world) {
				full := func() { w.journal.breakWith(job.Errorf("save", job.NoSpace, "", "disk full")) }
				if at == 0 {
					full()
				}
				id := w.submit("web", job.Options{Verify: job.VerifyNone})
				w.pass(at)
				full()
				w.pass(time.Minute)
				if d := cmp.Diff(want, w.vcenter.asked()); d != "" {
					t.Errorf("calls to the vCenter (-want +got):\n%s", d)
				}
				if n := w.copies.writing(); n != 0 {
					t.Errorf("%d disks are copied", n)
				}
				w.journal.breakWith(nil)
				w.pass(3 * time.Minute)
				w.want(id, job.Completed)
				w.settled(id)
			})
		})
	}
}

// oneOfAVM is a journal in which no two unfinished jobs can have one VM, as in the real journal.
type oneOfAVM struct{ *journal }

func (j oneOfAVM) Save(ctx context.Context, st job.State, event []byte) error {
	others, err := j.Jobs(ctx)
	if err != nil {
		return err
	}
	for _, o := range others {
		if o.ID != st.ID && !st.Phase.Terminal() && !o.Phase.Terminal() && st.VM.UUID != "" &&
			o.VM.UUID == st.VM.UUID {
			return job.Errorf("save", job.Conflict, "Wait for it to end", "job %s moves the VM", o.ID)
		}
	}
	return j.journal.Save(ctx, st, event)
}

// oneVM is a vCenter with one VM: every name means that VM.
type oneVM struct{ *vcenter }

func (v oneVM) Inspect(ctx context.Context, name string) (job.VM, error) {
	vm, err := v.vcenter.Inspect(ctx, name)
	vm.UUID = "uuid-web"
	return vm, err
}

func TestAJobWhoseVMAnotherJobMovesFailsAtOnce(t *testing.T) {
	inWorld(t, 1, func(w *world) {
		w.again(func(d *actors.Deps) { d.Journal, d.VCenter = oneOfAVM{w.journal}, oneVM{w.vcenter} })
		first := w.submit("web", job.Options{Verify: job.VerifyNone})
		w.pass(10 * time.Second)
		w.want(first, job.Transfer)
		second, _, err := w.node.Submit(t.Context(), job.Spec{
			VM: "/DC0/vm/web", Targets: []job.Target{{Disk: "disk-2000", URI: "/targets/another.raw"}},
		}, "", "", "")
		if err != nil {
			t.Fatal(err)
		}
		w.pass(5 * time.Second)
		if st := w.want(second, job.Failed); st.Failure.Kind != job.Conflict || st.Disks != nil ||
			!strings.Contains(st.Failure.Message, string(first)+" moves the VM") {
			t.Errorf("failure %+v, disks %+v", st.Failure, st.Disks)
		}
		w.pass(3 * time.Minute)
		w.want(first, job.Completed)
		w.settled(second)
		want := []string{"inspect", "cbt", "snapshot", "inspect", "check", "remove"}
		if d := cmp.Diff(want, w.vcenter.asked()); d != "" {
			t.Errorf("calls to the vCenter (-want +got):\n%s", d)
		}
	})
}

// keyedJournal knows requests again by their keys.
type keyedJournal struct {
	*journal
	mu   sync.Mutex
	keys map[string]job.ID
}

func (j *keyedJournal) Create(ctx context.Context, st job.State, event []byte, key, body string) (job.ID, bool, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if id, ok := j.keys[key]; ok {
		return id, true, nil
	}
	id, existing, err := j.journal.Create(ctx, st, event, key, body)
	if err == nil {
		j.keys[key] = id
	}
	return id, existing, err
}

func TestARequestThatIsRepeatedStartsNoSecondJob(t *testing.T) {
	inWorld(t, 1, func(w *world) {
		w.again(func(d *actors.Deps) { d.Journal = &keyedJournal{journal: w.journal, keys: map[string]job.ID{}} })
		spec := job.Spec{VM: "web", Options: job.Options{Verify: job.VerifyNone}}
		var ids [2]job.ID
		for i := range ids {
			id, existing, err := w.node.Submit(t.Context(), spec, "", "key-1", "")
			if err != nil || existing != (i == 1) {
				t.Fatalf("request %d: existing is %v, %v", i, existing, err)
			}
			ids[i] = id
			w.pass(5 * time.Second)
		}
		w.pass(3 * time.Minute)
		w.want(ids[0], job.Completed)
		if ids[1] != ids[0] {
			t.Errorf("the second request gave %s, the first one %s", ids[1], ids[0])
		}
		for _, r := range w.page.reports() {
			if r.JobID != ids[0] {
				t.Fatalf("there is a second job %s, %s", r.JobID, r.Status)
			}
		}
		if d := cmp.Diff([]string{"inspect", "cbt", "snapshot", "check", "remove"}, w.vcenter.asked()); d != "" {
			t.Errorf("calls to the vCenter (-want +got):\n%s", d)
		}
	})
}

func TestAJobThatPanicsGoesOnFromTheJournal(t *testing.T) {
	inWorld(t, 1, func(w *world) {
		var crash atomic.Bool
		w.again(func(d *actors.Deps) { d.Now = panics(&crash) })
		id := w.submit("web", job.Options{Verify: job.VerifyNone})
		w.pass(30 * time.Second)
		crash.Store(true)
		w.ask(id, job.CommandReceived{Verb: job.Pause}) // lost with the actor
		if crash.Load() {
			t.Fatal("the actor of the job did not panic")
		}
		w.pass(3 * time.Minute)
		st := w.want(id, job.Completed)
		if st.Disks[0].Attempt != 2 {
			t.Errorf("%d attempts", st.Disks[0].Attempt)
		}
		w.settled(id)
	})
}
