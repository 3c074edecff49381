package app

import (
	"context"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
	"github.com/vmferry/vmferry/store"
	"github.com/vmferry/vmferry/store/history"
)

const (
	historyFile = "history.db" // in the state directory

	// LocalNode is the name of this daemon in the history: the node of the jobs that it runs itself.
	LocalNode = "local"
)

// optionalHistory has nil if no history is kept.
type optionalHistory struct{ *history.DB }

// openHistory does not touch the database: a daemon starts without it.
func openHistory(end *ending, ctx startContext, cfg Config, journal *store.Journal, log *slog.Logger) (
	optionalHistory, error,
) {
	if !cfg.SQL.on() {
		return optionalHistory{}, nil
	}
	node, err := journal.NodeID(ctx)
	if err != nil {
		return optionalHistory{}, err
	}
	h, err := history.Open(history.Config{
		Driver: cfg.SQL.Driver, Path: filepath.Join(cfg.StateDir, historyFile), DSNFile: cfg.SQL.DSNFile,
		Alter: cfg.SQL.Alter, Writer: node, Log: log,
	})
	if err != nil {
		return optionalHistory{}, err
	}
	end.with(func(context.Context) error { return h.Close() })
	return optionalHistory{h}, nil
}

// historySink is the projection in SQL. Only the Aggregator's writer uses it, one call at a time.
type historySink struct {
	db   *history.DB
	pace Report
}

// Name is that of the sink, in health and metrics.
func (*historySink) Name() string { return "history" }

// Volatile says that the database may come back older or empty: it is filled again then. What it has is not sent.
func (*historySink) Volatile() {}

// Pace is how often counters are written; a change of status or phase is written at once.
func (s *historySink) Pace() (time.Duration, float64) { return s.pace.Interval, s.pace.Percent }

// ExternalPace is that of jobs of other copy tools.
func (s *historySink) ExternalPace() (numbers, state time.Duration) { return s.pace.Interval, 0 }

// Publish writes reports. That of a watched job has the version of this daemon, so what is seen comes in one order.
func (s *historySink) Publish(ctx context.Context, reports []report.Report) error {
	entries := make([]history.Entry, 0, len(reports))
	for _, r := range reports {
		e := history.Entry{Node: LocalNode, Report: r}
		if r.Node != "" {
			e.Node, e.Watch = r.Node, historyWatch(r)
		}
		entries = append(entries, e)
	}
	return s.db.Record(ctx, entries)
}

// historyWatch is what a row shows beside the report of a watched job.
func historyWatch(r report.Report) *history.Watch {
	w := &history.Watch{Epoch: r.Epoch, Seq: r.Seq}
	if r.Watched == nil {
		return w
	}
	if r.Watched.SeenAt != nil {
		w.PolledAt = *r.Watched.SeenAt
	}
	if r.Watched.Since == nil {
		return w
	}
	w.State, w.Since, w.Reason, w.Kind = r.Status, *r.Watched.Since, r.Watched.Reason, job.Unavailable
	if r.Status == job.Lost {
		w.Kind = job.NotFound
	}
	return w
}
