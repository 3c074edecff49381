package store_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
	"github.com/vmferry/vmferry/store"
)

// childDir makes the test binary a writer that a test kills: see TestWhatWasAcknowledgedSurvivesKill.
const childDir = "VMFERRY_TEST_JOURNAL"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		fmt.Fprintln(os.Stderr, writeForever(context.Background(), dir))
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

// need skips the test if a program is missing; with CI=true it fails the test.
func need(tb testing.TB, program string) {
	tb.Helper()
	if _, err := exec.LookPath(program); err == nil {
		return
	}
	if os.Getenv("CI") == "true" {
		tb.Fatalf("%s is not installed", program)
	}
	tb.Skipf("%s is not installed", program)
}

func openJournal(tb testing.TB, dir string) *store.Journal {
	tb.Helper()
	j, err := store.OpenJournal(tb.Context(), dir)
	if err != nil {
		tb.Fatalf("open journal: %v", err)
	}
	tb.Cleanup(func() {
		if err := j.Close(); err != nil {
			tb.Errorf("close journal: %v", err)
		}
	})
	return j
}

func wantKind(tb testing.TB, err error, want job.Kind) {
	tb.Helper()
	if got := job.KindOf(err); got != want {
		tb.Fatalf("error %v is of kind %q, want %q", err, got, want)
	}
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// noon is when all tests take place.
func noon() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC) }

func state(id job.ID, vm string) job.State {
	return job.State{ID: id, Spec: job.Spec{VM: vm, Mode: job.Auto}, Phase: job.Queued, CreatedAt: noon()}
}

// then is the state after one more event.
func then(st job.State, phase job.Phase) job.State {
	st.Seq++
	st.Phase = phase
	return st
}

func reportOf(id job.ID, epoch, seq int64) report.Report {
	capacity, percent := int64(1<<30), 12.5
	return report.Report{
		JobID: id, Epoch: epoch, Seq: seq, ObservedAt: noon().Add(time.Duration(seq) * time.Second), Origin: report.Own,
		VM: report.VM{Name: "web", Path: "/DC0/vm/web", UUID: "U-1"}, Mode: job.Full, Status: job.Running,
		Phase: job.Transfer, Operation: "copies 1 disk", Health: []report.Health{report.Throttled, report.Retrying},
		Round: 1, OverallPercent: 11.3, Percent: &percent, BytesCapacity: &capacity, BytesTransferred: seq << 20,
		CreatedAt: noon(), Phases: []report.Phase{}, Rounds: []report.Round{}, Notes: []string{},
		Allowed: []job.Verb{job.Pause},
		Disks:   []report.Disk{{DiskID: "disk-2000", BytesCapacity: capacity, BytesTransferred: seq << 20}},
	}
}

func ended(r report.Report) report.Report {
	end := r.ObservedAt
	r.Status, r.Phase, r.EndedAt, r.OverallPercent = job.StatusCompleted, job.Completed, &end, 100
	return r
}
