package cli

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vmferry/vmferry/job"
)

// copyRun is the result of one run of the command.
type copyRun struct {
	code     int
	out, err bytes.Buffer
	report   copyReport
	several  copiesReport
}

func runCopyCommand(tb testing.TB, ctx context.Context, env map[string]string, args ...string) *copyRun {
	tb.Helper()
	r := &copyRun{}
	r.run(tb, ctx, env, &r.report, args)
	return r
}

// runCopies is for several disks.
func runCopies(tb testing.TB, ctx context.Context, env map[string]string, args ...string) *copyRun {
	tb.Helper()
	r := &copyRun{}
	r.run(tb, ctx, env, &r.several, args)
	return r
}

func (r *copyRun) run(tb testing.TB, ctx context.Context, env map[string]string, report any, args []string) {
	tb.Helper()
	ctx, stop := context.WithTimeout(ctx, time.Minute) // longer than any of the copies takes
	defer stop()
	s := Streams{In: strings.NewReader(""), Out: &r.out, Err: &r.err, Getenv: func(k string) string { return env[k] }}
	r.code = Execute(ctx, s, append([]string{"copy", "-o", "json"}, args...))
	if r.out.Len() > 0 {
		d := json.NewDecoder(&r.out)
		d.DisallowUnknownFields()
		if err := d.Decode(report); err != nil || d.More() {
			tb.Fatalf("standard output holds more or less than one object: %v", err)
		}
	}
}

// randomDisk is a file of that many bytes, with a hole at its end.
func randomDisk(tb testing.TB, data, hole int) string {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "source")
	b := make([]byte, data)
	rand.NewChaCha8([32]byte{1}).Read(b)
	if err := os.WriteFile(path, b, 0o600); err != nil {
		tb.Fatal(err)
	}
	if err := os.Truncate(path, int64(data+hole)); err != nil {
		tb.Fatal(err)
	}
	return path
}

func digestOf(tb testing.TB, path string) [32]byte {
	tb.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	return sha256.Sum256(b)
}

func TestCopyMakesTheTargetAndEndsWithOneObject(t *testing.T) {
	src := randomDisk(t, 3<<20, 2<<20)
	to := filepath.Join(t.TempDir(), "target")
	r := runCopyCommand(t, t.Context(), nil, src, to, "--verify", "full", "--progress", "quiet")
	if r.code != ExitOK {
		t.Fatalf("exit %d: %s", r.code, &r.err)
	}
	got := r.report
	if got.Status != "completed" || got.BytesCapacity != 5<<20 || got.BytesTransferred != 3<<20 ||
		got.BytesSkipped != 2<<20 || !got.Verified || got.Digest == nil || got.Error != nil || got.BLAKE3 != nil ||
		got.BadRanges == nil {
		t.Errorf("report %+v", got)
	}
	if digestOf(t, src) != digestOf(t, to) {
		t.Error("source and target differ")
	}
}

func TestCopyWithChangedRangesTouchesNothingElse(t *testing.T) {
	src := randomDisk(t, 1<<20, 0)
	to := filepath.Join(t.TempDir(), "target")
	if err := os.WriteFile(to, bytes.Repeat([]byte{7}, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	changed := filepath.Join(t.TempDir(), "changed.json")
	if err := os.WriteFile(changed, []byte(`[{"offset":4096,"length":8192}]`), 0o600); err != nil {
		t.Fatal(err)
	}
	r := runCopyCommand(t, t.Context(), nil, src, to, "--changed", changed, "--verify", "full")
	if r.code != ExitOK || r.report.BytesToTransfer != 8192 {
		t.Fatalf("exit %d, report %+v: %s", r.code, r.report, &r.err)
	}
	want, _ := os.ReadFile(src)
	got, _ := os.ReadFile(to)
	if !bytes.Equal(got[4096:12288], want[4096:12288]) || !bytes.Equal(got[:4096], bytes.Repeat([]byte{7}, 4096)) ||
		got[12288] != 7 {
		t.Error("the wrong bytes were copied")
	}
}

func TestChangesBeyondTheEndAreRefusedByName(t *testing.T) {
	src := randomDisk(t, 1<<20, 0)
	changed := filepath.Join(t.TempDir(), "changed.json")
	if err := os.WriteFile(changed, []byte(`[{"offset":0,"length":512},{"offset":1048576,"length":512}]`),
		0o600); err != nil {
		t.Fatal(err)
	}
	r := runCopyCommand(t, t.Context(), nil, src, filepath.Join(t.TempDir(), "to"), "--changed", changed)
	if e := r.report.Error; r.code != ExitJobFailed || e == nil || e.Code != job.Invalid ||
		!strings.Contains(e.Message, "extent 1 (1048576+512) ends beyond the disk's 1048576 bytes") {
		t.Errorf("exit %d, error %+v", r.code, e)
	}
}

func TestAnEmptyListOfChangesIsACopyOfNothing(t *testing.T) {
	src := randomDisk(t, 1<<20, 0)
	to := filepath.Join(t.TempDir(), "to")
	changed := filepath.Join(t.TempDir(), "changed.json")
	for path, text := range map[string]string{changed: "[]\n", to: strings.Repeat("x", 1<<20)} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	before := digestOf(t, to)
	r := runCopyCommand(t, t.Context(), nil, src, to, "--changed", changed, "--verify", "full")
	if r.code != ExitOK || r.report.Status != "completed" || r.report.BytesToTransfer != 0 ||
		digestOf(t, to) != before {
		t.Errorf("exit %d, report %+v: %s", r.code, r.report, &r.err)
	}
}

func TestCopyRefusesBadInput(t *testing.T) {
	src := randomDisk(t, 1<<20, 0)
	file := func(text string) string {
		path := filepath.Join(t.TempDir(), "changed.json")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	small := filepath.Join(t.TempDir(), "small")
	if err := os.WriteFile(small, []byte("abc"), 0o600); err != nil {
		t.Fatal(err)
	}
	fresh := filepath.Join(t.TempDir(), "new")
	tests := []struct {
		name string
		args []string
		code int
	}{
		{"one argument", []string{src}, ExitUsage},
		{"one argument too many", []string{src, fresh, src}, ExitUsage},
		{"digest", []string{src, fresh, "--digest", "md5"}, ExitUsage},
		{"engine", []string{src, fresh, "--engine", "steam"}, ExitUsage},
		{"no deadline", []string{src, fresh, "--deadline", "0"}, ExitUsage},
		{"deadline without unit", []string{src, fresh, "--deadline", "5"}, ExitUsage},
		{"negative reconnect", []string{src, fresh, "--reconnect", "-1s"}, ExitUsage},
		{"receipt of changes", []string{src, fresh, "--receipt", "r", "--changed", file("[]")}, ExitUsage},
		{"receipt nowhere", []string{src, fresh, "--receipt", "/nowhere/r"}, ExitUsage},
		{"receipt is a folder", []string{src, fresh, "--receipt", filepath.Dir(src)}, ExitUsage},
		{"receipt on the source", []string{src, fresh, "--receipt", src}, ExitUsage},
		{"checkpoint on the target", []string{src, fresh, "--checkpoint", fresh}, ExitUsage},
		{"source is target", []string{src, src}, ExitUsage},
		{"verify nothing", []string{src, "null:", "--verify", "full"}, ExitUsage},
		{"target twice", []string{src, fresh, src, fresh}, ExitUsage},
		{"target twice by other names", []string{src, fresh, src, filepath.Dir(fresh) + "/../" +
			filepath.Base(filepath.Dir(fresh)) + "/new"}, ExitUsage},
		{"target is a source", []string{src, fresh, fresh, fresh + "2"}, ExitUsage},
		{"changes of several", []string{src, fresh, src, fresh + "2", "--changed", file("[]")}, ExitUsage},
		{"receipt of several", []string{src, fresh, src, fresh + "2", "--receipt", fresh + "3"}, ExitUsage},
		{"checkpoint file of several", []string{src, fresh, src, fresh + "2", "--checkpoint", file("")}, ExitUsage},
		{"disk ids", []string{src, fresh, src, fresh + "2", "--disk-id", "a"}, ExitUsage},
		{"disk id twice", []string{src, fresh, src, fresh + "2", "--disk-id", "a,a"}, ExitUsage},
		{"floats", []string{src, "null:", "--changed", file(`[{"offset":0.5,"length":1}]`)}, ExitUsage},
		{"unknown flag", []string{src, "null:", "--fast"}, ExitUsage},
		{"bandwidth", []string{src, "null:", "--bandwidth", "much"}, ExitUsage},
		{"no bandwidth", []string{src, "null:", "--bandwidth", "0"}, ExitUsage},
		{"verify", []string{src, "null:", "--verify", "perhaps"}, ExitUsage},
		{"no file of changes", []string{src, "null:", "--changed", "/nowhere"}, ExitUsage},
		{"null", []string{src, "null:", "--changed", file("null")}, ExitUsage},
		{"two values", []string{src, "null:", "--changed", file("[] []")}, ExitUsage},
		{"unknown field", []string{src, "null:", "--changed", file(`[{"start":1}]`)}, ExitUsage},
		{"negative", []string{src, "null:", "--changed", file(`[{"offset":-1,"length":1}]`)}, ExitUsage},
		{"job id", []string{src, "null:", "--job-id", "../x"}, ExitUsage},
		{"progress URL", []string{src, "null:", "--job-id", "x", "--progress-url", "ftp://x"}, ExitUsage},
		{"progress form", []string{src, "null:", "--progress", "loud"}, ExitUsage},
		{
			"change beyond the end",
			[]string{src, fresh, "--changed", file(`[{"offset":1048576,"length":1}]`)},
			ExitJobFailed,
		},
		{"smaller target", []string{src, small}, ExitJobFailed},
		{"no source", []string{"/nowhere", fresh}, ExitJobFailed},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			r := runCopyCommand(t, t.Context(), nil, tc.args...)
			if r.code != tc.code || !strings.Contains(r.err.String(), "error:") {
				t.Errorf("exit %d, want %d: %s", r.code, tc.code, &r.err)
			}
			if tc.code == ExitUsage && r.out.Len() > 0 {
				t.Errorf("standard output: %s", &r.out)
			}
			if tc.code == ExitJobFailed && (r.report.Status != "failed" || r.report.Error == nil) {
				t.Errorf("report %+v", r.report)
			}
		})
	}
	if found, _ := filepath.Glob(fresh + "*"); len(found) > 0 {
		t.Errorf("%v were made for nothing", found)
	}
}

// listener is a progress service that keeps the reports.
func listener(tb testing.TB) (address string, heard func() []copyUpdate) {
	tb.Helper()
	var mu sync.Mutex
	var all []copyUpdate
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var u copyUpdate
		if err := json.NewDecoder(r.Body).Decode(&u); err != nil || r.URL.Path != "/api/v1/progress/job-7/update" ||
			r.Method != http.MethodPost {
			tb.Errorf("%s %s: %v", r.Method, r.URL, err)
		}
		mu.Lock()
		defer mu.Unlock()
		all = append(all, u)
	}))
	tb.Cleanup(s.Close)
	return s.URL, func() []copyUpdate { mu.Lock(); defer mu.Unlock(); return all }
}

func TestCopyReportsToTheProgressService(t *testing.T) {
	address, heard := listener(t)
	src := randomDisk(t, 6<<20, 0)
	env := map[string]string{"MIGRATEKIT_PROGRESS_JOB_ID": "job-7", "VMFERRY_PROGRESS_URL": address}
	r := runCopyCommand(t, t.Context(), env, src, "null:", "--disk-id", "disk-2000", "--bandwidth", "4MiB",
		"--request-size", "64KiB")
	if r.code != ExitOK {
		t.Fatalf("exit %d: %s", r.code, &r.err)
	}
	if r.report.Load.Throttle < 0.3 {
		t.Errorf("throttled for a share of %v only", r.report.Load.Throttle)
	}
	all := heard()
	if len(all) < 3 {
		t.Fatalf("got %d reports", len(all))
	}
	for i, u := range all {
		if u.TotalBytes != 6<<20 || u.DiskID != "disk-2000" || u.SyncType != "full" || u.Stage != "Transfer" {
			t.Errorf("report %d: %+v", i, u)
		}
		if i > 0 && (u.BytesTransferred < all[i-1].BytesTransferred || u.Percent < all[i-1].Percent) {
			t.Errorf("report %d falls: %+v after %+v", i, u, all[i-1])
		}
	}
	if last := all[len(all)-1]; last.Status != "completed" || last.Percent != 100 || all[0].Status != "in_progress" {
		t.Errorf("first %+v, last %+v", all[0], last)
	}
}

func TestACancelledCopyEndsSoonEvenIfTheProgressServiceHangs(t *testing.T) {
	release := make(chan struct{})
	hanging := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	defer hanging.Close()
	defer close(release)
	src := randomDisk(t, 8<<20, 0)
	to := filepath.Join(t.TempDir(), "target")
	checkpoint := filepath.Join(t.TempDir(), "checkpoint")
	ctx, cancel := context.WithCancel(t.Context())
	var at time.Time
	defer time.AfterFunc(time.Second, func() { at = time.Now(); cancel() }).Stop()
	r := runCopyCommand(t, ctx, nil, src, to, "--bandwidth", "4MiB", "--job-id", "job-7", "--progress-url", hanging.URL,
		"--checkpoint", checkpoint)
	if took := time.Since(at); took > 2*time.Second {
		t.Errorf("it took %v to end", took)
	}
	if r.code != ExitJobFailed || r.report.Status != "cancelled" || r.report.BytesTransferred == 0 {
		t.Fatalf("exit %d, report %+v", r.code, r.report)
	}
	again := runCopyCommand(t, t.Context(), nil, src, to, "--checkpoint", checkpoint)
	if again.code != ExitOK || again.report.BytesResumed != r.report.BytesTransferred {
		t.Errorf("exit %d, resumed %d bytes of %d: %s", again.code, again.report.BytesResumed,
			r.report.BytesTransferred, &again.err)
	}
	if digestOf(t, src) != digestOf(t, to) {
		t.Error("source and target differ")
	}
}
