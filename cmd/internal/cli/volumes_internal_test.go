package cli

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vmferry/vmferry/http/rest"
	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
)

func TestDescribeSaysOfAnExportThatNothingCanTellWhoWroteToIt(t *testing.T) {
	never := "nothing can tell afterwards whether others wrote to it"
	at := noon()
	for want, d := range map[string]report.Disk{
		"not yet": {Target: "/t/a"},
		"not yet; an export can't be stamped: " + never: {Target: "nbd://host/a", Stamped: new(false)},
		"by the round that was committed at " + timeText(&at) + "; it can't be stamped: " + never: {
			Target: "/dev/vg/a", Stamped: new(false), ProvedAt: &at,
		},
		"by the round that was committed at " + timeText(&at) + "; stamped: a later write of others shows": {
			Target: "/t/a", Stamped: new(true), ProvedAt: &at,
		},
	} {
		var b strings.Builder
		if err := describe(&b, report.Report{Disks: []report.Disk{d}}); err != nil {
			t.Fatal(err)
		}
		if line := "  Proved:      " + want + "\n"; !strings.Contains(b.String(), line) {
			t.Errorf("%q is not in:\n%s", line, b.String())
		}
	}
}

func TestANoteIsShownOnceWhereverItStands(t *testing.T) {
	var out bytes.Buffer
	v := newLines(&out, Paint(false))
	r := reportOf(noon(), 1)
	for i, notes := range [][]string{{"first"}, {"first", "last"}, {"first", "second", "last"}} {
		r.Notes, r.ObservedAt = notes, noon().Add(time.Duration(i)*time.Second)
		if err := v.Show(r); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range []string{"first", "second", "last"} {
		if got := strings.Count(out.String(), "j  "+n+"\n"); got != 1 {
			t.Errorf("%q was shown %d times:\n%s", n, got, out.String())
		}
	}
}

func TestTheTableOfVolumesSaysInWhichStateEachIs(t *testing.T) {
	var out bytes.Buffer
	s := Streams{Out: &out, Getenv: func(string) string { return "" }}
	at := noon()
	err := volumeTable(s, &Output{form: AsTable}, []rest.Volume{
		{ID: "A", Target: "/t/a", VMName: "web\nserver", Disk: "disk-2000", Job: "one", InUse: true, ReleasedAt: &at},
		{ID: "B", Target: "/t/b", VMName: "db", Disk: "disk-2000", Job: job.ID("two")},
		{ID: "C", Target: "/t/c", ReleasedAt: &at},
	})
	if err != nil {
		t.Fatal(err)
	}
	rows := strings.Split(strings.TrimSpace(out.String()), "\n")
	var got [][]string
	for _, row := range rows {
		got = append(got, strings.Fields(row))
	}
	want := [][]string{
		{"ID", "VM", "DISK", "STATE", "JOB", "TARGET"},
		{"A", "web", "server", "disk-2000", "in", "use", "one", "/t/a"},
		{"B", "db", "disk-2000", "kept", "two", "/t/b"},
		{"C", "-", "-", "released", "-", "/t/c"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
