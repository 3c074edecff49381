package app

import (
	"context"
	"time"

	"github.com/vmferry/vmferry/report"
	"github.com/vmferry/vmferry/store"
)

// The sinks are the projections as the actors want them.

// memorySink is what the REST service reads. It takes every report and forgets what was deleted.
type memorySink struct{ *store.Memory }

func (memorySink) Name() string { return "memory" }

// Immediate: it only puts the reports into its map.
func (memorySink) Immediate() {}

// lastReports keeps the newest report of each job over a restart of the daemon.
type lastReports struct {
	journal *store.Journal
	every   time.Duration
	percent float64
}

func (lastReports) Name() string { return "journal" }

func (l lastReports) Publish(ctx context.Context, r []report.Report) error {
	return l.journal.SaveReports(ctx, r)
}

// Pace holds back what says nothing new: each report costs a write to the disk.
func (l lastReports) Pace() (time.Duration, float64) { return l.every, l.percent }

// redisSink is the projection for other programs. It gets every version that the REST service has shown, so that one
// version means one thing everywhere.
type redisSink struct{ *store.Redis }

func (redisSink) Name() string { return "redis" }

// Volatile: a Redis may come back empty and is filled again.
func (redisSink) Volatile() {}
