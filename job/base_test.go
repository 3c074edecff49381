package job_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vmferry/vmferry/job"
)

func newConversation(t *testing.T) *conversation {
	t.Helper()
	return &conversation{t: t, now: time.Date(2025, 9, 25, 13, 42, 30, 0, time.UTC)}
}

// plays plays commands of a conversation, one a line. None of them may be refused.
func (c *conversation) plays(lines string) {
	c.t.Helper()
	for line := range strings.Lines(lines) {
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		before := c.state.Seq
		answer := c.play(line)
		if c.state.Seq == before && !strings.HasPrefix(line, "wait") {
			c.t.Fatalf("%s: %s", line, answer)
		}
	}
}

// applies applies an event that the commands can't say in full.
func (c *conversation) applies(ev job.Event) {
	c.t.Helper()
	st, _, err := c.state.Apply(ev, c.now)
	if err != nil {
		c.t.Fatal(err)
	}
	c.state = st
}

// inspected has preflight find a VM of that UUID with two disks, and that committed set.
func (c *conversation) inspected(uuid string, base *job.CheckpointSet) {
	c.t.Helper()
	ev, ok := c.event("inspected", map[string]string{"disks": "2000,2001"}).(job.Inspected)
	if !ok {
		c.t.Fatal("the command inspected gives another event")
	}
	ev.VM.UUID, ev.Base = uuid, base
	c.applies(ev)
}

// bases are the disks that may go incremental.
func (c *conversation) bases() string {
	var ids []string
	for _, d := range []job.DiskID{"disk-2000", "disk-2001"} {
		if _, ok := c.state.Base.Disk(d); ok {
			ids = append(ids, string(d))
		}
	}
	return strings.Join(ids, " ")
}

const (
	firstVM  = "50-1" // the UUID of the VM that all commands of conversations find
	firstDay = `
		submit vm=web verify=none cutover=manual
		admit
		inspected disks=2000,2001
		cbt
		snapshot ref=snapshot-1 disks=2000,2001 change=52/1
		planned disks=2000,2001 change=52/1 mode=full to_transfer=1GiB`
	oneDiskFails = firstDay + `
		moved disk=disk-2001 attempt=1 transferred=1GiB
		failed disk=disk-2000 attempt=1 transferred=300MiB kind=permission
		gone`
)

func TestAFreshRetryTakesNoSetForItsBase(t *testing.T) {
	for retry, want := range map[string]string{
		"command retry": "disk-2000 disk-2001", "command retry fresh=yes": "",
	} {
		t.Run(retry, func(t *testing.T) {
			c := newConversation(t)
			c.plays(firstDay + `
				moved disk=disk-2000 attempt=1 transferred=1GiB
				moved disk=disk-2001 attempt=1 transferred=1GiB
				committed
				gone`)
			committed := c.state.Base
			c.plays("command cancel")
			c.plays(retry + "\n admit")
			c.inspected(firstVM, committed)
			if got := c.bases(); got != want {
				t.Errorf("%q may go incremental, want %q", got, want)
			}
		})
	}
}

func TestWhatAFailedRoundLeftIsForgottenByAFreshRetry(t *testing.T) {
	for retry, want := range map[string]string{"command retry": "disk-2001", "command retry fresh=yes": ""} {
		t.Run(retry, func(t *testing.T) {
			c := newConversation(t)
			c.plays(oneDiskFails)
			c.plays(retry + `
				admit
				step_failed phase=preflight kind=not_found
				command retry
				admit`)
			c.inspected(firstVM, nil)
			if got := c.bases(); got != want || c.state.Unverified != (want != "") {
				t.Errorf("%q may go incremental, want %q (unverified: %v)", got, want, c.state.Unverified)
			}
		})
	}
}

func TestWhatAFailedRoundLeftIsNotForAnotherVM(t *testing.T) {
	for uuid, want := range map[string]string{firstVM: "disk-2001", "50-2": ""} {
		t.Run(uuid, func(t *testing.T) {
			c := newConversation(t)
			c.plays(oneDiskFails + `
				command retry
				admit`)
			c.inspected(uuid, nil)
			if got := c.bases(); got != want || c.state.Unverified != (want != "") {
				t.Errorf("%q may go incremental, want %q (unverified: %v)", got, want, c.state.Unverified)
			}
		})
	}
}

// committedBefore begins a job of a VM of two disks, of which a set is committed at 52/1.
func (c *conversation) committedBefore() {
	c.plays(`
		submit vm=web verify=none
		admit`)
	c.inspected(firstVM, &job.CheckpointSet{VMUUID: firstVM, Disks: []job.DiskCheckpoint{
		{Disk: "disk-2000", ChangeID: "52/1", Capacity: 1 << 30},
		{Disk: "disk-2001", ChangeID: "52/1", Capacity: 1 << 30},
	}})
}

func TestADiskThatWentFullAndWasCutOffHasNoBaseAnyMore(t *testing.T) {
	for second, want := range map[job.Mode]string{job.Full: "", job.Incremental: "disk-2001"} {
		t.Run(string(second), func(t *testing.T) {
			c := newConversation(t)
			c.committedBefore()
			c.plays(`
				cbt
				snapshot ref=snapshot-2 disks=2000,2001 change=52/2`)
			full := c.plans(map[string]string{"disks": "2000", "change": "52/2", "mode": "full"})
			other := c.plans(map[string]string{"disks": "2001", "change": "52/2", "mode": string(second)})
			c.applies(job.Planned{Disks: append(full, other...)})
			c.plays(`
				command cancel
				failed disk=disk-2000 attempt=1 transferred=1MiB kind=cancelled
				failed disk=disk-2001 attempt=1 transferred=1MiB kind=cancelled
				gone
				command retry
				admit`)
			c.inspected(firstVM, nil) // the plan dropped the committed set
			if got := c.bases(); got != want {
				t.Errorf("%q may go incremental, want %q", got, want)
			}
			if was, ok := c.state.Base.Disk("disk-2001"); ok && was.ChangeID != "52/1" {
				t.Errorf("disk-2001 would miss what changed before %s", was.ChangeID)
			}
		})
	}
}

func TestAnEventOfAnEarlierAttemptChangesNothing(t *testing.T) {
	again := firstDay + `
		failed disk=disk-2000 attempt=1 transferred=100MiB kind=io
		due disk=disk-2000 attempt=1`
	paused := again + `
		failed disk=disk-2000 attempt=2 transferred=100MiB kind=io`
	verifying := strings.Replace(again, "verify=none", "verify=full", 1) + `
		moved disk=disk-2000 attempt=2 transferred=1GiB
		moved disk=disk-2001 attempt=1 transferred=1GiB`
	for late, before := range map[string]string{
		"moved disk=disk-2000 attempt=1 transferred=1GiB":                  again,
		"failed disk=disk-2000 attempt=1 transferred=1GiB kind=permission": again,
		"failed disk=disk-2000 attempt=1 transferred=1GiB kind=cancelled":  again,
		"due disk=disk-2000 attempt=1":                                     paused,
		"verified disk=disk-2000 attempt=1":                                verifying,
		"failed disk=disk-2000 attempt=1 kind=corrupt":                     verifying,
	} {
		t.Run(late, func(t *testing.T) {
			c := newConversation(t)
			c.plays(before)
			was := c.state
			was.Seq++
			if answer := c.play(late); answer != "nothing\n" {
				t.Errorf("it gives %s", answer)
			}
			if d := cmp.Diff(was, c.state); d != "" {
				t.Errorf("it changes the state (-before +after):\n%s", d)
			}
		})
	}
}

func TestACancelWithPurgeRemovesNothingOnceTheJobEndsInAnotherWay(t *testing.T) {
	begin := strings.Replace(firstDay, "cutover=manual", "", 1)
	begin = strings.Replace(begin, "inspected disks=2000,2001", "inspected disks=2000,2001 absent=yes", 1)
	for outcome, end := range map[job.Phase]string{
		job.Completed: `
			moved disk=disk-2000 attempt=1 transferred=1GiB
			moved disk=disk-2001 attempt=1 transferred=1GiB
			committed`,
		job.Failed: `
			moved disk=disk-2001 attempt=1 transferred=1GiB
			failed disk=disk-2000 attempt=1 transferred=300MiB kind=permission`,
	} {
		t.Run(string(outcome), func(t *testing.T) {
			c := newConversation(t)
			c.plays(begin + end)
			if len(c.state.Made) != 2 || c.state.Phase != job.Cleanup {
				t.Fatalf("the job made %v and is in %s", c.state.Made, c.state.Phase)
			}
			c.plays("command cancel purge=yes")
			answer := c.play("gone")
			if c.state.Phase != outcome || strings.Contains(answer, "do ") || len(c.state.Made) != 2 {
				t.Errorf("it ends %s, want %s: %s", c.state.Phase, outcome, answer)
			}
		})
	}
}

func TestFailuresInARowAreCountedFromTheLastProgress(t *testing.T) {
	failures := job.Policies()[job.Unavailable].Budget + 1
	for progress, want := range map[int]job.DiskPhase{63: job.DiskFailed, 64: job.DiskBackoff} {
		t.Run(fmt.Sprint(progress, " MiB"), func(t *testing.T) {
			c := newConversation(t)
			c.plays(firstDay)
			for n := 1; n <= failures; n++ {
				if n > 1 {
					c.plays(fmt.Sprintf("wait 1m\n due disk=disk-2000 attempt=%d", n-1))
				}
				c.plays(fmt.Sprintf("failed disk=disk-2000 attempt=%d durable=%dMiB kind=unavailable", n, n*progress))
			}
			if got := c.state.Disks[0].Phase; got != want {
				t.Errorf("after %d failures, each after %d MiB more, the disk is %s, want %s", failures, progress, got,
					want)
			}
		})
	}
}
