package http_test

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	apihttp "github.com/vmferry/vmferry/http"
	"github.com/vmferry/vmferry/http/rest"
	"github.com/vmferry/vmferry/job"
)

// past is a history that is kept in memory, the newest row first. A cursor is how many rows came before.
type past struct {
	rows []rest.HistoryRow
	away bool
}

func (p past) Page(_ context.Context, f rest.HistoryFilter) ([]rest.HistoryRow, string, error) {
	if p.away {
		return nil, "", job.Errorf("read history", job.Unavailable, "Start the database", "the database is away")
	}
	var fit []rest.HistoryRow
	for _, r := range p.rows {
		if (len(f.Status) == 0 || slices.Contains(f.Status, r.Status)) && (f.Node == "" || f.Node == r.Node) &&
			strings.Contains(r.VMName, f.VM) && !r.CreatedAt.Before(f.From) &&
			(f.To.IsZero() || r.CreatedAt.Before(f.To)) {
			fit = append(fit, r)
		}
	}
	from := 0
	if f.Cursor != "" {
		var err error
		if from, err = strconv.Atoi(f.Cursor); err != nil || from < 0 || from > len(fit) {
			return nil, "", job.Errorf("read history", job.Invalid, "", "the cursor is not one of this list")
		}
	}
	fit = fit[from:]
	if len(fit) > f.Limit {
		return fit[:f.Limit], strconv.Itoa(from + f.Limit), nil
	}
	return fit, "", nil
}

// pastOf is a history with n jobs, one an hour: two of three are of the node vma-1, and each fifth has failed.
func pastOf(n int) past {
	var p past
	for i := range n {
		at := start().Add(time.Duration(-i) * time.Hour)
		r := rest.HistoryRow{
			JobID: job.ID(fmt.Sprintf("job-%04d", n-i)), Node: "vma-1", VMName: fmt.Sprintf("web-%d", i%10),
			VMPath: "/DC0/vm/web", VMID: "502d7a5f", VCenter: "vc1", Datacenter: "DC0", Type: "initial",
			Status: string(job.StatusCompleted), Percent: 100, Operation: "every byte is on the targets",
			BytesMoved: 3 * gib, BytesSkipped: gib, BytesToTransfer: 4 * gib,
			CreatedAt: &at, StartedAt: &at, EndedAt: &at, UpdatedAt: &at,
		}
		if i%3 == 2 {
			r.Node = "local"
		}
		if i%5 == 1 {
			r.Status, r.Percent, r.Error, r.ErrorClass = string(job.StatusFailed), 40, "the target is full", "disk"
		}
		p.rows = append(p.rows, r)
	}
	return p
}

func TestAClientReadsTheHistoryPageByPageWithItsFilters(t *testing.T) {
	w := newWorld()
	p := pastOf(1200)
	_, s := w.server(t, func(o *apihttp.Options) { o.History = p })
	c := client(t, s.URL)
	all, err := c.History(t.Context(), rest.HistoryFilter{}, 0)
	if err != nil || len(all) != 1200 || all[0].JobID != "job-1200" || all[1199].JobID != "job-0001" {
		t.Fatalf("%d rows: %v", len(all), err)
	}
	for name, f := range map[string]struct {
		f    rest.HistoryFilter
		most int
		want int
	}{
		"the newest":      {rest.HistoryFilter{}, 700, 700},
		"failed":          {rest.HistoryFilter{Status: []string{"failed", "lost"}}, 0, 240},
		"of this daemon":  {rest.HistoryFilter{Node: "local"}, 0, 400},
		"of a VM":         {rest.HistoryFilter{VM: "web-3"}, 0, 120},
		"of the last day": {rest.HistoryFilter{From: start().Add(-24 * time.Hour)}, 0, 25},
		"before that":     {rest.HistoryFilter{To: start().Add(-24 * time.Hour), Node: "vma-1"}, 0, 783},
	} {
		got, err := c.History(t.Context(), f.f, f.most)
		if err != nil || len(got) != f.want {
			t.Errorf("%s: %d rows, want %d: %v", name, len(got), f.want, err)
		}
	}
	page := ask(t, s.URL, "GET /api/v1/history?status=completed,failed&vm=web&from=2025-09-01T00:00:00%2B02:00&limit=2")
	next := "</api/v1/history?cursor=2&from=2025-08-31T22%3A00%3A00Z&limit=2&status=completed%2Cfailed&vm=web>"
	if !strings.Contains(page, next) {
		t.Errorf("the next page is another list: %s", page)
	}
}

func TestWithoutAHistoryInSQLTheAnswerSaysWhereTheJobsAre(t *testing.T) {
	w := newWorld()
	_, s := w.server(t)
	got := ask(t, s.URL, "GET /api/v1/history")
	if !strings.HasPrefix(got, "404") || !strings.Contains(got, rest.CodeNoHistory) ||
		!strings.Contains(got, "/api/v1/jobs?ended=true") {
		t.Errorf("got %s", got)
	}
	if _, err := client(t, s.URL).History(t.Context(), rest.HistoryFilter{}, 0); job.KindOf(err) != job.NotFound {
		t.Errorf("got %v", err)
	}
}

func TestADatabaseThatIsAwayIsToldAsSuch(t *testing.T) {
	w := newWorld()
	_, s := w.server(t, func(o *apihttp.Options) { o.History = past{away: true} })
	if got := ask(t, s.URL, "GET /api/v1/history"); !strings.HasPrefix(got, "503") ||
		!strings.Contains(got, "Start the database") {
		t.Errorf("got %s", got)
	}
}
