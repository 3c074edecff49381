package app

import (
	"context"
	"time"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/store"
)

// journal is the store's journal with the interface that actors needs.
type journal struct{ *store.Journal }

// Create accepts a job, once for each idempotency key.
func (j journal) Create(ctx context.Context, st job.State, event []byte, key, bodyHash string) (job.ID, bool, error) {
	if key == "" {
		return st.ID, false, j.Journal.Create(ctx, st, event)
	}
	return j.CreateOnce(ctx, st, event, store.Key{Name: key, BodyHash: bodyHash})
}

// Lookup finds the job that an earlier request with that idempotency key and body made.
func (j journal) Lookup(ctx context.Context, key, bodyHash string, now time.Time) (job.ID, bool, error) {
	return j.Journal.Lookup(ctx, store.Key{Name: key, BodyHash: bodyHash}, now)
}
