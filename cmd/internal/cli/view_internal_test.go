package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vmferry/vmferry/app"
	"github.com/vmferry/vmferry/http/rest"
	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
)

// reportOf is a job in the middle of its first round.
func reportOf(at time.Time, percent float64) report.Report {
	done := int64(percent / 100 * (1 << 30))
	return report.Report{
		JobID: "j", Epoch: 1, Seq: at.Unix(), ObservedAt: at, Status: job.Running, Phase: job.Transfer,
		Operation: "copies 1 disks, round 1 (full)", Round: 1,
		VM: report.VM{Name: "web"}, OverallPercent: percent / 2, BytesPerSecond: new(float64(100 << 20)),
		ETASeconds: new(int64(75)), StartedAt: new(at.Add(-90 * time.Second)),
		Health: []report.Health{}, Notes: []string{},
		Disks: []report.Disk{{
			DiskID: "disk-2000", Status: job.DiskRunning, Percent: &percent, BytesTransferred: done,
			BytesToTransfer: new(int64(1 << 30)),
			BytesPerSecond:  new(float64(100 << 20)), ETASeconds: new(int64(75)), Attempt: 1,
		}},
	}
}

//nolint:gosmopolitan // lines show local times
func noon() time.Time { return time.Date(2026, 1, 2, 12, 0, 0, 0, time.Local) }

// drawnAt is the picture of jobs at a width, without colours.
func drawnAt(columns int, jobs ...report.Report) []string {
	var out []string
	for _, l := range renderJobs(jobs, picture{columns: columns, now: noon()}) {
		out = append(out, l.text)
	}
	return out
}

func TestBarsUseTheWidthAndAreAligned(t *testing.T) {
	r := reportOf(noon(), 50)
	r.Disks[0].Label = "Hard disk 1"
	second := r.Disks[0]
	second.DiskID, second.Label, second.Status, second.Restarts = "disk-2001", "Hard disk 10", job.DiskBackoff, 2
	second.Percent, second.BytesTransferred, second.BytesToTransfer = new(5.0), 1<<20, new(int64(20<<20))
	second.LastCause = &report.Error{Message: "the server\nwent away without a word, again and again"}
	r.Disks = append(r.Disks, second)
	for columns := 10; columns < 240; columns++ {
		lines := drawnAt(columns, r)
		for i, line := range lines {
			if n := width(line); n > columns {
				t.Errorf("%d columns: %q has %d", columns, line, n)
			}
			if i > 0 && i < 3 && columns >= 40 && (!strings.Contains(line, "[") || !strings.Contains(line, "%")) {
				t.Errorf("%d columns: no bar or no percentage in %q", columns, line)
			}
		}
		place := func(line, mark string) int { // in columns
			before, _, _ := strings.Cut(line, mark)
			return width(before)
		}
		for _, mark := range []string{"[", "]", "%"} {
			if columns >= 40 && place(lines[1], mark) != place(lines[2], mark) {
				t.Errorf("%d columns: %s is not aligned:\n%s\n%s", columns, mark, lines[1], lines[2])
			}
		}
		if n := max(width(lines[1]), width(lines[2])); columns >= 40 && n != columns {
			t.Errorf("%d columns: %d are used:\n%s\n%s", columns, n, lines[1], lines[2])
		}
	}
	r.Disks[0].Percent, r.Disks[0].BytesToTransfer = nil, nil
	if got := drawnAt(90, r)[1]; !strings.Contains(got, " - ") {
		t.Errorf("an unknown percent shows as %q", got)
	}
}

func TestBarsRepaintInPlaceAndWordsScrollAbove(t *testing.T) {
	var b bytes.Buffer
	v := newBars(&b, 90, false)
	_ = v.Show(reportOf(noon(), 10))
	b.Reset()
	v.Say("words")
	got := b.String()
	if !strings.HasPrefix(got, "\x1b[2A\r\x1b[Jwords\n") || strings.Count(got, "disk-2000") != 1 {
		t.Errorf("got %q", got)
	}
	v.Close()
	b.Reset()
	v.Say("after")
	if got := b.String(); got != "after\n" {
		t.Errorf("after close: %q", got)
	}
}

func TestOldNumbersAreMarked(t *testing.T) {
	r := reportOf(noon(), 50)
	r.SampledAt = new(noon())
	if age := ageOf(r, noon().Add(12*time.Second)); age != 12*time.Second {
		t.Errorf("%v old", age)
	}
	for name, still := range map[string]func(*report.Report){
		"ended":                 func(r *report.Report) { r.Status = job.StatusFailed },
		"paused":                func(r *report.Report) { r.Status = job.Paused },
		"no attempt runs":       func(r *report.Report) { r.Disks[0].Status = job.DiskBackoff },
		"there were no numbers": func(r *report.Report) { r.SampledAt = nil },
	} {
		r := r
		r.Disks = append([]report.Disk{}, r.Disks...)
		still(&r)
		if age := ageOf(r, noon().Add(time.Hour)); age != 0 {
			t.Errorf("%s: %v old, and there are no newer ones", name, age)
		}
	}
	const words = "no news: these numbers are 12s old"
	for name, view := range map[string]func(b *bytes.Buffer) View{
		"lines": func(b *bytes.Buffer) View { return newLines(b, false) },
		"bars":  func(b *bytes.Buffer) View { return newBars(b, 90, false) },
	} {
		var b bytes.Buffer
		v := view(&b)
		_ = v.Show(r)
		v.Tick(noon().Add(2*time.Second), 2*time.Second)
		if strings.Contains(b.String(), "old") {
			t.Errorf("%s: %q after two seconds", name, b.String())
		}
		v.Tick(noon().Add(12*time.Second), 12*time.Second)
		if strings.Count(b.String(), words) != 1 {
			t.Errorf("%s: %q", name, b.String())
		}
		b.Reset()
		_ = v.Show(reportOf(noon().Add(13*time.Second), 51))
		if strings.Contains(b.String(), "old") {
			t.Errorf("%s: %q after new numbers", name, b.String())
		}
	}
}

func TestARoundIsNotARestart(t *testing.T) {
	var b bytes.Buffer
	v := newBars(&b, 120, false)
	show := func(round, attempt, restarts int, status job.DiskPhase) string {
		b.Reset()
		r := reportOf(noon(), 20)
		r.Round, r.Disks[0].Attempt, r.Disks[0].Restarts, r.Disks[0].Status = round, attempt, restarts, status
		_ = v.Show(r)
		return b.String()
	}
	show(1, 1, 0, job.DiskRunning)
	show(1, 1, 1, job.DiskBackoff)
	if got := show(1, 2, 1, job.DiskRunning); !strings.Contains(got, "goes on after restart 1, from 204.8 MiB") {
		t.Errorf("after a restart: %q", got)
	}
	show(2, 0, 1, job.DiskPending)
	if got := show(2, 1, 1, job.DiskRunning); strings.Contains(got, "goes on") {
		t.Errorf("the second round begins: %q", got)
	}
	show(2, 1, 1, job.DiskPaused)
	if got := show(2, 2, 1, job.DiskRunning); strings.Contains(got, "after restart") {
		t.Errorf("a pause is over: %q", got)
	}
}

func TestTheLastPictureSaysWhatWasMovedInAll(t *testing.T) {
	r := reportOf(noon(), 100)
	r.Status, r.Phase, r.Round, r.OverallPercent = job.StatusCompleted, job.Completed, 2, 100
	r.BytesPerSecond, r.ETASeconds = nil, nil
	r.Rounds = []report.Round{{BytesTransferred: 3 << 30}, {BytesTransferred: 1 << 30}}
	r.Disks[0].Status, r.Disks[0].BytesToTransfer, r.Disks[0].BytesTransferred = job.DiskDone, new(int64(0)), 0
	got := drawnAt(110, r)
	if !strings.HasPrefix(got[0], "web  completed  100.0%  round 2  4 GiB moved, in 2 rounds") ||
		strings.Contains(got[0], "healthy") || !strings.Contains(got[1], "nothing to move") {
		t.Errorf("got %q", got)
	}
}

func TestACancelInProgressIsTheStatus(t *testing.T) {
	r := reportOf(noon(), 20)
	r.Cancelling, r.Operation = true, "cancelling: ends what runs and records what is durable"
	var b bytes.Buffer
	_ = newLines(&b, false).Show(r)
	if got := drawnAt(110, r)[0]; !strings.Contains(got, "cancelling") ||
		!strings.Contains(b.String(), "cancelling 10.0%, round 1: cancelling: ends") {
		t.Errorf("got %q and %q", got, b.String())
	}
}

func TestPlainLinesAreFewAndTellEveryChange(t *testing.T) {
	var b bytes.Buffer
	v := newLines(&b, false)
	for i := range 400 { // 100 s of four reports a second: 0 to 20 %
		_ = v.Show(reportOf(noon().Add(time.Duration(i)*250*time.Millisecond), float64(i)/20))
	}
	lines := strings.Count(b.String(), "\n")
	if lines < 11 || lines > 13 {
		t.Errorf("%d lines in 100 s:\n%s", lines, b.String())
	}
	b.Reset()
	r := reportOf(noon().Add(101*time.Second), 20)
	r.Health = []report.Health{report.Retrying}
	r.Disks[0].Status, r.Disks[0].Restarts, r.Disks[0].LastCause = job.DiskBackoff, 1, &report.Error{Message: "gone"}
	_ = v.Show(r)
	want := "12:01:41  j  retrying\n12:01:41  j  disk-2000 backoff, 204.8 MiB of 1 GiB, restarts 1: gone\n"
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Error(diff)
	}
}

func TestALineWithoutACauseEndsWithoutAColon(t *testing.T) {
	r := reportOf(noon(), 20)
	for name, v := range map[string]func(*bytes.Buffer) View{
		"lines": func(b *bytes.Buffer) View { return newLines(b, false) },
		"bars":  func(b *bytes.Buffer) View { return newBars(b, 90, false) },
	} {
		t.Run(name, func(t *testing.T) {
			var b bytes.Buffer
			v := v(&b)
			_ = v.Show(r)
			b.Reset()
			failed := reportOf(noon().Add(time.Second), 20)
			failed.Disks[0].Status = job.DiskFailed
			_ = v.Show(failed)
			if got := b.String(); !strings.Contains(got, "disk-2000 failed") || strings.Contains(got, ": \n") {
				t.Errorf("got %q", got)
			}
		})
	}
}

// daemonWithJob is a daemon with the job of another tool, which needs no vCenter.
func daemonWithJob(t *testing.T) (url string, c *rest.Client) {
	t.Helper()
	cfg := app.DefaultConfig()
	cfg.Listen, cfg.StateDir, cfg.Targets.Roots = "127.0.0.1:0", t.TempDir(), []string{"/srv"}
	d, err := app.Start(t.Context(), cfg, slog.New(slog.DiscardHandler), "test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Stop(context.WithoutCancel(t.Context())) })
	if c, err = rest.NewClient(d.URL()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	post(t, c, "in_progress", 10)
	ctx, seen := context.WithCancel(t.Context())
	// the first report may come a moment later
	_ = c.Watch(ctx, "", func(report.Report) error { seen(); return nil }, "other")
	return d.URL(), c
}

func post(t *testing.T, c *rest.Client, status string, bytes int64) {
	t.Helper()
	u := rest.ProgressUpdate{
		Stage: "Transfer", Status: status, BytesTransferred: new(bytes),
		TotalBytes: new(int64(100)),
	}
	if err := c.Progress(t.Context(), "other", u); err != nil {
		t.Fatal(err)
	}
}

// onFirst calls f once, when something was written.
type onFirst struct {
	bytes.Buffer
	f func()
}

func (w *onFirst) Write(p []byte) (int, error) {
	n, err := w.Buffer.Write(p)
	if w.f != nil {
		w.f()
		w.f = nil
	}
	return n, err
}

func TestCtrlCOnWatchDetachesAndTheJobGoesOn(t *testing.T) {
	url, c := daemonWithJob(t)
	ctx, interrupt := context.WithCancel(t.Context())
	var out bytes.Buffer
	words := &onFirst{f: interrupt}
	code := Execute(ctx, Streams{In: strings.NewReader(""), Out: &out, Err: words, Getenv: func(string) string {
		return ""
	}},
		[]string{"watch", "other", "--server", url, "--progress", "plain"})
	if code != ExitInterrupted || !strings.Contains(words.String(), "detached; job other goes on") || out.Len() > 0 {
		t.Errorf("exit code %d, words %q, data %q", code, words.String(), out.String())
	}
	if r, err := c.Job(t.Context(), "other"); err != nil || r.Status != job.Running {
		t.Errorf("the job is %s, %v", r.Status, err)
	}
}

func TestWatchAsJSONIsOneReportALineUntilTheEnd(t *testing.T) {
	url, c := daemonWithJob(t)
	var out bytes.Buffer
	words := &onFirst{f: func() { post(t, c, "completed", 100) }}
	code := Execute(t.Context(), Streams{In: strings.NewReader(""), Out: &out, Err: words, Getenv: func(string) string {
		return ""
	}},
		[]string{"watch", "other", "--server", url, "--progress", "json"})
	if code != ExitOK {
		t.Errorf("exit code %d: %s", code, words.String())
	}
	var last report.Report
	for line := range strings.Lines(words.String()) {
		var r report.Report
		if err := json.Unmarshal([]byte(line), &r); err != nil || !last.Version().Less(r.Version()) {
			t.Errorf("%v in %q", err, line)
		}
		last = r
	}
	if last.Status != job.StatusCompleted || last.OverallPercent != 100 {
		t.Errorf("the last line says %s, %.2f%%", last.Status, last.OverallPercent)
	}
}

func TestExitCodesFollowTheOutcome(t *testing.T) {
	for status, want := range map[job.Status]int{
		job.StatusCompleted: 0, job.WaitingCutover: 0, job.StatusFailed: 3, job.Lost: 3, job.StatusCancelled: 5,
		job.Running: 6, job.Unreachable: 6,
	} {
		if got := exitCode(Outcome(report.Report{Status: status})); got != want {
			t.Errorf("%s: exit code %d, want %d", status, got, want)
		}
	}
	for kind, want := range map[job.Kind]int{
		job.Invalid: 2, job.NotFound: 10, job.Conflict: 7, job.Auth: 4, job.Cancelled: 5, job.Unavailable: 1,
		job.Missing: 1, job.Internal: 1,
	} {
		if got := exitCode(ran{job.Errorf("x", kind, "", "y")}); got != want {
			t.Errorf("%s: exit code %d, want %d", kind, got, want)
		}
	}
}

func TestDurationsAndPercentsAreNeverTooGood(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", 59 * time.Second: "59s", 187 * time.Second: "3m07s",
		2*time.Hour + 5*time.Minute: "2h05m", 76 * time.Hour: "3d04h", -time.Second: "0s",
	} {
		if got := durationText(d); got != want {
			t.Errorf("%v: %q, want %q", d, got, want)
		}
	}
	if got := PercentText(new(99.99)); got != "99.9%" {
		t.Errorf("99.99 shows as %s", got)
	}
}

func TestTheVMThatIsMovedIsNamedOnceWhenItIsKnown(t *testing.T) {
	for name, view := range map[string]func(b *bytes.Buffer) View{
		"lines": func(b *bytes.Buffer) View { return newLines(b, false) },
		"bars":  func(b *bytes.Buffer) View { return newBars(b, 90, false) },
	} {
		var b bytes.Buffer
		v := &naming{View: view(&b)}
		r := reportOf(noon(), 0)
		_ = v.Show(r)
		if strings.Contains(b.String(), "moves") {
			t.Errorf("%s: named before it is known: %q", name, b.String())
		}
		r.VM.Path, r.VM.Ref = "/DC0/vm/web", "vm-29"
		for range 2 {
			_ = v.Show(r)
		}
		if n := strings.Count(b.String(), "moves /DC0/vm/web (vm-29)\n"); n != 1 {
			t.Errorf("%s: named %d times: %q", name, n, b.String())
		}
	}
}

func TestAPictureOnATerminalThatBecameNarrowIsRemovedAsAWhole(t *testing.T) {
	var b bytes.Buffer
	v, columns := newBars(&b, 0, false), 100
	v.size = func() (int, int) { return columns, 0 }
	_ = v.Show(reportOf(noon(), 10)) // two lines: 62 and 100 columns
	b.Reset()
	columns = 40
	v.Tick(noon(), 0)
	if got := b.String(); !strings.HasPrefix(got, "\x1b[5A\r\x1b[J") { // 2 and 3 rows
		t.Errorf("got %q", got)
	}
}

func TestOfManyJobsThoseThatGoOnAreShown(t *testing.T) {
	var jobs []report.Report
	for i := range 9 {
		r := reportOf(noon(), 50)
		r.JobID, r.VM.Name = job.ID(fmt.Sprint("j", i)), fmt.Sprint("vm", i)
		if i < 6 {
			r.Status, r.Phase = job.StatusCompleted, job.Completed
		}
		jobs = append(jobs, r)
	}
	text := func(rows int) (out []string) {
		for _, l := range renderJobs(jobs, picture{columns: 80, rows: rows, now: noon()}) {
			out = append(out, strings.Fields(l.text)[0])
		}
		return out
	}
	if got := text(0); len(got) != 18 {
		t.Errorf("without a bound: %q", got)
	}
	if got := text(12); len(got) != 9 || got[0] != "vm0" {
		t.Errorf("12 rows: %q", got)
	}
	if diff := cmp.Diff([]string{"vm6", "vm7", "vm8", "vm0"}, text(5)); diff != "" {
		t.Error(diff)
	}
}

func TestAJobThatHasEndedSaysWhatItMovedInAllRounds(t *testing.T) {
	r := reportOf(noon(), 100)
	r.Status, r.Phase, r.OverallPercent, r.BytesTransferred = job.StatusCompleted, job.Completed, 100, 0
	r.EndedAt = new(noon())
	r.Rounds = []report.Round{{BytesTransferred: 3 << 30, BytesSkipped: 1 << 30}, {BytesTransferred: 1 << 30}}
	want := "web  completed  100.0%  4 GiB moved, 1 GiB skipped, in 2 rounds  for 1m30s"
	if got := drawnAt(100, r)[0]; got != want {
		t.Errorf("%q", got)
	}
}

func TestADiskOfASecondRoundDoesNotGoOnAfterARestart(t *testing.T) {
	var b bytes.Buffer
	v := newBars(&b, 90, false)
	r := reportOf(noon(), 10)
	r.Disks[0].Restarts, r.Disks[0].Attempt = 1, 2
	_ = v.Show(r)
	b.Reset()
	next := reportOf(noon().Add(time.Second), 0)
	next.Round, next.Disks[0].Restarts, next.Disks[0].Attempt = 2, 1, 1
	_ = v.Show(next)
	again := next
	again.Seq++
	again.Disks = slices.Clone(next.Disks)
	again.Disks[0].Attempt, again.Disks[0].Restarts = 2, 2
	if strings.Contains(b.String(), "goes on") {
		t.Errorf("got %q", b.String())
	}
	_ = v.Show(again)
	if !strings.Contains(b.String(), "goes on after restart 2") {
		t.Errorf("got %q", b.String())
	}
}

func TestWithoutTheDaemonNothingLooksAsIfItMoved(t *testing.T) {
	for name, view := range map[string]func(b *bytes.Buffer) View{
		"lines": func(b *bytes.Buffer) View { return newLines(b, false) },
		"bars":  func(b *bytes.Buffer) View { return newBars(b, 90, false) },
	} {
		var b bytes.Buffer
		v := view(&b)
		_ = v.Show(reportOf(noon(), 10))
		b.Reset()
		v.Lost(noon(), errors.New("connection refused"))
		v.Tick(noon().Add(10*time.Second), 0)
		got := b.String()
		if !strings.Contains(got, "the daemon does not answer (connection refused)") {
			t.Errorf("%s: %q", name, got)
		}
		if name == "bars" {
			frame := got[strings.LastIndex(got, "\x1b[J")+1:]
			if strings.Contains(frame, "eta") || strings.Contains(frame, "MiB/s") ||
				!strings.Contains(frame, "no answer from the daemon for 10s") {
				t.Errorf("%q", frame)
			}
		}
		b.Reset()
		v.Back(noon().Add(12 * time.Second))
		if got := b.String(); !strings.Contains(got, "the daemon is back after 12s") {
			t.Errorf("%s: %q", name, got)
		}
	}
}

func TestWatchSaysThatTheDaemonIsLostAndBack(t *testing.T) {
	cfg := app.DefaultConfig()
	dir := t.TempDir()
	cfg.Listen, cfg.StateDir, cfg.Targets.Roots = "unix:"+filepath.Join(dir, "d"), dir, []string{"/srv"}
	start := func() *app.Daemon {
		d, err := app.Start(t.Context(), cfg, slog.New(slog.DiscardHandler), "test")
		if err != nil {
			t.Error(err)
		}
		return d
	}
	d := start()
	c, err := rest.NewClient(cfg.Listen)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	post(t, c, "in_progress", 10)
	var out bytes.Buffer
	var words onText
	words.on("transfer", func() { _ = d.Stop(context.WithoutCancel(t.Context())) })
	words.on("the daemon does not answer", func() { d = start() })
	words.on("the daemon is back after", func() { post(t, c, "completed", 100) })
	none := func(string) string { return "" }
	code := Execute(t.Context(), Streams{In: strings.NewReader(""), Out: &out, Err: &words, Getenv: none},
		[]string{"watch", "other", "--server", cfg.Listen, "--progress", "plain"})
	if code != ExitOK || len(words.then) > 0 {
		t.Errorf("exit code %d, still to come %d: %s", code, len(words.then), words.String())
	}
	_ = d.Stop(context.WithoutCancel(t.Context()))
}

// onText calls each function once, in order, when its text was written.
type onText struct {
	bytes.Buffer
	texts []string
	then  []func()
}

func (w *onText) on(text string, f func()) {
	w.texts, w.then = append(w.texts, text), append(w.then, f)
}

func (w *onText) Write(p []byte) (int, error) {
	n, err := w.Buffer.Write(p)
	for len(w.then) > 0 && bytes.Contains(w.Bytes(), []byte(w.texts[0])) {
		f := w.then[0]
		w.texts, w.then = w.texts[1:], w.then[1:]
		f()
	}
	return n, err
}

func TestAWatchEndsWhenItsJobIsDeleted(t *testing.T) {
	url, c := daemonWithJob(t)
	var out bytes.Buffer
	words := &onFirst{f: func() {
		if err := c.Command(t.Context(), "other", job.Delete); err != nil {
			t.Error(err)
		}
	}}
	none := func(string) string { return "" }
	code := Execute(t.Context(), Streams{In: strings.NewReader(""), Out: &out, Err: words, Getenv: none},
		[]string{"watch", "other", "--server", url, "--progress", "plain", "--timeout", "1m"})
	if code != ExitNotFound || !strings.Contains(words.String(), "other") {
		t.Errorf("exit code %d: %s", code, words.String())
	}
}

func TestOfSeveralJobsEachIsWatchedUntilItHasBeenThereOnce(t *testing.T) {
	w := &wait{until: string(job.WaitingCutover)}
	there := report.Report{JobID: "a", Status: job.WaitingCutover}
	on, other := there, report.Report{JobID: "b", Status: job.Running}
	on.Status = job.Running
	if !w.done(there) || !w.done(on) || w.done(other) {
		t.Error("a job that was there and goes on is waited for again, or another one is not")
	}
	s := Streams{Out: &bytes.Buffer{}, Err: &bytes.Buffer{}}
	if err := w.finish(s, &Output{}, []report.Report{on, there}); err != nil {
		t.Errorf("a job that was there is a failure: %v", err)
	}
	failed := on
	failed.Status = job.StatusFailed
	if err := w.finish(s, &Output{}, []report.Report{failed}); exitCode(ran{err}) != ExitJobFailed {
		t.Errorf("a job that was there and failed since: %v", err)
	}
}

func TestAnInterruptAfterARefusalSaysNoMoreThanTheRefusal(t *testing.T) {
	refusal := job.Errorf("", job.NotFound, "Look", "no VM")
	for _, err := range []error{
		worst(refusal, &exitError{code: ExitInterrupted}), worst(&exitError{code: ExitInterrupted}, refusal),
	} {
		if err.Error() != refusal.Error() {
			t.Errorf("it says %q", err)
		}
	}
	if got := exitCode(ran{worst(&exitError{code: ExitInterrupted}, refusal)}); got != ExitInterrupted {
		t.Errorf("exit code %d", got)
	}
}

func TestWhatOtherToolsPostCommandsNoTerminal(t *testing.T) {
	const evil = "\x1b]0;x\x07 \u202e\x1b[2J\u009b"
	r := reportOf(noon(), 10)
	r.Operation, r.VM.Name, r.VM.Path, r.Notes = evil, evil, evil, []string{evil}
	r.Error = &report.Error{Message: evil, Next: evil}
	for i := range r.Disks {
		d := &r.Disks[i]
		d.DiskID, d.Label, d.Target, d.File, d.LastCause = evil, "", evil, evil, r.Error
		d.Status = job.DiskBackoff
	}
	var out bytes.Buffer
	if err := describe(&out, r); err != nil {
		t.Fatal(err)
	}
	l := newLines(&out, false)
	first := r
	first.Notes, first.Error = nil, nil
	first.Seq--
	for _, x := range []report.Report{first, r} {
		if err := l.Show(x); err != nil {
			t.Fatal(err)
		}
	}
	for _, line := range drawnAt(120, r) {
		fmt.Fprintln(&out, line)
	}
	if err := Table(&out, []string{"VM"}, [][]string{{evil}}); err != nil {
		t.Fatal(err)
	}
	if at := strings.IndexFunc(out.String(), func(r rune) bool { return r != '\n' && report.Shown(r) != r }); at >= 0 {
		t.Errorf("%q", out.String()[max(0, at-60):min(out.Len(), at+20)])
	}
}

func TestAnErrorCommandsNoTerminal(t *testing.T) {
	url, c := daemonWithJob(t)
	u := rest.ProgressUpdate{Status: "failed", ErrorMessage: "a\x1b[2Jb\nc"}
	if err := c.Progress(t.Context(), "other", u); err != nil {
		t.Fatal(err)
	}
	var words bytes.Buffer
	none := func(string) string { return "" }
	code := Execute(t.Context(), Streams{In: strings.NewReader(""), Out: &bytes.Buffer{}, Err: &words, Getenv: none},
		[]string{"watch", "other", "--server", url, "--progress", "quiet"})
	if code != ExitJobFailed || strings.Contains(words.String(), "\x1b") || !strings.Contains(words.String(), "[2Jb") {
		t.Errorf("exit code %d, %q", code, words.String())
	}
}

func TestAJobOfAnotherToolHidesNoVM(t *testing.T) {
	own := report.Report{JobID: "own", VM: report.VM{Name: "web", UUID: "4210ab"}, Status: job.Running}
	posted := map[string]report.Report{
		"/api/v1/jobs/web":   {JobID: "web", Origin: report.External},
		"/api/v1/jobs/other": {JobID: "other", Origin: report.External},
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var answer any = []report.Report{own}
		if r.URL.Path != "/api/v1/jobs" {
			one, ok := posted[r.URL.Path]
			if answer = one; !ok {
				w.WriteHeader(http.StatusNotFound)
				answer = rest.NewProblem(rest.CodeJobNotFound, "there is no such job", "")
			}
		}
		if err := json.NewEncoder(w).Encode(answer); err != nil {
			t.Error(err)
		}
	}))
	t.Cleanup(s.Close)
	c, err := rest.NewClient(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	for text, want := range map[string]job.ID{"web": "own", "other": "other", "4210AB": "own"} {
		if r, err := find(t.Context(), c, text, unfinished); err != nil || r.JobID != want {
			t.Errorf("%s is %s, %v", text, r.JobID, err)
		}
	}
}

func TestRatesThatMakeNoSenseAreRefused(t *testing.T) {
	for _, args := range [][]string{
		{"run", "web", "--bandwidth", "20"},
		{"limit", "j", "--bandwidth", "20"},
		{"limit", "--bandwidth-total", "20"},
		{"copy", "a", "b", "--bandwidth", "20"},
	} {
		var words bytes.Buffer
		code := Execute(t.Context(), Streams{
			In: strings.NewReader(""), Out: &words, Err: &words,
			Getenv: func(string) string { return "" },
		}, args)
		if code != ExitUsage || !strings.Contains(words.String(), "20MiB") {
			t.Errorf("%q: exit code %d: %s", args, code, words.String())
		}
	}
}

func TestNamesOfDisksKeepTheirEnd(t *testing.T) {
	for _, c := range []struct {
		text, want string
		columns    int
	}{
		{"Hard disk 1", "Hard disk 1", 11},
		{"Hard disk 12", "Hard…k 12", 9},
		{"仮想ディスク 3", "仮想…ク 3", 9},
		{"Hard disk 12", "Har…12", 5},
	} {
		got := clipMiddle(c.text, c.columns)
		if width(got) > c.columns || !strings.HasSuffix(got, c.text[len(c.text)-1:]) {
			t.Errorf("%q in %d columns: %q", c.text, c.columns, got)
		}
	}
}
