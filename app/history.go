package app

import (
	"context"
	"log/slog"
	"path/filepath"
	"time"

	apihttp "github.com/vmferry/vmferry/http"
	"github.com/vmferry/vmferry/http/rest"
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

// shown is the history as REST shows it; nil if none is kept.
func (h optionalHistory) shown() apihttp.History {
	if h.DB == nil {
		return nil
	}
	return shownHistory{h.DB}
}

// shownHistory gives http the rows of the history.
type shownHistory struct{ db *history.DB }

// historyTime bounds the reading of a page: a database may hang.
const historyTime = 5 * time.Second

// Page reads one page.
func (h shownHistory) Page(ctx context.Context, f rest.HistoryFilter) ([]rest.HistoryRow, string, error) {
	ctx, cancel := context.WithTimeout(ctx, historyTime)
	defer cancel()
	p, err := h.db.Page(ctx, history.Filter{
		Status: f.Status, Node: f.Node, VM: f.VM, From: f.From, To: f.To, Limit: f.Limit, Cursor: f.Cursor,
	})
	rows := make([]rest.HistoryRow, 0, len(p.Rows))
	for _, r := range p.Rows {
		rows = append(rows, historyRow(r))
	}
	return rows, p.Next, err
}

func historyRow(r history.Row) rest.HistoryRow {
	out := rest.HistoryRow{
		JobID: r.ID, Node: r.Node, VMName: r.SourceVMName, VMPath: r.SourceVMPath, VMID: r.SourceVMID,
		VCenter: r.VCenterHost, Datacenter: r.Datacenter, Type: r.ReplicationType,
		Status: string(r.Status), StatusSince: r.StateSince, StatusReason: r.StateReason,
		Percent: r.ProgressPercent, Operation: r.CurrentOperation,
		BytesMoved: r.BytesTransferred, BytesSkipped: r.BytesSkipped, BytesToTransfer: r.TotalBytes,
		Error: value(r.ErrorMessage), ErrorClass: value(r.ErrorClass),
		CreatedAt: r.CreatedAt, StartedAt: r.StartedAt, EndedAt: r.CompletedAt, UpdatedAt: r.UpdatedAt,
	}
	if r.SpeedBPS > 0 {
		out.BytesPerSecond = &r.SpeedBPS
	}
	return out
}

// value is the text of a column; "" for NULL.
func value(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

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
