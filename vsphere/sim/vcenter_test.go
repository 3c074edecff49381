package sim_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/vsphere/sim"
)

const (
	mib      = 1 << 20
	password = "rehearsal secret"
)

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// image makes a raw image with a few bytes and otherwise holes.
func image(tb testing.TB, size int64) string {
	tb.Helper()
	f, err := os.Create(filepath.Join(tb.TempDir(), "disk.raw"))
	must(tb, err)
	must(tb, f.Truncate(size))
	_, err = f.WriteAt([]byte("first"), 0)
	must(tb, err)
	_, err = f.WriteAt([]byte("last"), size-4)
	must(tb, err)
	must(tb, f.Close())
	return f.Name()
}

func start(tb testing.TB, opt sim.Options) *sim.VCenter {
	tb.Helper()
	opt.Password = job.NewSecret(password)
	v, err := sim.Start(tb.Context(), opt)
	must(tb, err)
	tb.Cleanup(func() { must(tb, v.Close()) })
	return v
}

func oneVM(tb testing.TB, size int64) sim.Options {
	tb.Helper()
	return sim.Options{VMs: []sim.VM{{Name: "web", Disks: []string{image(tb, size)}}}}
}

func TestOptionsThatCannotWorkAreRefused(t *testing.T) {
	good := image(t, mib)
	odd := filepath.Join(t.TempDir(), "odd.raw")
	must(t, os.WriteFile(odd, make([]byte, 1000), 0o600))
	qcow := filepath.Join(t.TempDir(), "disk.qcow2")
	must(t, os.WriteFile(qcow, append([]byte("QFI\xfb"), make([]byte, 1020)...), 0o600))
	for name, tc := range map[string]struct {
		vms  []sim.VM
		word string
	}{
		"a VM without a name":      {[]sim.VM{{Disks: []string{good}}}, "name"},
		"a VM with a path":         {[]sim.VM{{Name: "a/b"}}, "name"},
		"two of one name":          {[]sim.VM{{Name: "a"}, {Name: "a"}}, "name"},
		"a disk that is not there": {[]sim.VM{{Name: "a", Disks: []string{"/nowhere.raw"}}}, "nowhere.raw"},
		"a disk of an odd size":    {[]sim.VM{{Name: "a", Disks: []string{odd}}}, "512"},
		"a disk in another format": {[]sim.VM{{Name: "a", Disks: []string{qcow}}}, "qcow2"},
		"a directory for a disk":   {[]sim.VM{{Name: "a", Disks: []string{t.TempDir()}}}, "raw"},
		"an unknown way to be unfit": {
			[]sim.VM{{Name: "a", Disks: []string{good}, Unfit: map[int]string{0: "tired"}}}, "tired",
		},
	} {
		_, err := sim.Start(t.Context(), sim.Options{VMs: tc.vms, Password: job.NewSecret(password)})
		if job.KindOf(err) != job.Invalid || !strings.Contains(err.Error(), tc.word) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := sim.Start(t.Context(), sim.Options{}); job.KindOf(err) != job.Invalid {
		t.Errorf("without a password: %v", err)
	}
	opt := sim.Options{Password: job.NewSecret("x"), Listen: "nowhere"}
	if _, err := sim.Start(t.Context(), opt); job.KindOf(err) != job.Invalid {
		t.Errorf("without a port: %v", err)
	}
	v := start(t, oneVM(t, mib))
	opt.Listen = strings.TrimSuffix(strings.TrimPrefix(v.URL(), "https://"), "/sdk")
	if _, err := sim.Start(t.Context(), opt); job.KindOf(err) != job.Unavailable {
		t.Errorf("an address that is taken: %v", err)
	}
}

func TestABigImageWithHolesStartsAtOnceAndStaysSparse(t *testing.T) {
	const size = 1 << 40
	began := time.Now()
	v := start(t, oneVM(t, size))
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
	d := v.State().VMs[0].Disks[0]
	if d.Capacity != size || d.Allocated > 2*sim.BlockSize {
		t.Errorf("capacity %d, allocated %d", d.Capacity, d.Allocated)
	}
	p := make([]byte, 4)
	must(t, v.GuestRead("web", "disk-2000", size-4, p))
	if string(p) != "last" {
		t.Errorf("its end reads %q", p)
	}
}

func TestInPlaceTheGuestChangesTheImageAndElseACopy(t *testing.T) {
	for _, inPlace := range []bool{false, true} {
		opt := oneVM(t, mib)
		opt.InPlace, opt.Dir = inPlace, t.TempDir()
		v := start(t, opt)
		must(t, v.GuestWrite("web", "disk-2000", 0, []byte("FIRST")))
		got, err := os.ReadFile(opt.VMs[0].Disks[0])
		must(t, err)
		if changed := string(got[:5]) == "FIRST"; changed != inPlace {
			t.Errorf("in place %v, and the image begins with %q", inPlace, got[:5])
		}
		_, err = sim.Start(t.Context(), sim.Options{Password: job.NewSecret("x"), VMs: opt.VMs, Dir: opt.Dir})
		if job.KindOf(err) != job.Invalid {
			t.Errorf("a directory that another uses: %v", err)
		}
		must(t, v.Close())
		left, err := os.ReadDir(opt.Dir)
		must(t, err)
		if len(left) > 0 {
			t.Errorf("left in the directory: %v", left)
		}
		if _, err := os.Stat(opt.VMs[0].Disks[0]); err != nil {
			t.Errorf("the image is gone: %v", err)
		}
	}
}

func TestTheGuestCannotWriteBeyondTheEndOrElsewhere(t *testing.T) {
	v := start(t, oneVM(t, mib))
	for _, tc := range []struct {
		vm   string
		disk job.DiskID
		off  int64
		kind job.Kind
	}{
		{"web", "disk-2000", mib - 1, job.Invalid},
		{"web", "disk-2000", -1, job.Invalid},
		{"web", "disk-2001", 0, job.NotFound},
		{"db", "disk-2000", 0, job.NotFound},
	} {
		if err := v.GuestWrite(tc.vm, tc.disk, tc.off, []byte("xy")); job.KindOf(err) != tc.kind {
			t.Errorf("%+v: %v", tc, err)
		}
		if err := v.GuestScribble(tc.vm, tc.disk, tc.off, 2, 1); job.KindOf(err) != tc.kind {
			t.Errorf("%+v: %v", tc, err)
		}
	}
	if _, err := v.FrozenReader("web", "snapshot-1", "disk-2000"); job.KindOf(err) != job.NotFound {
		t.Errorf("a snapshot that is not there: %v", err)
	}
	r, err := v.FrozenReader("/DC0/vm/web", "", "disk-2000")
	must(t, err)
	if n, err := r.ReadAt(make([]byte, 10), mib-4); n != 4 || !errors.Is(err, io.EOF) {
		t.Errorf("reading over the end: %d, %v", n, err)
	}
}

func TestGuestsCanWriteFromManyPlacesAtOnce(t *testing.T) {
	v := start(t, oneVM(t, 4*mib))
	var wg sync.WaitGroup
	for i := range int64(8) {
		wg.Go(func() {
			for j := range int64(20) {
				if err := v.GuestWrite("web", "disk-2000", i*100_000+j*3_000,
					bytes.Repeat([]byte{byte(i + 1)}, 3000)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	p := make([]byte, 8*100_000)
	must(t, v.GuestRead("web", "disk-2000", 0, p))
	for i := range 8 {
		if p[i*100_000] != byte(i+1) || p[i*100_000+59_999] != byte(i+1) {
			t.Errorf("writer %d is not everywhere", i)
		}
	}
}

// ask sends a request to the rehearsal routes.
func ask(t *testing.T, v *sim.VCenter, method, path, body, user string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(context.WithoutCancel(t.Context()), method,
		strings.TrimSuffix(v.URL(), "/sdk")+path, strings.NewReader(body))
	must(t, err)
	if user != "" {
		req.SetBasicAuth(user, password)
	}
	client := &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true,
	}}
	res, err := client.Do(req)
	must(t, err)
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	must(t, err)
	return res.StatusCode, string(text)
}

func TestTheRehearsalVCenterIsControlledOverHTTP(t *testing.T) {
	v := start(t, oneVM(t, mib))
	get := func(path string) string {
		status, text := ask(t, v, http.MethodGet, path, "", v.User())
		if status != http.StatusOK {
			t.Fatalf("%s: %d %s", path, status, text)
		}
		return text
	}
	before := get("/rehearsal/image?vm=web&disk=disk-2000")
	if len(before) != mib || !strings.HasPrefix(before, "first") {
		t.Fatalf("the image has %d bytes and begins with %q", len(before), before[:8])
	}
	write := `{"vm":"web","disk":"disk-2000","offset":70000,"length":5000,"seed":7}`
	if status, text := ask(t, v, http.MethodPost, "/rehearsal/write", write, v.User()); status != http.StatusOK {
		t.Fatalf("write: %d %s", status, text)
	}
	scribbled := get("/rehearsal/image?vm=web&disk=disk-2000")
	if scribbled[:70000] != before[:70000] || scribbled[70000:75000] == before[70000:75000] ||
		scribbled[75000:] != before[75000:] {
		t.Error("other bytes were written")
	}
	_, _ = ask(t, v, http.MethodPost, "/rehearsal/write", write, v.User())
	if get("/rehearsal/image?vm=web&disk=disk-2000") != scribbled {
		t.Error("the same seed writes other bytes")
	}
	write = `{"vm":"web","disk":"disk-2000","offset":3,"data_base64":"SGVsbG8="}`
	if status, text := ask(t, v, http.MethodPost, "/rehearsal/write", write, v.User()); status != http.StatusOK {
		t.Fatalf("write: %d %s", status, text)
	}
	if got := get("/rehearsal/image?vm=web&disk=disk-2000")[:8]; got != "firHello" {
		t.Errorf("it begins with %q", got)
	}
	fault := `{"kind":"task_slow","op":"CreateSnapshot_Task","delay":"1.5s","count":3}`
	if status, text := ask(t, v, http.MethodPost, "/rehearsal/fault", fault, v.User()); status != http.StatusOK {
		t.Fatalf("fault: %d %s", status, text)
	}
	var state sim.State
	must(t, json.Unmarshal([]byte(get("/rehearsal/state")), &state))
	if len(state.Faults) != 1 || state.Faults[0].Count != 3 || state.VMs[0].Disks[0].Image == "" ||
		state.Thumbprint != v.Thumbprint() {
		t.Errorf("state %+v", state)
	}
	reset := `{"vm":"web"}`
	if status, text := ask(t, v, http.MethodPost, "/rehearsal/reset-cbt", reset, v.User()); status != http.StatusOK {
		t.Errorf("reset-cbt: %d %s", status, text)
	}
	_, text := ask(t, v, http.MethodDelete, "/rehearsal/fault", "", v.User())
	if !strings.Contains(text, `"faults": []`) {
		t.Errorf("faults are left: %s", text)
	}
}

func TestRequestsWithoutLoginAndWrongRequestsAreRefused(t *testing.T) {
	v := start(t, oneVM(t, mib))
	for _, tc := range []struct {
		method, path, body, user string
		status                   int
	}{
		{http.MethodGet, "/rehearsal/state", "", "", http.StatusUnauthorized},
		{http.MethodGet, "/rehearsal/state", "", "stranger", http.StatusUnauthorized},
		{http.MethodPost, "/rehearsal/write", `{}`, "", http.StatusUnauthorized},
		{http.MethodGet, "/folder/web/web-flat.vmdk?dcPath=DC0&dsName=LocalDS_0", "", "", http.StatusUnauthorized},
		// the VM writes to it
		{http.MethodGet, "/folder/web/web-flat.vmdk?dcPath=DC0&dsName=LocalDS_0", "", v.User(), http.StatusNotFound},
		{http.MethodGet, "/folder/../../etc/passwd?dcPath=DC0&dsName=LocalDS_0", "", v.User(), http.StatusNotFound},
		{http.MethodPut, "/folder/web/new", "x", v.User(), http.StatusForbidden},
		{http.MethodGet, "/rehearsal/image?vm=web&disk=disk-9", "", v.User(), http.StatusNotFound},
		{
			http.MethodGet, "/rehearsal/image?vm=web&disk=disk-2000&snapshot=snapshot-9", "",
			v.User(), http.StatusNotFound,
		},
		{
			http.MethodPost, "/rehearsal/write", `{"vm":"web","disk":"disk-2000","offset":0,"length":0}`,
			v.User(), http.StatusBadRequest,
		},
		{
			http.MethodPost, "/rehearsal/write", `{"vm":"web","disk":"disk-2000","offset":1048570,"length":100}`,
			v.User(), http.StatusBadRequest,
		},
		{
			http.MethodPost, "/rehearsal/write", `{"vm":"web","disk":"disk-2000","offset":0,"data_base64":"%"}`,
			v.User(), http.StatusBadRequest,
		},
		{http.MethodPost, "/rehearsal/write", `{"vm":"web","unknown":1}`, v.User(), http.StatusBadRequest},
		{http.MethodPost, "/rehearsal/write", `{} {}`, v.User(), http.StatusBadRequest},
		{http.MethodPost, "/rehearsal/write", `null`, v.User(), http.StatusBadRequest},
		{http.MethodPost, "/rehearsal/reset-cbt", `{"vm":"db"}`, v.User(), http.StatusNotFound},
		{http.MethodPost, "/rehearsal/fault", `{"kind":"flood"}`, v.User(), http.StatusBadRequest},
		{http.MethodPost, "/rehearsal/fault", `{"kind":"task","fault":"NoSuchFault"}`, v.User(), http.StatusBadRequest},
		{http.MethodPost, "/rehearsal/fault", `{"kind":"task","fault":"VirtualDisk"}`, v.User(), http.StatusBadRequest},
		{http.MethodPost, "/rehearsal/fault", `{"kind":"status","status":200}`, v.User(), http.StatusBadRequest},
		{http.MethodPost, "/rehearsal/fault", `{"kind":"task_slow","delay":"soon"}`, v.User(), http.StatusBadRequest},
	} {
		if status, text := ask(t, v, tc.method, tc.path, tc.body, tc.user); status != tc.status {
			t.Errorf("%s %s %s as %q: %d, want %d: %s", tc.method, tc.path, tc.body, tc.user, status, tc.status, text)
		}
	}
	status, text := ask(t, v, http.MethodPost, "/rehearsal/fault", `{"kind":"flood"}`, v.User())
	if !strings.Contains(text, "empty_pages") {
		t.Errorf("the answer does not name the kinds: %d %s", status, text)
	}
}

// TestSeveralStartAtTheSameTime is for the race detector: the simulator keeps its standard settings only once.
func TestSeveralStartAtTheSameTime(t *testing.T) {
	t.Parallel()
	for i := range 4 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			for range 3 {
				if v := start(t, oneVM(t, mib)); v.URL() == "" {
					t.Error("it has no address")
				}
			}
		})
	}
}
