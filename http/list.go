package http

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/vmferry/vmferry/http/rest"
	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
)

type (
	listInput struct {
		Status []statusParam `query:"status" doc:"Only jobs in one of these statuses"`
		Health []healthParam `query:"health" doc:"Only jobs with one of these flags"`
		VM     string        `query:"vm" maxLength:"1024" doc:"Part of the VM's name or path, or its UUID or moref"`
		Node   string        `query:"node" maxLength:"64" doc:"At an OMA: only jobs of this node"`
		Ended  endedParam    `query:"ended" doc:"true: only jobs that have ended; false: only those that have not"`
		Sort   sortParam     `query:"sort" default:"-created_at" doc:"A leading - reverses the order"`
		Limit  int           `query:"limit" default:"50" minimum:"1" maximum:"500"`
		Cursor string        `query:"cursor" maxLength:"4096" doc:"From the Link header of the previous page"`
	}
	listOutput struct {
		Link string `header:"Link" doc:"rel=next leads to the next page; it is missing on the last one"`
		Body jobList
	}
)

// jobList is the body of a page: the reports as events have them, each encoded once for all readers.
type jobList struct {
	reports []*report.Report
	frames  *frames
	buffers *sync.Pool // of *bytes.Buffer
}

// Schema is that of a list of reports.
func (jobList) Schema(r huma.Registry) *huma.Schema {
	return &huma.Schema{Type: huma.TypeArray, Items: r.Schema(reflect.TypeFor[report.Report](), true, "Report")}
}

// write writes the list as JSON, and a newline.
func (l jobList) write(w io.Writer) error {
	b, ok := l.buffers.Get().(*bytes.Buffer)
	if !ok {
		b = &bytes.Buffer{}
	}
	defer l.buffers.Put(b)
	b.Reset()
	_ = b.WriteByte('[') // as below, it never fails
	for i, r := range l.reports {
		f, err := l.frames.of(r)
		if err != nil {
			return err
		}
		if i > 0 {
			_ = b.WriteByte(',')
		}
		_, _ = b.Write(f)
	}
	_, _ = b.WriteString("]\n")
	_, err := w.Write(b.Bytes())
	return err
}

// Parameters whose values are closed sets. Their schemas list the values, and huma refuses all others.
type (
	statusParam string
	healthParam string
	sortParam   string
	endedParam  string
)

func (endedParam) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{Type: huma.TypeString, Enum: anys("true", "false")}
}

func (statusParam) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{Type: huma.TypeString, Enum: words(reflect.TypeFor[job.Status]())}
}

func (healthParam) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{Type: huma.TypeString, Enum: words(reflect.TypeFor[report.Health]())}
}

func (sortParam) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{Type: huma.TypeString, Enum: anys("created_at", "-created_at", "name", "-name", "status",
		"-status", "percent", "-percent", "ended_at", "-ended_at")}
}

func (h *Handler) registerList(api huma.API) {
	register(api, op("listJobs", http.MethodGet, "/api/v1/jobs", "All jobs",
		"Newest first if no sort is given; [] if there are none. The history: ended=true and sort=-ended_at."), h.list)
}

func (h *Handler) list(_ context.Context, in *listInput) (*listOutput, error) {
	after, err := parseCursor(in.Cursor, in.Sort)
	if err != nil {
		return nil, err
	}
	page := in.first(h.reports.Each(in.Sort == oldestFirst), after, in.Limit+1)
	out := &listOutput{Body: jobList{page[:min(len(page), in.Limit)], &h.frames, &h.pages}}
	if len(page) > in.Limit {
		out.Link = "<" + in.next(page[in.Limit-1]) + `>; rel="next"`
	}
	return out, nil
}

// The lists that are in the order of all reports, or in the reverse.
const newestFirst, oldestFirst sortParam = "-created_at", "created_at"

// first is the first reports of the list after one, at most that many, in the order of the list. all is in the order of
// creation, falling or rising as the list, so a list in that order ends early. For all other lists it looks at each
// report once, and sorts only those that it returns.
func (in *listInput) first(all iter.Seq[*report.Report], after *cursor, most int) []*report.Report {
	less := order(in.Sort)
	page := make([]*report.Report, 0, most)
	var from *report.Report
	if after != nil {
		from = after.report()
	}
	inOrder := in.Sort == newestFirst || in.Sort == oldestFirst
	for r := range all {
		if from != nil && less(from, r) >= 0 || !in.wants(r) {
			continue
		}
		if len(page) == most {
			if inOrder {
				break
			}
			if less(page[most-1], r) <= 0 {
				continue
			}
			page = page[:most-1]
		}
		at, _ := slices.BinarySearchFunc(page, r, less)
		page = slices.Insert(page, at, r)
	}
	return page
}

func (in *listInput) wants(r *report.Report) bool {
	if in.Node != "" && in.Node != r.Node {
		return false
	}
	if len(in.Status) > 0 && !slices.Contains(in.Status, statusParam(r.Status)) {
		return false
	}
	if len(in.Health) > 0 && !slices.ContainsFunc(r.Health, func(f report.Health) bool {
		return slices.Contains(in.Health, healthParam(f))
	}) {
		return false
	}
	if in.Ended != "" && (in.Ended == "true") != r.Status.Terminal() {
		return false
	}
	if in.VM == "" || in.VM == r.VM.Ref || strings.EqualFold(in.VM, r.VM.UUID) {
		return true
	}
	part := strings.ToLower(in.VM)
	return strings.Contains(strings.ToLower(r.VM.Name), part) || strings.Contains(strings.ToLower(r.VM.Path), part)
}

// order compares two reports by one of the sort words. Between equal ones the id decides, so that pages never overlap.
func order(sort sortParam) func(a, b *report.Report) int {
	word, down := strings.CutPrefix(string(sort), "-")
	var by func(a, b *report.Report) int
	switch word {
	case "name":
		by = func(a, b *report.Report) int { return cmp.Compare(a.VM.Name, b.VM.Name) }
	case "status":
		by = func(a, b *report.Report) int { return cmp.Compare(a.Status, b.Status) }
	case "percent":
		by = func(a, b *report.Report) int { return cmp.Compare(a.OverallPercent, b.OverallPercent) }
	case "ended_at":
		by = func(a, b *report.Report) int { return endedAt(a).Compare(endedAt(b)) }
	default:
		by = func(a, b *report.Report) int { return a.CreatedAt.Compare(b.CreatedAt) }
	}
	return func(a, b *report.Report) int {
		if down {
			a, b = b, a
		}
		if c := by(a, b); c != 0 {
			return c
		}
		return cmp.Compare(a.JobID, b.JobID)
	}
}

// endedAt is when a job ended; one that goes on comes before all others.
func endedAt(r *report.Report) time.Time {
	if r.EndedAt == nil {
		return time.Time{}
	}
	return *r.EndedAt
}

// cursor is the last job of a page: what it is sorted by, and its id.
type cursor struct {
	Sort    sortParam  `json:"s"`
	ID      job.ID     `json:"i"`
	Created time.Time  `json:"c,omitzero"`
	Ended   time.Time  `json:"e,omitzero"`
	Name    string     `json:"n,omitempty"`
	Status  job.Status `json:"t,omitempty"`
	Percent float64    `json:"p,omitempty"`
}

func (c *cursor) report() *report.Report {
	return &report.Report{
		JobID: c.ID, CreatedAt: c.Created, EndedAt: &c.Ended, VM: report.VM{Name: c.Name}, Status: c.Status,
		OverallPercent: c.Percent,
	}
}

// next is the address of the page that starts after a job.
func (in *listInput) next(last *report.Report) string {
	c := cursor{Sort: in.Sort, ID: last.JobID}
	switch strings.TrimPrefix(string(in.Sort), "-") {
	case "name":
		c.Name = last.VM.Name
	case "status":
		c.Status = last.Status
	case "percent":
		c.Percent = last.OverallPercent
	case "ended_at":
		c.Ended = endedAt(last)
	default:
		c.Created = last.CreatedAt
	}
	text, err := json.Marshal(c)
	if err != nil {
		return "" // a struct of plain fields always encodes
	}
	q := url.Values{
		"sort": {string(in.Sort)}, "limit": {fmt.Sprint(in.Limit)},
		"cursor": {base64.RawURLEncoding.EncodeToString(text)},
	}
	if len(in.Status) > 0 {
		q.Set("status", joined(in.Status))
	}
	if len(in.Health) > 0 {
		q.Set("health", joined(in.Health))
	}
	if in.VM != "" {
		q.Set("vm", in.VM)
	}
	if in.Node != "" {
		q.Set("node", in.Node)
	}
	if in.Ended != "" {
		q.Set("ended", string(in.Ended))
	}
	return "/api/v1/jobs?" + q.Encode()
}

func joined[T ~string](list []T) string {
	var out strings.Builder
	for i, v := range list {
		if i > 0 {
			out.WriteByte(',')
		}
		out.WriteString(string(v))
	}
	return out.String()
}

func parseCursor(text string, sort sortParam) (*cursor, error) {
	if text == "" {
		return nil, nil //nolint:nilnil // no cursor is no error: the first page
	}
	var c cursor
	b, err := base64.RawURLEncoding.DecodeString(text)
	if err == nil {
		err = json.Unmarshal(b, &c)
	}
	if err != nil || c.Sort != sort || c.ID == "" {
		return nil, rest.NewProblem(rest.CodeParameterInvalid, "the cursor does not belong to this list",
			"Take it from the Link header, and keep the other parameters").
			At("query.cursor", "is not from this daemon, or belongs to another sort order")
	}
	return &c, nil
}
