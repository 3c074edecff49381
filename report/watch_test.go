package report_test

import (
	"bufio"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
)

var update = flag.Bool("update", false, "rewrite the answers in testdata with those of now")

// TestConversationsWithAWatchedNode plays each file of testdata. A conversation is a list of commands; each is followed
// by four dashes, the answer of the state machine, and an empty line. In polls a job of an older VMA is asked for:
//
//	begin | wait 5s | failed REASON | unknown | reachable
//	answer STATUS [done=N] [total=N] [skipped=N] [phase=P] [operation=TEXT_WITH_LOW_LINES] [DISK=N/N]
//
// In links the stream of one of our nodes is followed: begin | wait 5s | heard | lost REASON | quiet.
func TestConversationsWithAWatchedNode(t *testing.T) {
	for _, kind := range []string{"polls", "links"} {
		files, err := filepath.Glob("testdata/" + kind + "/*.txt")
		if err != nil || len(files) == 0 {
			t.Fatalf("no conversations: %v", err)
		}
		for _, f := range files {
			t.Run(kind+"/"+strings.TrimSuffix(filepath.Base(f), ".txt"), func(t *testing.T) {
				want, err := os.ReadFile(f)
				if err != nil {
					t.Fatal(err)
				}
				got := play(t, kind, string(want))
				if *update {
					if err := os.WriteFile(f, []byte(got), 0o600); err != nil {
						t.Fatal(err)
					}
					return
				}
				if d := cmp.Diff(string(want), got); d != "" {
					t.Errorf("conversation differs (-want +got):\n%s", d)
				}
			})
		}
	}
}

func play(t *testing.T, kind, text string) string {
	t.Helper()
	c := &watching{t: t, now: time.Date(2025, 9, 25, 13, 42, 30, 0, time.UTC)}
	c.builder = report.NewPolledBuilder("job-1", nil, c.now)
	var out strings.Builder
	lines := bufio.NewScanner(strings.NewReader(text))
	skipping := false
	for lines.Scan() {
		line := lines.Text()
		switch {
		case skipping && line != "":
			continue // the recorded answer
		case skipping:
			skipping = false
		case line == "----":
			skipping = true
			continue
		}
		out.WriteString(line + "\n")
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		out.WriteString("----\n")
		word, rest, _ := strings.Cut(line, " ")
		switch {
		case word == "wait":
			d, err := time.ParseDuration(rest)
			if err != nil {
				t.Fatal(err)
			}
			c.now = c.now.Add(d)
			out.WriteString("it is " + c.now.Format(time.TimeOnly) + "\n")
		case kind == "polls":
			out.WriteString(c.poll(word, rest))
		default:
			out.WriteString(c.follow(word, rest))
		}
	}
	return out.String()
}

// watching is one job or node that is watched, and the time.
type watching struct {
	t       *testing.T
	now     time.Time
	job     report.Poll
	builder *report.PolledBuilder
	link    report.Link
}

func (c *watching) poll(word, rest string) string {
	c.t.Helper()
	var ev report.PollEvent
	switch word {
	case "begin":
		ev = report.PollBegun{}
	case "failed":
		ev = report.PollFailed{Reason: rest}
	case "unknown":
		ev = report.PollUnknown{}
	case "reachable":
		ev = report.PollReachable{}
	case "answer":
		ev = report.PollAnswered{Answer: c.answer(strings.Fields(rest))}
	default:
		c.t.Fatalf("no command %q", word)
	}
	var actions []report.PollAction
	c.job, actions = c.job.Apply(ev, c.now)
	var out strings.Builder
	for _, a := range actions {
		switch a := a.(type) {
		case report.PollAt:
			fmt.Fprintf(&out, "poll at %s\n", a.At.Format(time.TimeOnly))
		case report.TakeNumbers:
			if err := c.builder.Take(a, c.now); err != nil {
				c.t.Fatal(err)
			}
			if a.Again {
				out.WriteString("a new attempt begins\n")
			}
		case report.ShowPoll:
			out.WriteString(show(c.builder.Report(c.now).At("vma-1", report.LegacyNode, "", c.job.Sight(), c.now)))
		}
	}
	if c.job.Ended {
		out.WriteString("polls have ended\n")
	}
	if out.Len() == 0 {
		return "nothing\n"
	}
	return out.String()
}

func show(r report.Report) string {
	out := fmt.Sprintf("row: %s %.2f%%, %d bytes, %q", r.Status, r.OverallPercent, r.BytesTransferred, r.Operation)
	if r.Watched.Since != nil {
		out += ", since " + r.Watched.Since.Format(time.TimeOnly)
	}
	for _, h := range r.Health {
		out += ", " + string(h)
	}
	for _, d := range r.Disks {
		if d.Attempt > 1 {
			out += fmt.Sprintf(", %s attempt %d", d.DiskID, d.Attempt)
		}
	}
	return out + "\n"
}

func (c *watching) answer(words []string) report.Polled {
	c.t.Helper()
	number := func(s string) *int64 {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			c.t.Fatal(err)
		}
		return &n
	}
	a := report.Polled{Status: report.StatusOf(words[0]), Phase: "Transfer", UpdatedAt: c.now}
	for _, w := range words[1:] {
		key, value, _ := strings.Cut(w, "=")
		switch key {
		case "done":
			a.BytesTransferred = number(value)
		case "total":
			a.TotalBytes = number(value)
		case "skipped":
			a.BytesSkipped = *number(value)
		case "phase":
			a.Phase = value
		case "operation":
			a.Operation = strings.ReplaceAll(value, "_", " ")
		case "error":
			a.Error = value
		case "updated":
			a.UpdatedAt = time.Date(2025, 9, 25, 13, 42, 30, 0, time.UTC)
		default:
			done, total, _ := strings.Cut(value, "/")
			a.Disks = append(a.Disks, report.PolledDisk{
				ID: job.DiskID(key), Status: "running", BytesTransferred: number(done), TotalBytes: number(total),
			})
		}
	}
	return a
}

func (c *watching) follow(word, rest string) string {
	c.t.Helper()
	var ev report.LinkEvent
	switch word {
	case "begin":
		ev = report.LinkBegun{}
	case "heard":
		ev = report.LinkHeard{}
	case "lost":
		ev = report.LinkLost{Reason: rest}
	case "quiet":
		ev = report.LinkQuiet{}
	default:
		c.t.Fatalf("no command %q", word)
	}
	var actions []report.LinkAction
	c.link, actions = c.link.Apply(ev, c.now)
	var out strings.Builder
	for _, a := range actions {
		switch a := a.(type) {
		case report.ConnectAt:
			fmt.Fprintf(&out, "connect at %s\n", a.At.Format("15:04:05.0"))
		case report.QuietAt:
			fmt.Fprintf(&out, "look again at %s\n", a.At.Format("15:04:05.0"))
		case report.ShowNode:
			r := report.Report{Status: job.Running, Operation: "copies", BytesTransferred: 7}
			seen := time.Date(2025, 9, 25, 13, 42, 30, 0, time.UTC)
			out.WriteString(show(r.At("vma-1", report.OurNode, "1-1", c.link.Sight(seen), c.now)))
		}
	}
	if out.Len() == 0 {
		return "nothing\n"
	}
	return out.String()
}
