package app

import (
	"context"
	"time"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
	"github.com/vmferry/vmferry/store"
)

// This file gives the projections the interface that actors needs.

// memorySink is the projection that the REST service reads. It takes every report and forgets deleted jobs.
type memorySink struct{ *store.Memory }

func (memorySink) Name() string { return "memory" }

// Immediate says that Publish does not block: it only puts the reports into a map.
func (memorySink) Immediate() {}

// lastReports stores the newest report of each job in the journal, for the time after a restart.
type lastReports struct {
	journal *store.Journal
	every   time.Duration
	percent float64
}

func (lastReports) Name() string { return "journal" }

func (l lastReports) Publish(ctx context.Context, r []report.Report) error {
	return l.journal.SaveReports(ctx, r)
}

// ForgetReports drops the reports of deleted jobs: they must not come back after a restart.
func (l lastReports) ForgetReports(ctx context.Context, ids []job.ID) error {
	return l.journal.ForgetReports(ctx, ids)
}

// Pace limits how often a report is stored while only its numbers change: each one costs a write to the disk.
func (l lastReports) Pace() (time.Duration, float64) { return l.every, l.percent }

// redisSink is the projection for other programs. It gets every report that the REST service gets, so that a version
// means the same report in both.
type redisSink struct{ *store.Redis }

func (redisSink) Name() string { return "redis" }

// Volatile says that Redis may come back empty: it is filled again then.
func (redisSink) Volatile() {}
