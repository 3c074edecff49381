package report

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/vmferry/vmferry/job"
)

// StoredEventText is EventText for an event as the journal has it. An event that this version does not know is its type
// and its data.
func StoredEventText(stored []byte) string {
	ev, _, err := job.DecodeEvent(stored)
	if err == nil {
		return EventText(ev)
	}
	var e struct {
		Type string          `json:"type"`
		Data json.RawMessage `json:"data"`
	}
	if json.Unmarshal(stored, &e) != nil {
		return "an event that can't be read"
	}
	return OneLine(e.Type + " " + string(e.Data))
}

// EventText says an event in words, on one line and without characters that command a terminal. All that show events to
// people have these words.
//
//nolint:funlen // one case for each event
func EventText(ev job.Event) string {
	switch e := ev.(type) {
	case job.Submitted:
		return submittedText(e)
	case job.Admitted:
		return "begins: its turn has come"
	case job.Restarted:
		return "the daemon was started again; the job goes on"
	case job.Inspected:
		return inspectedText(e)
	case job.CBTReady:
		if e.Enabled {
			return "CBT enabled successfully: changed blocks are tracked from now on"
		}
		return "changed blocks are tracked"
	case job.SnapshotTaken:
		return snapshotText(e.Snapshot)
	case job.TargetsPrepared:
		return plansText("targets are open", e.Disks)
	case job.Planned:
		return plansText("knows what to read", e.Disks)
	case job.DiskMoved:
		return fmt.Sprintf("%s is on its target: %s moved, %s skipped (attempt %d)", e.Disk,
			job.FormatSize(e.Counters.Transferred), job.FormatSize(e.Counters.Skipped), e.Attempt)
	case job.DiskVerified:
		return fmt.Sprintf("%s is verified: %s read back, all equal", e.Disk, job.FormatSize(e.Counters.Verified))
	case job.AttemptFailed:
		return attemptText(e)
	case job.DiskDue:
		return fmt.Sprintf("%s begins again after attempt %d", e.Disk, e.Attempt)
	case job.SetCommitted:
		return "committed: the targets equal the snapshot"
	case job.SnapshotGone:
		return "the snapshot is removed"
	case job.StepFailed:
		return fmt.Sprintf("%s failed (%s): %s%s", e.Phase, e.Kind, OneLine(e.Message), nextText(e.Next))
	case job.StepDue:
		return fmt.Sprintf("tries %s again, after %s", e.Phase, Plural(e.Attempt, "failure"))
	case job.TargetsPurged:
		return "the targets that the job made are removed"
	case job.CommandReceived:
		return commandText(e)
	case job.Limited:
		return limitedText(e)
	}
	return fmt.Sprintf("%T", ev)
}

func nextText(next string) string {
	if next == "" {
		return ""
	}
	return "; next: " + OneLine(next)
}

func submittedText(e job.Submitted) string {
	o := e.Spec.Options
	text := fmt.Sprintf("submitted: move %s, mode %s, verify %s, cut-over %s", OneLine(e.Spec.VM), e.Spec.Mode,
		o.Verify, o.Cutover)
	if o.Bandwidth > 0 {
		text += ", at most " + job.FormatSize(o.Bandwidth) + "/s"
	}
	if o.Disks > 0 {
		text += fmt.Sprintf(", %s at a time", Plural(o.Disks, "disk"))
	}
	words := []string{text}
	for _, f := range []struct {
		on   bool
		word string
	}{{!o.Quiesce, "not quiesced"}, {o.Adopt, "adopt"}, {o.Strict, "strict"}} {
		if f.on {
			words = append(words, f.word)
		}
	}
	return strings.Join(words, ", ")
}

func inspectedText(e job.Inspected) string {
	text := fmt.Sprintf("found %s (%s) with %s", OneLine(e.VM.Path), e.VM.Ref, Plural(len(e.VM.Disks), "disk"))
	if e.Base != nil {
		text += fmt.Sprintf("; round %d of job %s is its base", e.Base.Round, e.Base.Job)
	}
	if len(e.Absent) > 0 {
		text += fmt.Sprintf("; %s must be made", Plural(len(e.Absent), "target"))
	}
	return text
}

func snapshotText(s job.VMSnapshot) string {
	text := fmt.Sprintf("took snapshot %s over %s", s.Ref, Plural(len(s.Disks), "disk"))
	if s.Quiesced {
		text += ", quiesced"
	}
	return text
}

// plansText lists what each disk does in this round.
func plansText(what string, plans []job.DiskPlan) string {
	parts := make([]string, 0, len(plans))
	for _, p := range plans {
		part := fmt.Sprintf("%s %s", p.Disk.ID, p.Mode)
		if p.ToTransfer > 0 {
			part += " " + job.FormatSize(p.ToTransfer)
		}
		if p.Reason != "" {
			part += " (" + OneLine(p.Reason) + ")"
		}
		parts = append(parts, part)
	}
	if len(parts) == 0 {
		return what
	}
	return what + ": " + strings.Join(parts, ", ")
}

func attemptText(e job.AttemptFailed) string {
	if e.Kind == job.Cancelled {
		return fmt.Sprintf("attempt %d at %s was stopped at %s", e.Attempt, e.Disk,
			job.FormatSize(e.Counters.Transferred))
	}
	return fmt.Sprintf("attempt %d at %s failed (%s) at %s, of which %s are durable: %s%s", e.Attempt, e.Disk,
		e.Kind, job.FormatSize(e.Counters.Transferred), job.FormatSize(e.Counters.Durable), OneLine(e.Message),
		nextText(e.Next))
}

func commandText(e job.CommandReceived) string {
	words := []string{"command:", string(e.Verb)}
	if e.Purge {
		words = append(words, "--purge")
	}
	if e.Fresh {
		words = append(words, "--fresh")
	}
	for _, d := range e.Disks {
		words = append(words, "--disk", string(d))
	}
	return strings.Join(words, " ")
}

func limitedText(e job.Limited) string {
	var parts []string
	if b := e.Bandwidth; b != nil {
		parts = append(parts, "bandwidth "+LimitText(*b, job.FormatSize(*b)+"/s"))
	}
	if n := e.Disks; n != nil {
		parts = append(parts, "disks "+LimitText(int64(*n), strconv.Itoa(*n)))
	}
	for _, p := range []struct {
		name string
		*time.Duration
	}{{"patience", e.Patience}, {"patience of the last round", e.LastRoundPatience}} {
		if p.Duration != nil {
			parts = append(parts, p.name+" "+job.FormatPatience(*p.Duration))
		}
	}
	return "limits changed: " + strings.Join(parts, ", ")
}

// LimitText is a limit in words: text, or that there is none where n is 0.
func LimitText(n int64, text string) string {
	if n == 0 {
		return "no limit"
	}
	return text
}
