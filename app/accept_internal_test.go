package app

import (
	"context"
	"testing"
	"time"

	"github.com/vmferry/vmferry/http/rest"
	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/store"
)

func TestARequestThatIsRepeatedWhileTheFirstIsLookedAtIsNotRefusedForTheJobOfTheFirst(t *testing.T) {
	j, err := store.OpenJournal(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = j.Close() })
	o := rest.SubmitOptions{IdempotencyKey: "k", BodyHash: "h"}
	spec := job.Spec{VM: "web"}
	c := commands{journal: j, refusal: func(ctx context.Context, spec job.Spec) error {
		// Meanwhile the first request becomes a job, which has the targets.
		st, _, err := job.State{}.Apply(job.Submitted{ID: "first", Spec: spec}, time.Now())
		if err != nil {
			return err
		}
		if _, _, err := j.CreateOnce(ctx, st, nil, store.Key{Name: "k", BodyHash: "h"}); err != nil {
			return err
		}
		return job.Errorf("claim target", job.Conflict, "", "it belongs to job first")
	}}
	if err := c.refused(t.Context(), spec, o); err != nil {
		t.Error(err)
	}
	c.refusal = func(context.Context, job.Spec) error { return job.Errorf("find VM", job.NotFound, "", "no VM") }
	o.IdempotencyKey = "other"
	if err := c.refused(t.Context(), spec, o); job.KindOf(err) != job.NotFound {
		t.Errorf("a request of its own: %v", err)
	}
}
