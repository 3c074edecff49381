package main

import (
	"encoding/csv"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"unicode"

	"github.com/vmferry/vmferry/child"
	"github.com/vmferry/vmferry/http/rest"
	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
)

// Names and messages come from others. This one is a formula, a page, commands of a terminal and text from right to
// left, and is as long as the name of a folder may be. XML carries all of it.
var nasty = "=cmd|' C calc'!A0<script>alert(1)<\u202e\u2066\u200f\u009b2J\u009d0;title\u009c\"'&\n\t@x" +
	strings.Repeat("n", 150)

// TestNothingInANameReachesATerminalAPageOrASpreadsheet gives a VM, and the error of another tool, such a name, and
// reads all that is written of them.
func TestNothingInANameReachesATerminalAPageOrASpreadsheet(t *testing.T) {
	needs(t, "nbdkit", "redis-server")
	var bodies sync.Map
	receiver := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		bodies.Store(r.Header.Get("Vmferry-Event"), string(body))
	}))
	t.Cleanup(receiver.Close)
	s := newPlace(t)
	secret := filepath.Join(s.dir, "secret")
	fatal(t, os.WriteFile(secret, []byte(strings.Repeat("s", 40)), 0o600))
	s.more = "webhooks: [{url: " + receiver.URL + ", secret_file: " + secret + "}]\n"
	s.start(map[string]int64{nasty: 1 << 20})
	list, err := s.api.VMs(s.ctx, "")
	fatal(t, err)
	if len(list.VMs) != 1 {
		t.Fatalf("the vCenter has %+v", list)
	}
	spec := job.Spec{VM: list.VMs[0].Ref}
	r, _, err := s.api.Submit(s.ctx, spec, rest.SubmitOptions{})
	fatal(t, err)
	s.ids["it"] = r.JobID
	s.until("it", "completed", func(r report.Report) bool { return r.Status == job.StatusCompleted })
	for _, disk := range []string{"disk-1", ""} { // the disk, then the whole job
		fatal(t, s.api.Progress(s.ctx, "other-tool", rest.ProgressUpdate{
			Stage: "Transfer", Status: "failed", DiskID: disk,
			ErrorMessage: "\x1b]0;title\x07\x1b[2J" + strings.Repeat(nasty, 4),
		}))
	}

	id := string(r.JobID)
	for _, command := range [][]string{
		{"get", "jobs"},
		{"get", "jobs", "-o", "wide"},
		{"get", "jobs", "-o", "json"},
		{"get", "jobs", "-o", "yaml"},
		{"get", "vms"},
		{"get", "vms", "-o", "json"},
		{"get", "disks", id},
		{"get", "disks", "other-tool"},
		{"describe", id},
		{"describe", "other-tool"},
		{"watch", id},
		{"watch", id, "other-tool"},
		{"watch", id, "--progress", "json"},
		{"events", id},
		{"events", id, "-o", "json"},
		{"volumes"},
		{"volumes", "-o", "wide"},
		{"volumes", "-o", "json"},
		{"preflight", spec.VM},
		{"run", nasty + "?", "--no-wait"},
		{"cancel", id},
		{"delete", "other-tool?" + nasty},
	} {
		c := exec.CommandContext(s.ctx, s.self, command...)
		c.Env = append(child.Environment(), "VMFERRY_SERVER="+s.url)
		out, _ := c.CombinedOutput() // some fail: what they say is looked at
		if len(out) == 0 {
			t.Errorf("%.60q says nothing", command)
		}
		harmless(t, strings.Join(command, " "), string(out))
	}
	for _, form := range []rest.ReportForm{rest.ReportHTML, rest.ReportCSV, rest.ReportJSON} {
		for _, of := range []job.ID{r.JobID, "other-tool"} {
			text, err := s.api.Report(s.ctx, of, form)
			fatal(t, err)
			file(t, form, string(text))
		}
	}
	log, err := os.ReadFile(filepath.Join(s.dir, "daemon.log"))
	fatal(t, err)
	harmless(t, "the log", string(log))

	fatal(t, s.daemon.End(15)) // what it still had to send is sent
	if _, told := bodies.Load("completed"); !told {
		t.Error("the receiver of webhooks was not told")
	}
	bodies.Range(func(event, body any) bool {
		if strings.Contains(body.(string), "\n") || !json.Valid([]byte(body.(string))) {
			t.Errorf("the webhook of %s is %q", event, body)
		}
		return true
	})
	snap, err := s.store.HGetAll(s.ctx, "vmferry:v1:{"+id+"}:snap").Result()
	fatal(t, err)
	if snap["vm_name"] != list.VMs[0].Name {
		t.Errorf("Redis has the name %q, want %q", snap["vm_name"], list.VMs[0].Name)
	}
	var stored report.Report
	fatal(t, json.Unmarshal([]byte(snap["json"]), &stored))
	if strings.Contains(snap["json"], "\n") || stored.VM.Name != list.VMs[0].Name {
		t.Errorf("the JSON in Redis is %s", snap["json"])
	}
}

// harmless checks that a text does not command the terminal that shows it, and does not turn its direction.
func harmless(t *testing.T, what, text string) {
	t.Helper()
	for _, r := range text {
		if r != '\n' && r != '\r' && (unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r)) {
			t.Errorf("%.60s has %U:\n%.300q", what, r, text[max(0, strings.IndexRune(text, r)-100):])
			return
		}
	}
}

// file checks the file of a report.
func file(t *testing.T, form rest.ReportForm, text string) {
	t.Helper()
	switch form {
	case rest.ReportHTML:
		harmless(t, "the page", text)
		if strings.Contains(text, "<script") {
			t.Error("the page has a script")
		}
	case rest.ReportCSV:
		harmless(t, "the table", text)
		rows, err := csv.NewReader(strings.NewReader(text)).ReadAll()
		fatal(t, err)
		for _, row := range rows {
			for _, cell := range row {
				if cell != "" && strings.ContainsAny(strings.TrimSpace(cell)[:1], "=+-@|%\uff1d") {
					t.Errorf("a cell is %q", cell)
				}
			}
		}
	case rest.ReportJSON:
		if !json.Valid([]byte(text)) {
			t.Errorf("the report is %s", text)
		}
	}
}
