package http_test

import (
	"bytes"
	"encoding/json"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	apihttp "github.com/vmferry/vmferry/http"
	"github.com/vmferry/vmferry/job"
)

// An old copy tool goes through its stages; an old poller reads the words it knows.
func TestAJobOfAnOldToolIsFollowedFromItsFirstPostToItsEnd(t *testing.T) {
	w := newWorld()
	_, s := w.server(t)
	const url = "/api/v1/progress/job-20250925-134230.513-8034ee"
	for _, step := range []struct {
		body, status string
		percentage   float64
		bytes        int64
	}{
		{`{"stage":"Initializing","status":"in_progress","percent":5}`, "running", 5, 0},
		{`{"stage":"Creating Snapshot","status":"in_progress","percent":10}`, "running", 10, 0},
		{
			`{"stage":"Transfer","status":"in_progress","bytes_transferred":0,"total_bytes":1000,` +
				`"disk_id":"disk-2000"}`,
			"running", 0, 0,
		},
		{`{"stage":"Transfer","status":"Streaming","bytes_transferred":400,"total_bytes":1000,"disk_id":"disk-2000",` +
			`"error_message":""}`, "running", 40, 400},
		// late: fewer bytes than before
		{
			`{"stage":"Transfer","status":"Streaming","bytes_transferred":300,"total_bytes":1000,` +
				`"disk_id":"disk-2000"}`,
			"running", 40, 400,
		},
		{
			`{"stage":"Transfer","status":"Streaming","bytes_transferred":1000,"total_bytes":1000,` +
				`"disk_id":"disk-2000"}`,
			"running", 99.99, 1000,
		},
		{`{"stage":"Finalize","status":"Succeeded","percent":100}`, "completed", 100, 1000},
	} {
		status, _ := post(t, s.URL+url+"/update", strings.NewReader(step.body))
		if status != http.StatusOK {
			t.Fatalf("%s: %d", step.body, status)
		}
		got := decode[apihttp.LegacyProgress](t, fetch(t, s.URL+url))
		if got.Status != step.status || got.Percentage != step.percentage || got.BytesTransferred != step.bytes {
			t.Errorf("after %s: %s %v %d, want %s %v %d", step.body, got.Status, got.Percentage, got.BytesTransferred,
				step.status, step.percentage, step.bytes)
		}
	}
}

func TestTheProgressAnswerHasEveryFieldThatOldPollersRead(t *testing.T) {
	w := newWorld()
	_, s := w.server(t)
	w.running(t, "job-web")
	got := decode[map[string]any](t, fetch(t, s.URL+"/api/v1/progress/job-web"))
	for path, fields := range map[string]string{
		"": "job_id status sync_type phase percentage current_operation bytes_transferred total_bytes throughput " +
			"timing vm_info phases errors last_error disk_progresses",
		"throughput":      "current_mbps average_mbps peak_mbps last_update",
		"timing":          "start_time last_update elapsed_ms phase_start phase_elapsed_ms eta_seconds",
		"vm_info":         "name path disk_size_gb disk_size_bytes cbt_enabled",
		"phases":          "name status start_time end_time duration_ms",
		"disk_progresses": "disk_id label bytes_transferred total_bytes percent throughput_mbps status",
	} {
		object := got
		switch part := got[path].(type) {
		case map[string]any:
			object = part
		case []any:
			object = part[0].(map[string]any)
		}
		for f := range strings.FieldsSeq(fields) {
			if _, ok := object[f]; !ok {
				t.Errorf("%s.%s is missing", path, f)
			}
		}
	}
}

func TestWholeNumbersAreTakenInAnyFormAndFractionsAreRefused(t *testing.T) {
	for text, want := range map[string]int64{
		"5": 5, "5.0": 5, "1.5e12": 1_500_000_000_000, "15E+11": 1_500_000_000_000, "50e-1": 5, "0.0": 0, "-0": 0,
		"0e9999999999999999999": 0, "9.007199254740993e15": 9_007_199_254_740_993, "0.005e3": 5,
		"9223372036854775807": math.MaxInt64, "9.223372036854775807e18": math.MaxInt64, "null": -1,
		"1.5": -2, "1e-1": -2, "1e-9999999999999999999": -2, "9223372036854775808": -2, "1e19": -2,
		"1e9999999999999999999": -2, "-1": -2, "-1.0": -2, `"5"`: -2, "true": -2, "[5]": -2, "{}": -2,
		"1e-9223372036854775808": -2,
	} {
		u, err := apihttp.DecodeUpdate([]byte(`{"bytes_transferred":` + text + `}`))
		got := int64(-1)
		switch {
		case err != nil:
			got = -2
			if !strings.Contains(err.Error(), "bytes_transferred") {
				t.Errorf("%s: the reason does not name the field: %v", text, err)
			}
		case u.BytesTransferred != nil:
			got = *u.BytesTransferred
		}
		if got != want {
			t.Errorf("%s is read as %d (%v), want %d", text, got, err, want)
		}
	}
}

func TestAnUpdateForAJobOfThisNodeIsRefusedAndChangesNothing(t *testing.T) {
	w := newWorld()
	_, s := w.server(t)
	w.running(t, "job-web")
	before := fetch(t, s.URL+"/api/v1/jobs/job-web")
	status, p := post(t, s.URL+"/api/v1/progress/job-web/update", strings.NewReader(`{"percent":100}`))
	if status != http.StatusConflict || p.Code != string(job.Conflict) {
		t.Errorf("%d %+v", status, p)
	}
	if after := fetch(t, s.URL+"/api/v1/jobs/job-web"); !bytes.Equal(before, after) {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
}

func TestOneExternalJobTooManyIsToldToComeBackLater(t *testing.T) {
	w := newWorld()
	w.mostExternal = 1
	h, s := w.server(t)
	for i, want := range []int{http.StatusOK, http.StatusOK, http.StatusTooManyRequests} {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost,
			"http://localhost/api/v1/progress/job-"+[]string{"a", "a", "b"}[i]+"/update",
			strings.NewReader(oldToolUpdate))
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, r)
		if rec.Code != want {
			t.Fatalf("update %d: %d %s", i, rec.Code, rec.Body)
		}
		if want == http.StatusTooManyRequests && (rec.Header().Get("Retry-After") == "" ||
			rec.Header().Get("Content-Type") != "application/problem+json" ||
			!strings.Contains(rec.Body.String(), `"code":"too_many_external_jobs"`)) {
			t.Errorf("%v %s", rec.Header(), rec.Body)
		}
	}
	if got := decode[[]any](t, fetch(t, s.URL+"/api/v1/jobs")); len(got) != 1 {
		t.Errorf("%d jobs", len(got))
	}
}

// FuzzUpdatesNeverTouchAnotherReader posts an update, twice for two disks, beside a job of this node.
func FuzzUpdatesNeverTouchAnotherReader(f *testing.F) {
	w := newWorld()
	h, s := w.server(f)
	w.running(f, "job-web")
	own := fetch(f, s.URL+"/api/v1/jobs/job-web")
	for _, b := range []string{
		oldToolUpdate, `{"throughput_bps":1.7e308,"disk_id":"a","bytes_transferred":1e18}`, `{"percent":1.7e308}`,
		`{"total_bytes":9223372036854775807,"bytes_transferred":9223372036854775807}`,
		`{"status":"completed","percent":3}`, `{"disk_id":"\u0000","error_message":"\ud800"}`, `{"percent":5e-324}`,
	} {
		f.Add([]byte(b))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, id := range []string{"job-x", "job-x", "job-y", "job-web"} {
			r := httptest.NewRequestWithContext(t.Context(), http.MethodPost,
				"http://localhost/api/v1/progress/"+id+"/update", bytes.NewReader(b))
			rec := httptest.NewRecorder()
			h.ServeHTTP(rec, r)
			if rec.Code != http.StatusOK && rec.Code != http.StatusBadRequest &&
				(rec.Code != http.StatusConflict || id != "job-web") {
				t.Fatalf("%q for %s: %d %s", b, id, rec.Code, rec.Body)
			}
		}
		for _, path := range []string{
			"/api/v1/jobs", "/api/v1/progress/job-x", "/api/v1/jobs/job-y", "/metrics", "/api/v1/jobs/job-web",
		} {
			rec := httptest.NewRecorder()
			h.ServeHTTP(rec, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "http://localhost"+path, nil))
			switch body := rec.Body.Bytes(); {
			case rec.Code != http.StatusOK && rec.Code != http.StatusNotFound:
				t.Errorf("after %q: %s is answered with %d %s", b, path, rec.Code, body)
			case path != "/metrics" && !json.Valid(body):
				t.Errorf("after %q: %s is no JSON: %s", b, path, body)
			case path == "/api/v1/jobs/job-web" && !bytes.Equal(body, own):
				t.Errorf("after %q the job of this node is %s", b, body)
			}
		}
	})
}

func FuzzUpdatesAreReadOrRefusedAndNeverHoldImpossibleValues(f *testing.F) {
	for _, s := range []string{
		oldToolUpdate,
		`{}`, `null`, `[]`, `{} {}`, `{"percent":NaN}`, `{"percent":-1}`, `{"percent":1e999}`,
		`{"bytes_transferred":-1}`, `{"bytes_transferred":1.5}`,
		`{"PERCENT":7,"percent":8}`, `{"disk_id":"` + strings.Repeat("x", 200) + `"}`, `{"x":{"y":[null]}}`, "\xff",
		`{"stage":"\ud800"}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		u, err := apihttp.DecodeUpdate(b)
		if err != nil {
			if job.KindOf(err) != job.Invalid || err.Error() == "" {
				t.Errorf("%q: %v", b, err)
			}
			return
		}
		if !json.Valid(b) {
			t.Errorf("%q is not JSON and was read", b)
		}
		for _, n := range []*int64{u.BytesTransferred, u.TotalBytes} {
			if n != nil && *n < 0 {
				t.Errorf("%q: %d", b, *n)
			}
		}
		for _, n := range []*float64{u.Percent, u.ThroughputBPS} {
			if n != nil && (*n < 0 || math.IsNaN(*n) || math.IsInf(*n, 0)) {
				t.Errorf("%q: %v", b, *n)
			}
		}
		if len(u.DiskID) > 128 || len(u.Stage) > 128 {
			t.Errorf("%q is longer than allowed", b)
		}
	})
}

func FuzzJobRequestsAreReadOrRefused(f *testing.F) {
	w := newWorld()
	h, _ := w.server(f)
	for _, s := range []string{
		`{"vm":"a","mode":"full","targets":[{"disk":"disk-1","uri":"/x"}],"options":{"verify":"full","quiesce":false,` +
			`"bandwidth":"200MiB","cutover":"manual"}}`,
		`{"vm":"a","options":{"bandwidth":"1e9"}}`, `null`, `{"vm":null}`, `{"vm":"a"}{}`, `{"vm":"a","vm":"b"}`,
		`[[[[`, `{"vm":"\u0000"}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		status, answer := preflightOf(t, h, b)
		if status != http.StatusOK && status != 400 && status != 413 && status != 422 {
			t.Errorf("%q: %d %s", b, status, answer)
		}
		if !json.Valid(answer) {
			t.Errorf("%q: the answer is not JSON: %s", b, answer)
		}
	})
}

func preflightOf(tb testing.TB, h http.Handler, body []byte) (int, []byte) {
	tb.Helper()
	r := httptest.NewRequestWithContext(tb.Context(), http.MethodPost, "http://localhost/api/v1/preflight",
		bytes.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, r)
	return rec.Code, rec.Body.Bytes()
}
