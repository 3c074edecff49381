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
	db      *history.DB
	journal *store.Journal
	pace    Report
	shown   map[job.ID]stage
}

// stage is what a job's state was read for last.
type stage struct {
	phase job.Phase
	round int
	disks int
}

func newHistorySink(db *history.DB, journal *store.Journal, pace Report) *historySink {
	return &historySink{db: db, journal: journal, pace: pace, shown: map[job.ID]stage{}}
}

// Name is that of the sink, in health and metrics.
func (*historySink) Name() string { return "history" }

// Volatile says that the database may come back older or empty: it is filled again then. What it has is not sent.
func (*historySink) Volatile() {}

// Pace is how often counters are written; a change of status or phase is written at once.
func (s *historySink) Pace() (time.Duration, float64) { return s.pace.Interval, s.pace.Percent }

// ExternalPace is that of jobs of other copy tools.
func (s *historySink) ExternalPace() (numbers, state time.Duration) { return s.pace.Interval, 0 }

// Publish writes reports. A report holds less than the tables, so the state of a job is read from the journal when it
// enters another phase.
func (s *historySink) Publish(ctx context.Context, reports []report.Report) error {
	entries := make([]history.Entry, 0, len(reports))
	for _, r := range reports {
		e := history.Entry{Node: LocalNode, Report: r}
		if now := (stage{r.Phase, r.Round, len(r.Disks)}); r.Origin == report.Own && s.shown[r.JobID] != now {
			st, err := s.journal.Job(ctx, r.JobID)
			if err == nil {
				e.State = &st
				s.shown[r.JobID] = now
			}
			if err != nil && job.KindOf(err) != job.NotFound { // it was deleted meanwhile
				return err
			}
		}
		entries = append(entries, e)
	}
	err := s.db.Record(ctx, entries)
	if err != nil {
		clear(s.shown) // what was read is lost
	}
	return err
}
