package http_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/vmferry/vmferry/http/rest"
	"github.com/vmferry/vmferry/job"
)

func TestTheEventsOfAJobArePagedByTheirIDsAndSearchedByTheirWords(t *testing.T) {
	w := newWorld()
	w.running(t, "job-web")
	_, s := w.server(t)
	c := client(t, s.URL)
	all, err := c.Events(t.Context(), "job-web")
	if err != nil || len(all) < 4 {
		t.Fatalf("%d events, %v", len(all), err)
	}
	for i, e := range all {
		if e.ID != fmt.Sprintf("%d-%d", start().UnixMilli(), i+1) || e.Seq != int64(i+1) || e.Text == "" {
			t.Errorf("event %d is %+v", i, e)
		}
	}
	for _, after := range []string{all[1].ID, "2"} {
		got, err := c.ListEvents(t.Context(), "job-web", rest.EventOptions{After: after})
		if err != nil || len(got) != len(all)-2 || got[0].Seq != 3 {
			t.Errorf("after %s: %d events of %d, %v", after, len(got), len(all), err)
		}
	}
	got, err := c.ListEvents(t.Context(), "job-web", rest.EventOptions{After: "5-2"})
	if err != nil || len(got) != len(all) {
		t.Errorf("an id of an earlier job of this name gives %d events of %d, %v", len(got), len(all), err)
	}
	got, err = c.ListEvents(t.Context(), "job-web", rest.EventOptions{Text: "TOOK Snapshot"})
	if err != nil || len(got) != 1 || got[0].Type != "snapshot_taken" {
		t.Errorf("searched: %+v %v", got, err)
	}
	got, err = c.ListEvents(t.Context(), "job-web", rest.EventOptions{Newest: 2})
	if err != nil || len(got) != 2 || got[1].ID != all[len(all)-1].ID {
		t.Errorf("newest: %+v %v", got, err)
	}
	if _, err := c.ListEvents(t.Context(), "job-web", rest.EventOptions{After: "yesterday"}); job.KindOf(err) !=
		job.Invalid {
		t.Errorf("a word as cursor: %v", err)
	}
	page := ask(t, s.URL, "GET /api/v1/jobs/job-web/events?limit=3")
	if link := fmt.Sprintf(`</api/v1/jobs/job-web/events?after=%s&limit=3>; rel="next"`, all[2].ID); !strings.Contains(
		page, link) {
		t.Errorf("no link %s in %s", link, page)
	}
}
