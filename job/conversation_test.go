package job_test

import (
	"bufio"
	"encoding/json"
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
)

var update = flag.Bool("update", false, "rewrite the answers in testdata with those of now")

// TestConversations plays each file of testdata. A conversation is a list of commands; each is followed by four dashes,
// the answer of the state machine, and an empty line. doc.go lists the commands.
func TestConversations(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no conversations: %v", err)
	}
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".txt"), func(t *testing.T) {
			want, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			got := play(t, string(want))
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

// conversation is one job, the time, and the events that it has applied.
type conversation struct {
	t     *testing.T
	state job.State
	now   time.Time
	log   []job.Event
	times []time.Time
}

// play plays a file and returns it with the answers of now.
func play(t *testing.T, text string) string {
	t.Helper()
	c := &conversation{t: t, now: time.Date(2025, 9, 25, 13, 42, 30, 0, time.UTC)}
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
		if line != "" && !strings.HasPrefix(line, "#") {
			out.WriteString("----\n" + c.play(line))
		}
	}
	c.checkFold()
	c.checkPhases()
	return out.String()
}

// checkPhases checks that each phase may follow the one before it.
func (c *conversation) checkPhases() {
	c.t.Helper()
	for i, run := range c.state.Phases[1:] {
		if from := c.state.Phases[i].Phase; !run.Phase.MayFollow(from) {
			c.t.Errorf("the job went from %s to %s, which the table of phases does not allow", from, run.Phase)
		}
	}
}

// checkFold replays the events from their stored form, and checks that they lead to the same state.
func (c *conversation) checkFold() {
	c.t.Helper()
	var st job.State
	for i, ev := range c.log {
		b, err := job.EncodeEvent(ev, c.times[i])
		if err != nil {
			c.t.Fatal(err)
		}
		back, at, err := job.DecodeEvent(b)
		if err != nil {
			c.t.Fatal(err)
		}
		if st, _, err = st.Apply(back, at); err != nil {
			c.t.Fatal(err)
		}
	}
	want, _ := json.Marshal(c.state)
	got, _ := json.Marshal(st)
	if d := cmp.Diff(string(want), string(got)); d != "" {
		c.t.Errorf("the fold of the stored events differs (-state +fold):\n%s", d)
	}
}

// play plays one command and returns the answer.
func (c *conversation) play(line string) string {
	c.t.Helper()
	words := strings.Fields(line)
	if words[0] == "wait" {
		d, err := time.ParseDuration(words[1])
		if err != nil {
			c.t.Fatal(err)
		}
		c.now = c.now.Add(d)
		return "it is " + c.now.Format(time.TimeOnly) + "\n"
	}
	args := arguments(words[1:])
	if words[0] == "command" {
		args["verb"] = words[1]
	}
	ev := c.event(words[0], args)
	next, actions, err := c.state.Apply(ev, c.now)
	if err != nil {
		return fmt.Sprintf("%s: %v. %s\n", job.KindOf(err), err, job.NextOf(err))
	}
	before := c.state
	c.state = next
	c.log, c.times = append(c.log, ev), append(c.times, c.now)
	return c.answer(before, actions)
}

// answer writes what an event changed, and the actions that it asks for.
func (c *conversation) answer(before job.State, actions []job.Action) string {
	var out strings.Builder
	s := c.state
	if s.Phase != before.Phase || s.Status() != before.Status() {
		fmt.Fprintf(&out, "%s (%s), round %d\n", s.Phase, s.Status(), s.Round())
	}
	for i, d := range s.Disks {
		if i >= len(before.Disks) || d.Phase != before.Disks[i].Phase || d.Attempt != before.Disks[i].Attempt {
			fmt.Fprintf(&out, "%s %s attempt=%d restarts=%d resent=%d\n", d.Disk.ID, d.Phase, d.Attempt, d.Restarts,
				d.Resent())
		}
		if i < len(before.Disks) {
			c.wait(&out, string(d.Disk.ID), before.Disks[i].Wait, d.Wait)
		}
	}
	if !cmp.Equal(s.Kept, before.Kept) {
		for _, k := range s.Kept {
			fmt.Fprintf(&out, "kept %s of round %d at %s (%s), last writer %s or %q\n", k.Disk, k.Round, k.ChangeID,
				job.FormatSize(k.Durable), k.Writers.Round, k.Writers.Before)
		}
		if len(s.Kept) == 0 {
			out.WriteString("nothing is kept\n")
		}
	}
	c.wait(&out, string(s.Phase), before.Step.Wait, s.Step.Wait)
	for _, n := range s.Notes[min(len(before.Notes), len(s.Notes)):] {
		out.WriteString("note: " + n + "\n")
	}
	if s.Failure != nil && (before.Failure == nil || *s.Failure != *before.Failure) {
		fmt.Fprintf(&out, "failure: %s in %s: %s\n", s.Failure.Kind, s.Failure.Phase, s.Failure.Message)
	}
	for _, a := range actions {
		out.WriteString("do " + c.action(a) + "\n")
	}
	if out.Len() == 0 {
		return "nothing\n"
	}
	return out.String()
}

// wait writes a wait that changed.
func (c *conversation) wait(out *strings.Builder, who string, before, now job.Wait) {
	patience, _ := c.state.Patience()
	switch {
	case before == now:
	case !now.Waits():
		fmt.Fprintf(out, "%s waits no more\n", who)
	case now == c.state.Step.Wait && c.state.Unending():
		fmt.Fprintf(out, "%s waits for %s since %s, try %d, without end\n", who, now.For.Name(),
			now.Since.Format(time.TimeOnly), now.Tries)
	default:
		fmt.Fprintf(out, "%s waits for %s since %s, try %d, until %s\n", who, now.For.Name(),
			now.Since.Format(time.TimeOnly), now.Tries, now.Until(patience).Format(time.TimeOnly))
	}
}

func (c *conversation) action(a job.Action) string {
	switch a := a.(type) {
	case job.CommitSet:
		var ids []string
		for _, d := range a.Set.Disks {
			ids = append(ids, fmt.Sprintf("%s=%s", d.Disk, d.ChangeID))
		}
		return "CommitSet " + strings.Join(ids, " ")
	case job.WakeDisk:
		return fmt.Sprintf("WakeDisk %s.%d within %v", a.Disk, a.Attempt, a.At.Sub(c.now).Round(time.Millisecond))
	case job.WakeStep:
		return fmt.Sprintf("WakeStep %s.%d within %v", a.Phase, a.Attempt, a.At.Sub(c.now).Round(time.Millisecond))
	default:
		return strings.TrimPrefix(fmt.Sprintf("%T %+v", a, a), "job.")
	}
}

func arguments(words []string) map[string]string {
	m := map[string]string{}
	for _, w := range words {
		k, v, _ := strings.Cut(w, "=")
		m[k] = v
	}
	return m
}

func (c *conversation) number(s string) int64 {
	c.t.Helper()
	if s == "" {
		return 0
	}
	n, err := job.ParseSize(s)
	if err != nil {
		c.t.Fatal(err)
	}
	return n
}

// time is a time such as 10m; 0 for "".
func (c *conversation) time(s string) time.Duration {
	c.t.Helper()
	if s == "" {
		return 0
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		c.t.Fatal(err)
	}
	return d
}

// ago is a moment so long before now; zero for "".
func (c *conversation) ago(s string) time.Time {
	c.t.Helper()
	if s == "" {
		return time.Time{}
	}
	return c.now.Add(-c.time(s))
}

func (c *conversation) disks(args map[string]string) []job.Disk {
	var out []job.Disk
	for k := range strings.SplitSeq(args["disks"], ",") {
		key, _ := strconv.Atoi(k)
		id := job.NewDiskID(int32(key))
		d := job.Disk{
			ID: id, Key: int32(key), Capacity: 1 << 30, ChangeID: args["change"], BackingID: "backing-" + k,
			Unfit: of(args["unfit"], k),
		}
		if size := of(args["size"], k); size != "" {
			d.Capacity = c.number(size)
		}
		if backing := of(args["backing"], k); backing != "" {
			d.BackingID = backing
		}
		out = append(out, d)
	}
	return out
}

// of is what a list, as in 2000:a,2001:b, says of a disk; "" for nothing.
func of(list, key string) string {
	for item := range strings.SplitSeq(list, ",") {
		if k, v, _ := strings.Cut(item, ":"); k == key {
			return strings.ReplaceAll(v, "_", " ")
		}
	}
	return ""
}

func targets(args map[string]string) (out []job.Target) {
	for item := range strings.SplitSeq(args["targets"], ",") {
		if key, uri, ok := strings.Cut(item, ":"); ok {
			out = append(out, job.Target{Disk: job.DiskID("disk-" + key), URI: uri})
		}
	}
	return out
}

func (c *conversation) event(word string, args map[string]string) job.Event {
	c.t.Helper()
	attempt, _ := strconv.Atoi(args["attempt"])
	id := job.DiskID(args["disk"])
	counters := job.Counters{
		ToTransfer: c.number(args["to_transfer"]), Transferred: c.number(args["transferred"]),
		Skipped: c.number(args["skipped"]), ResumedTransferred: c.number(args["resumed"]),
		Durable: c.number(args["durable"]),
	}
	text := strings.ReplaceAll(args["message"], "_", " ")
	switch word {
	case "submit":
		spec, err := job.Spec{
			VM: args["vm"], Mode: job.Mode(args["mode"]), Targets: targets(args),
			Options: job.Options{
				Verify: job.VerifyMode(args["verify"]), Cutover: job.Cutover(args["cutover"]),
				Patience: c.time(args["patience"]), LastRoundPatience: c.time(args["last"]),
			},
		}.Normal()
		if err != nil {
			c.t.Fatal(err)
		}
		mark := args["mark"]
		switch mark {
		case "":
			mark = "mark-1"
		case "none":
			mark = ""
		}
		return job.Submitted{ID: "job-1", Mark: mark, Spec: spec}
	case "admit":
		return job.Admitted{Mark: args["mark"]}
	case "restarted":
		return job.Restarted{Disks: c.lastSeen(args), Mark: args["mark"]}
	case "inspected":
		uuid := args["uuid"]
		if uuid == "" {
			uuid = "50-1"
		}
		vm := job.VM{Ref: "vm-29", UUID: uuid, Name: "web", Path: c.state.Spec.VM, Disks: c.disks(args)}
		targets, err := job.Assign(c.state.Spec, vm, "/targets", nil)
		if err != nil {
			c.t.Fatal(err)
		}
		ev := job.Inspected{VM: vm, Targets: targets}
		if args["absent"] != "" {
			for _, t := range targets {
				ev.Absent = append(ev.Absent, t.URI)
			}
		}
		return ev
	case "cbt":
		return job.CBTReady{Enabled: args["enabled"] == "true"}
	case "snapshot":
		return job.SnapshotTaken{Snapshot: job.VMSnapshot{Ref: args["ref"], Disks: c.disks(args)}}
	case "prepared":
		ev := job.TargetsPrepared{Disks: c.plans(args)}
		for _, t := range targets(args) {
			ev.Made = append(ev.Made, t.URI)
		}
		return ev
	case "planned":
		return job.Planned{Disks: c.plans(args)}
	case "moved":
		return job.DiskMoved{Disk: id, Attempt: attempt, Counters: counters}
	case "verified":
		return job.DiskVerified{Disk: id, Attempt: attempt, Counters: counters}
	case "failed":
		return job.AttemptFailed{
			Disk: id, Attempt: attempt, Counters: counters, Kind: job.Kind(args["kind"]), Message: text,
			What: job.Peer(args["what"]), Since: c.ago(args["ago"]),
		}
	case "due":
		return job.DiskDue{Disk: id, Attempt: attempt}
	case "committed":
		return job.SetCommitted{}
	case "gone":
		return job.SnapshotGone{}
	case "step_failed":
		return job.StepFailed{
			Phase: job.Phase(args["phase"]), Kind: job.Kind(args["kind"]), Message: text,
			What: job.Peer(args["what"]), Since: c.ago(args["ago"]),
		}
	case "step_due":
		return job.StepDue{Phase: job.Phase(args["phase"]), Attempt: attempt}
	case "command":
		var disks []job.DiskID
		for d := range strings.SplitSeq(args["disks"], ",") {
			if d != "" {
				disks = append(disks, job.DiskID("disk-"+d))
			}
		}
		return job.CommandReceived{
			Verb: job.Verb(args["verb"]), Purge: args["purge"] != "", Fresh: args["fresh"] != "", Disks: disks,
		}
	case "limit":
		if p := c.time(args["patience"]); p != 0 {
			return job.Limited{Patience: &p}
		}
		n, disks := c.number(args["bandwidth"]), int(c.number(args["disks"]))
		return job.Limited{Bandwidth: &n, Disks: &disks}
	case "purged":
		return job.TargetsPurged{}
	}
	c.t.Fatalf("unknown command %q", word)
	return nil
}

func (c *conversation) plans(args map[string]string) (plans []job.DiskPlan) {
	for _, d := range c.disks(args) {
		key := strings.TrimPrefix(string(d.ID), "disk-")
		p := job.DiskPlan{
			Target: of(args["targets"], key),
			Disk:   d, Mode: job.Mode(args["mode"]),
			Reason: strings.ReplaceAll(args["reason"], "_", " "), ToTransfer: c.number(args["to_transfer"]),
			Keep: args["keep"] != "", Writer: args["writer"],
		}
		if kept := of(args["kept"], key); kept != "" {
			from, _ := c.state.KeptCopy(d.ID)
			p.Kept = &job.KeptPart{Round: from.Round, Transferred: c.number(kept)}
		}
		plans = append(plans, p)
	}
	return plans
}

func (c *conversation) lastSeen(args map[string]string) []job.LastSeen {
	if args["disk"] == "" {
		return nil
	}
	return []job.LastSeen{{
		Disk: job.DiskID(args["disk"]), Round: c.state.Round(),
		Transferred: c.number(args["transferred"]), Skipped: c.number(args["skipped"]),
		Resent: c.number(args["resent"]),
	}}
}
