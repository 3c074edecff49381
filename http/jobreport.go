package http

import (
	"bytes"
	"context"
	"embed"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"html/template"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"
	"github.com/go-chi/chi/v5"

	"github.com/vmferry/vmferry/http/rest"
	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
)

//go:embed jobreport.html
var jobReportFile embed.FS

// jobReportPage is the report of a job as one page. It has no scripts, and asks for no other file.
//
//nolint:gochecknoglobals // parsed once
var jobReportPage = template.Must(template.New("jobreport.html").Funcs(template.FuncMap{
	"at":      atTime,
	"maybe":   maybeTime,
	"size":    job.FormatSize,
	"line":    report.OneLine,
	"percent": func(p float64) string { return strconv.FormatFloat(p, 'f', 2, 64) + " %" },
	"seconds": func(s *float64) string {
		if s == nil {
			return "goes on"
		}
		return time.Duration(*s * float64(time.Second)).Round(100 * time.Millisecond).String()
	},
	"limit": func(n int64) string { return report.LimitText(n, job.FormatSize(n)+"/s") },
	"load": func(l report.Load) string {
		return fmt.Sprintf("source %.0f %%, target %.0f %%, throttle %.0f %%", 100*l.Source, 100*l.Target,
			100*l.Throttle)
	},
	"tone": func(r report.Report) string {
		switch r.Status {
		case job.StatusCompleted:
			return "completed"
		case job.StatusFailed:
			return "failed"
		default:
			return "other"
		}
	},
}).ParseFS(jobReportFile, "jobreport.html"))

func atTime(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") }

func maybeTime(t *time.Time) string {
	if t == nil {
		return "not yet"
	}
	return atTime(*t)
}

// jobReport serves GET /api/v1/jobs/{id}/report.
func (h *Handler) jobReport(w http.ResponseWriter, r *http.Request) {
	form := rest.ReportForm(r.URL.Query().Get("format"))
	if form == "" {
		form = rest.ReportHTML
	}
	if form != rest.ReportHTML && form != rest.ReportCSV && form != rest.ReportJSON {
		writeProblem(w, r, rest.NewProblem(rest.CodeParameterInvalid, "there is no such form of a report",
			"Ask for html, csv or json").At("query.format", "must be html, csv or json"))
		return
	}
	all, err := h.collect(r.Context(), chi.URLParam(r, "id"))
	if err != nil {
		h.fail(w, r, problemOf(err))
		return
	}
	var body []byte
	contentType := "application/json"
	switch form {
	case rest.ReportHTML:
		contentType = "text/html; charset=utf-8"
		body, err = pageOf(all)
	case rest.ReportCSV:
		contentType = "text/csv; charset=utf-8"
		body, err = tableOf(all)
	case rest.ReportJSON:
		body, err = json.Marshal(all)
	}
	if err != nil {
		h.fail(w, r, problemOf(err))
		return
	}
	head := w.Header()
	head.Set("Content-Type", contentType)
	head.Set("Content-Disposition", fmt.Sprintf("attachment; filename=%q", fileName(all.Report.JobID)+"."+string(form)))
	head.Set("Content-Length", strconv.Itoa(len(body)))
	// the page needs nothing, so it gets nothing, wherever it is opened
	head.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; sandbox")
	_, _ = w.Write(body) // the client has gone if this fails
}

// fileName is an id as part of a file's name on any system.
func fileName(id job.ID) string { return strings.ReplaceAll(string(id), ":", "_") }

// collect is all that a report is made of. A job of another tool has no events.
func (h *Handler) collect(ctx context.Context, text string) (rest.JobReport, error) {
	r, err := h.report(ctx, text)
	if err != nil {
		return rest.JobReport{}, err
	}
	out := rest.JobReport{MadeAt: h.now().UTC(), Report: r, Events: []rest.JournalEntry{}}
	events, err := h.commands.Events(ctx, r.JobID)
	if err != nil && (job.KindOf(err) != job.NotFound || r.Origin != report.External) {
		return rest.JobReport{}, jobProblem(err)
	}
	for _, e := range events {
		entry, err := entryOf(r.JobID, epochOf(events), e)
		if err != nil {
			return rest.JobReport{}, err
		}
		out.Events = append(out.Events, entry)
	}
	return out, nil
}

func pageOf(all rest.JobReport) ([]byte, error) {
	return render(jobReportPage, map[string]any{"R": all.Report, "Events": all.Events, "MadeAt": all.MadeAt})
}

// tableOf is a report as CSV: rows of one table, whose first column says what a row is about.
func tableOf(all rest.JobReport) ([]byte, error) {
	var out bytes.Buffer
	w, r := csv.NewWriter(&out), all.Report
	row := func(section, name string, round int, begin time.Time, end *time.Time, seconds *float64, status string,
		numbers [5]string, text string,
	) {
		cells := []string{section, name, "", stamp(&begin), stamp(end), "", status}
		if round > 0 {
			cells[2] = strconv.Itoa(round)
		}
		if seconds != nil {
			cells[5] = strconv.FormatFloat(*seconds, 'f', 3, 64)
		}
		cells = append(append(cells, numbers[:]...), text)
		for i := range cells {
			cells[i] = plainCell(cells[i])
		}
		_ = w.Write(cells) // Error has it
	}
	_ = w.Write([]string{
		"section", "name", "round", "started_at", "ended_at", "duration_seconds", "status", "bytes_capacity",
		"bytes_to_transfer", "bytes_transferred", "bytes_skipped", "bytes_resent", "text",
	})
	why := ""
	if r.Error != nil {
		why = r.Error.Message
	}
	row("job", string(r.JobID), r.Round, r.CreatedAt, r.EndedAt, nil, string(r.Status),
		[5]string{number(r.BytesCapacity)}, r.VM.Path)
	if why != "" {
		row("error", string(r.Error.Code), 0, r.Error.At, nil, nil, string(r.Error.Phase), [5]string{}, why)
	}
	n := func(v int64) string { return strconv.FormatInt(v, 10) }
	for _, o := range r.Rounds {
		row("round", string(o.Mode), o.Round, o.StartedAt, o.EndedAt, o.DurationSeconds, "", [5]string{
			"", n(o.BytesToTransfer), n(o.BytesTransferred), n(o.BytesSkipped), n(o.BytesResent),
		}, "")
	}
	for _, d := range r.Disks {
		row("disk", string(d.DiskID), r.Round, time.Time{}, nil, nil, string(d.Status), [5]string{
			n(d.BytesCapacity), number(d.BytesToTransfer), n(d.BytesTransferred), n(d.BytesSkipped), n(d.BytesResent),
		}, d.File+" -> "+d.Target)
	}
	for _, p := range r.Phases {
		row("phase", string(p.Name), p.Round, p.StartedAt, p.EndedAt, p.DurationSeconds, "", [5]string{},
			p.WaitedText())
	}
	for _, e := range all.Events {
		row("event", e.Type, 0, e.At, nil, nil, "", [5]string{}, e.Text)
	}
	w.Flush()
	return out.Bytes(), w.Error()
}

func number(n *int64) string {
	if n == nil {
		return ""
	}
	return strconv.FormatInt(*n, 10)
}

func stamp(t *time.Time) string {
	if t == nil || t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

// plainCell is a text of others as a cell that no spreadsheet takes for a formula: one that begins as a formula does
// gets an apostrophe in front. Some spreadsheets take the wide forms of these letters, too.
func plainCell(s string) string {
	s = report.OneLine(s)
	if first, _ := utf8.DecodeRuneInString(s); strings.ContainsRune("=+-@|%＝＋－＠", first) {
		return "'" + s
	}
	return s
}

// reportOperation describes the route.
func reportOperation(schemas huma.Registry, schema *huma.Schema) *huma.Operation {
	text := &huma.Schema{Type: huma.TypeString}
	o := op("getReport", http.MethodGet, "/api/v1/jobs/{id}/report", "The report of a job as a file",
		"The whole job on one page without scripts that asks for no other file, as a table whose cells are no "+
			"formulas, or as JSON.")
	o.Parameters = []*huma.Param{
		{Name: "id", In: "path", Required: true, Schema: text, Description: "Job id"},
		{
			Name: "format", In: "query", Description: "Of the file; html if left out",
			Schema: &huma.Schema{Type: huma.TypeString, Enum: []any{"html", "csv", "json"}},
		},
	}
	ok := answer("The report", "application/json", schema)
	ok.Content["text/html"], ok.Content["text/csv"] = &huma.MediaType{Schema: text}, &huma.MediaType{Schema: text}
	o.Responses = map[string]*huma.Response{"200": ok, "default": problemResponse(schemas)}
	return &o
}
