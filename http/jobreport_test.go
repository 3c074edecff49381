package http_test

import (
	"encoding/csv"
	"regexp"
	"strings"
	"testing"

	apihttp "github.com/vmferry/vmferry/http"
	"github.com/vmferry/vmferry/http/rest"
	"github.com/vmferry/vmferry/job"
)

// Names of VMs and disks come from others.
const nastyName = "=cmd|' /C calc'!A0<script>alert(1)</script>\u202e\x1b[2J\"'&\n@x"

func nastyWorld(t *testing.T) *rest.Client {
	t.Helper()
	w := newWorld()
	vm := webVM()
	vm.Name, vm.Path = nastyName, "/DC0/vm/"+nastyName
	for i := range vm.Disks {
		vm.Disks[i].Label, vm.Disks[i].File = nastyName, nastyName
	}
	spec := webSpec()
	spec.VM = nastyName
	for _, ev := range []job.Event{
		job.Submitted{ID: "job-x", Spec: spec},
		job.Admitted{},
		job.Inspected{VM: vm, Targets: []job.Target{
			{Disk: "disk-2000", URI: "/t/0"}, {Disk: "disk-2001", URI: "/t/1"},
		}},
		job.StepFailed{Phase: job.EnablingCBT, Kind: job.Permission, Message: "-1+1" + nastyName, Next: nastyName},
	} {
		if err := w.apply(t.Context(), "job-x", ev); err != nil {
			t.Fatal(err)
		}
	}
	_, s := w.server(t)
	return client(t, s.URL)
}

func TestTheReportOfAJobIsOnePageThatNothingInANameCanChange(t *testing.T) {
	c := nastyWorld(t)
	b, err := c.Report(t.Context(), "job-x", rest.ReportHTML)
	if err != nil {
		t.Fatal(err)
	}
	page := string(b)
	if !strings.Contains(page, "&lt;script&gt;alert(1)&lt;/script&gt;") {
		t.Error("the name is not in the page")
	}
	for _, bad := range []string{"<script", "\u202e", "\x1b", "<link", "<img", "<iframe", "@import", "url("} {
		if strings.Contains(page, bad) {
			t.Errorf("the page has %q", bad)
		}
	}
	if m := regexp.MustCompile(`(?i)\s(src|href|action|on[a-z]+)\s*=`).FindString(page); m != "" {
		t.Errorf("the page has %q", m)
	}
	if _, err := c.Report(t.Context(), "job-none", rest.ReportHTML); job.KindOf(err) != job.NotFound {
		t.Errorf("no such job: %v", err)
	}
}

func TestNoCellOfATableIsAFormula(t *testing.T) {
	for _, first := range []string{
		"=", "+", "-", "@", "|", "%", "\t=", "\r=", "\n@", " =", "＝", "＋", "－", "＠",
	} {
		cell := apihttp.PlainCell(first + "1+1")
		if !strings.HasPrefix(cell, "'") {
			t.Errorf("the cell of %q is %q", first+"1+1", cell)
		}
	}
	for _, text := range []string{"", "web", "'=1", "5", "\ufffd", "a=b"} {
		if cell := apihttp.PlainCell(text); cell != text {
			t.Errorf("the cell of %q is %q", text, cell)
		}
	}
	c := nastyWorld(t)
	b, err := c.Report(t.Context(), "job-x", rest.ReportCSV)
	if err != nil {
		t.Fatal(err)
	}
	rows, err := csv.NewReader(strings.NewReader(string(b))).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	sections := map[string]int{}
	for _, row := range rows {
		sections[row[0]]++
		for _, cell := range row {
			if cell != "" && strings.ContainsAny(cell[:1], "=+-@|%\t\r") || strings.ContainsAny(cell, "\n\x1b\u202e") {
				t.Errorf("a cell is %q", cell)
			}
		}
	}
	for _, s := range []string{"job", "error", "disk", "phase", "event"} {
		if sections[s] == 0 {
			t.Errorf("no row of %s in %v", s, sections)
		}
	}
}
