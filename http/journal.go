package http

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"github.com/vmferry/vmferry/http/rest"
	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
)

type (
	journalInput struct {
		ID     string `path:"id" doc:"Job id" example:"job-20250925-134230.513-8034ee"`
		After  string `query:"after" maxLength:"60" doc:"Only events that follow this id or number" example:"17"`
		Q      string `query:"q" maxLength:"200" doc:"Only events with this text in their words or their type"`
		Limit  int    `query:"limit" minimum:"1" maximum:"1000" doc:"At most that many; left out, all"`
		Newest bool   `query:"newest" doc:"With a limit: the last ones instead of the first ones"`
	}
	journalOutput struct {
		Link string `header:"Link" doc:"rel=next leads to the events that follow; it is missing if there are none yet"`
		Body []rest.JournalEntry
	}
)

func (h *Handler) journal(ctx context.Context, in *journalInput) (*journalOutput, error) {
	id, err := parseID(in.ID)
	if err != nil {
		return nil, err
	}
	events, err := h.commands.Events(ctx, id)
	if err != nil {
		return nil, jobProblem(err)
	}
	after, err := in.after(events)
	if err != nil {
		return nil, err
	}
	out := &journalOutput{Body: []rest.JournalEntry{}}
	q := strings.ToLower(in.Q)
	for _, e := range events {
		if e.Seq <= after {
			continue
		}
		entry, err := entryOf(id, epochOf(events), e)
		if err != nil {
			return nil, err
		}
		if q == "" || strings.Contains(strings.ToLower(entry.Text), q) || strings.Contains(entry.Type, q) {
			out.Body = append(out.Body, entry)
		}
	}
	if n := len(out.Body); in.Limit > 0 && n > in.Limit {
		if in.Newest {
			out.Body = out.Body[n-in.Limit:]
			return out, nil
		}
		out.Body = out.Body[:in.Limit]
		out.Link = "<" + in.next(id, out.Body[in.Limit-1].ID) + `>; rel="next"`
	}
	return out, nil
}

// epochOf is when a job was submitted, in ms since 1970. Another job that gets the same id later has another one.
func epochOf(events []Event) int64 {
	if len(events) == 0 {
		return 0
	}
	return events[0].At.UnixMilli()
}

// after is the number of the event that the request names: 0 for none, and for one of an earlier job of this id, whose
// reader has seen nothing of this job.
func (in *journalInput) after(events []Event) (int64, error) {
	if in.After == "" {
		return 0, nil
	}
	if v, ok := report.ParseVersion(in.After); ok {
		if v.Epoch != epochOf(events) {
			return 0, nil
		}
		return v.Seq, nil
	}
	seq, err := strconv.ParseInt(in.After, 10, 64)
	if err != nil || seq < 0 {
		return 0, rest.NewProblem(rest.CodeParameterInvalid, "after names no event",
			"Take the id or the seq of an event of this list").
			At("query.after", "must be the id or the seq of an event")
	}
	return seq, nil
}

func (in *journalInput) next(id job.ID, last string) string {
	q := url.Values{"after": {last}, "limit": {strconv.Itoa(in.Limit)}}
	if in.Q != "" {
		q.Set("q", in.Q)
	}
	return jobPath(id) + "/events?" + q.Encode()
}

func entryOf(id job.ID, epoch int64, e Event) (rest.JournalEntry, error) {
	var rec struct {
		Type string          `json:"type"`
		Data json.RawMessage `json:"data"`
	}
	if err := json.Unmarshal(e.JSON, &rec); err != nil {
		return rest.JournalEntry{}, job.Errorf("read journal", job.Corrupt, "", "event %d of job %s: %w",
			e.Seq, id, err)
	}
	if len(rec.Data) == 0 {
		rec.Data = json.RawMessage("{}")
	}
	return rest.JournalEntry{
		ID: fmt.Sprintf("%d-%d", epoch, e.Seq), Seq: e.Seq, At: e.At.UTC(), Type: rec.Type,
		Text: report.StoredEventText(e.JSON), Data: rec.Data,
	}, nil
}
