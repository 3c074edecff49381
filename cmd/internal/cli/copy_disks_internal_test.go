package cli

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
	"lukechampine.com/blake3"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/nbd"
	"github.com/vmferry/vmferry/volumes"
)

func TestSeveralDisksAreCopiedAndOneThatFailsStopsNoOther(t *testing.T) {
	a, b := randomDisk(t, 2<<20, 1<<20), randomDisk(t, 3<<20, 0)
	dir := t.TempDir()
	small := filepath.Join(dir, "small")
	if err := os.WriteFile(small, []byte("abc"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := runCopies(t, t.Context(), nil, a, filepath.Join(dir, "a"), b, small, "/nowhere", filepath.Join(dir, "c"), b,
		filepath.Join(dir, "b"), "--verify", "full")
	if r.code != ExitJobFailed || r.several.Status != "failed" || r.several.DurationSeconds <= 0 ||
		len(r.several.Disks) != 4 {
		t.Fatalf("exit %d, %+v: %s", r.code, r.several, &r.err)
	}
	for i, want := range []struct {
		source, status string
	}{{a, "completed"}, {b, "failed"}, {"/nowhere", "failed"}, {b, "completed"}} {
		got := r.several.Disks[i]
		if got.Source != want.source || got.Status != want.status ||
			(got.Error == nil) != (want.status == "completed") || got.Verified != (got.Error == nil) {
			t.Errorf("disk %d: %+v", i, got)
		}
	}
	if digestOf(t, a) != digestOf(t, filepath.Join(dir, "a")) ||
		digestOf(t, b) != digestOf(t, filepath.Join(dir, "b")) {
		t.Error("source and target differ")
	}
	for _, words := range []string{"2 of 4 disks could not be copied", "\n  disk-2 to " + small, "\n  disk-3 to "} {
		if !strings.Contains(r.err.String(), words) {
			t.Errorf("no %q in %s", words, &r.err)
		}
	}
}

func TestSeveralDisksShareTheBandwidthAndHaveALineEach(t *testing.T) {
	src := randomDisk(t, 3<<20, 0)
	dir := t.TempDir()
	began := time.Now()
	r := runCopies(t, t.Context(), nil, src, filepath.Join(dir, "a"), src, filepath.Join(dir, "b"), "--bandwidth",
		"4MiB", "--progress", "plain")
	if took := time.Since(began); r.code != ExitOK || took < time.Second {
		t.Errorf("exit %d after %v: %s", r.code, took, &r.err)
	}
	for _, words := range []string{
		"copies 2 disks", "copy  disk-1 ", "copy  disk-2 ", "disk-1 completed",
		"disk-2 completed", "completed 100.0%",
	} {
		if !strings.Contains(r.err.String(), words) {
			t.Errorf("no %q in\n%s", words, &r.err)
		}
	}
}

func TestSeveralDisksGoOnFromTheirCheckpointsInAFolder(t *testing.T) {
	src := randomDisk(t, 8<<20, 0)
	dir := t.TempDir()
	to, folder := [2]string{filepath.Join(dir, "a"), filepath.Join(dir, "b")}, filepath.Join(dir, "deep", "checkpoints")
	ctx, cancel := context.WithCancel(t.Context())
	defer time.AfterFunc(time.Second, cancel).Stop()
	r := runCopies(t, ctx, nil, src, to[0], src, to[1], "--bandwidth", "4MiB", "--checkpoint", folder)
	if r.code != ExitJobFailed || r.several.Status != "cancelled" {
		t.Fatalf("exit %d, %+v: %s", r.code, r.several, &r.err)
	}
	found, _ := filepath.Glob(filepath.Join(folder, "*.checkpoint"))
	if len(found) != 2 {
		t.Fatalf("checkpoints: %v", found)
	}
	again := runCopies(t, t.Context(), nil, src, to[1], src, to[0], "--checkpoint", folder) // in another order
	if again.code != ExitOK {
		t.Fatalf("exit %d: %s", again.code, &again.err)
	}
	for i, d := range again.several.Disks {
		if before := r.several.Disks[1-i]; d.BytesResumed != before.BytesTransferred {
			t.Errorf("disk %d went on from %d bytes, not from %d", i, d.BytesResumed, before.BytesTransferred)
		}
		if digestOf(t, src) != digestOf(t, to[i]) {
			t.Error("source and target differ")
		}
	}
	if found, _ := filepath.Glob(filepath.Join(folder, "*")); len(found) > 0 {
		t.Errorf("left: %v", found)
	}
}

func TestSeveralDisksAreReportedEachAndThenAsAWhole(t *testing.T) {
	address, heard := listener(t)
	src := randomDisk(t, 3<<20, 0)
	dir := t.TempDir()
	env := map[string]string{"MIGRATEKIT_PROGRESS_JOB_ID": "job-7", "VMFERRY_PROGRESS_URL": address}
	r := runCopies(t, t.Context(), env, src, filepath.Join(dir, "a"), "/nowhere", filepath.Join(dir, "b"), "--disk-id",
		"disk-2000,disk-2001", "--bandwidth", "4MiB")
	if r.code != ExitJobFailed {
		t.Fatalf("exit %d: %s", r.code, &r.err)
	}
	all := heard()
	newest := map[string]copyUpdate{}
	for i, u := range all {
		newest[u.DiskID] = u
		if u.DiskID == "" && i != len(all)-1 {
			t.Errorf("report %d of %d ends the job: %+v", i, len(all), u)
		}
	}
	if a, b, whole := newest["disk-2000"], newest["disk-2001"], newest[""]; len(newest) != 3 ||
		a.Status != "completed" || a.Percent != 100 || b.Status != "failed" ||
		b.ErrorMessage == "" || whole.Status != "failed" || whole.BytesTransferred != 3<<20 ||
		!strings.Contains(whole.ErrorMessage, "1 of 2 disks") {
		t.Errorf("got %+v", newest)
	}
}

func TestAReceiptTellsTheDigestThatB3sumTells(t *testing.T) {
	src := randomDisk(t, 3<<20, 2<<20)
	dir := t.TempDir()
	to, path := filepath.Join(dir, "target"), filepath.Join(dir, "receipt.json")
	if err := os.WriteFile(path, []byte("an older one"), 0o600); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	r := runCopyCommand(t, t.Context(), nil, src, to, "--verify", "full", "--receipt", path)
	if r.code != ExitOK || r.report.BLAKE3 == nil || r.report.Digest == nil {
		t.Fatalf("exit %d, %+v: %s", r.code, r.report, &r.err)
	}
	content, _ := os.ReadFile(to)
	sum := blake3.Sum256(content)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var got receipt
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	if got.StartedAt.Before(began.Add(-time.Second)) || got.FinishedAt.Before(got.StartedAt) ||
		got.StartedAt.Location() != time.UTC {
		t.Errorf("from %v to %v", got.StartedAt, got.FinishedAt)
	}
	want := receipt{
		Source: src, Target: to, BytesCapacity: 5 << 20, BLAKE3: hex.EncodeToString(sum[:]), Digest: r.report.Digest,
		Verified: true, Verify: job.VerifyFull,
		StartedAt: got.StartedAt, FinishedAt: got.FinishedAt, Version: version,
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if found, _ := filepath.Glob(filepath.Join(dir, "*.tmp")); len(found) > 0 {
		t.Errorf("left: %v", found)
	}
}

func TestAReceiptHoldsNoSecretsAndIsOnlyOfAWholeDigest(t *testing.T) {
	path := filepath.Join(t.TempDir(), "receipt.json")
	d := &copyDisk{
		task: nbd.Task{Source: "nbd://user:password@host/disk"}, target: "nbds://user:password@host2/disk",
		receipt: path,
	}
	if err := writeReceipt(d, &copyOutcome{}); job.KindOf(err) != job.Conflict || exists(path) {
		t.Errorf("without a digest: %v", err)
	}
	if err := writeReceipt(d, &copyOutcome{result: nbd.Result{BLAKE3: "00"}}); err != nil {
		t.Fatal(err)
	}
	if text, _ := os.ReadFile(path); bytes.Contains(text, []byte("password")) ||
		!bytes.Contains(text, []byte("host/disk")) {
		t.Errorf("%s", text)
	}
}

func TestACopyThatFailsGivesNoReceipt(t *testing.T) {
	path := filepath.Join(t.TempDir(), "receipt.json")
	r := runCopyCommand(t, t.Context(), nil, "/nowhere", filepath.Join(t.TempDir(), "to"), "--receipt", path)
	if r.code != ExitJobFailed || exists(path) {
		t.Errorf("exit %d, receipt there: %v", r.code, exists(path))
	}
}

func TestWithoutDigestsVerifyReadsBothAndSaysTheSame(t *testing.T) {
	src := randomDisk(t, 2<<20, 0)
	dir := t.TempDir()
	with := runCopyCommand(t, t.Context(), nil, src, filepath.Join(dir, "a"), "--verify", "full", "--engine", "libnbd")
	without := runCopyCommand(t, t.Context(), nil, src, filepath.Join(dir, "b"), "--verify", "full", "--digest", "none")
	plain := runCopyCommand(t, t.Context(), nil, src, filepath.Join(dir, "c"), "--digest", "none")
	if with.code+without.code+plain.code != ExitOK || !with.report.Verified || !without.report.Verified ||
		plain.report.Digest != nil {
		t.Fatalf("%+v\n%+v\n%+v", with.report, without.report, plain.report)
	}
	if d := cmp.Diff(with.report.Digest, without.report.Digest); d != "" || with.report.Digest == nil {
		t.Error(d)
	}
}

func TestVerboseTellsWhatTheEngineChose(t *testing.T) {
	src := randomDisk(t, 1<<20, 0)
	for _, args := range [][]string{{}, {"-v"}} {
		r := runCopyCommand(t, t.Context(), nil, append([]string{src, "null:"}, args...)...)
		if told := strings.Contains(r.err.String(), "level=DEBUG msg=chosen"); r.code != ExitOK ||
			told != (len(args) > 0) {
			t.Errorf("%v: exit %d: %s", args, r.code, &r.err)
		}
	}
}

func TestReconnectIsAsLongAsTheDeadlineUnlessItIsGiven(t *testing.T) {
	for text, want := range map[string]nbd.Task{
		"":                                 {Deadline: time.Minute},
		"--deadline 5s":                    {Deadline: 5 * time.Second},
		"--reconnect 0":                    {Deadline: time.Minute, Reconnect: -1},
		"--reconnect 3m --deadline 1500ms": {Deadline: 1500 * time.Millisecond, Reconnect: 3 * time.Minute},
		"--format auto":                    {Deadline: time.Minute},
		"--engine libnbd --digest none":    {Deadline: time.Minute, Engine: nbd.EngineLibnbd, NoDigest: true},
	} {
		o := &copyOptions{}
		c := &cobra.Command{}
		o.addFlags(c, Streams{Getenv: func(string) string { return "" }})
		if err := c.ParseFlags(strings.Fields(text)); err != nil {
			t.Fatal(err)
		}
		disks, err := o.complete([]string{"a", "b"})
		if err != nil {
			t.Fatal(err)
		}
		want.Source, want.OnlyRaw = "a", true
		got, target := disks[0].task, volumes.NewLazy("b", true, nbd.TLS{})
		if !reflect.DeepEqual(got.Target, nbd.Opener(target)) {
			t.Errorf("%s: the target is %+v, want %+v", text, got.Target, target)
		}
		got.Target = nil
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s: %s", text, d)
		}
	}
}

func TestThePercentOfSeveralDisksNeverFalls(t *testing.T) {
	now := noon()
	w := newCopyWatch(&copyOptions{}, []*copyDisk{
		{id: "disk-1", meter: &nbd.Meter{}},
		{id: "disk-2", meter: &nbd.Meter{}},
	}, nil, nil, now)
	steps := []struct {
		first, second job.Counters
		percent       float64
	}{
		{job.Counters{ToTransfer: 100, Transferred: 90}, job.Counters{}, 0}, // how large the other one is, is not known
		{job.Counters{ToTransfer: 100, Transferred: 90}, job.Counters{ToTransfer: 300}, 22.5},
		{job.Counters{ToTransfer: 100, Transferred: 100}, job.Counters{ToTransfer: 300, Skipped: 150}, 62.5},
	}
	for i, s := range steps {
		w.disks[0].last, w.disks[1].last = s.first, s.second
		if r := w.picture(false, now); r.OverallPercent != s.percent || len(r.Disks) != 2 {
			t.Errorf("step %d: %v%% of %d disks", i, r.OverallPercent, len(r.Disks))
		}
	}
	w.disks[0].over = &copyOutcome{}
	w.disks[1].last.ToVerify = 300
	if r := w.picture(false, now); r.Phase != job.Verify || r.Disks[0].Status != job.DiskDone ||
		*r.Disks[0].Percent != 100 {
		t.Errorf("%+v", r)
	}
}
