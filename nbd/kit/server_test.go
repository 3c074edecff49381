package kit_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/nbd/kit"
)

func started(t *testing.T, e job.Export) *kit.Server {
	t.Helper()
	need(t, "nbdkit")
	s, err := kit.Serve(t.Context(), e, filepath.Join(shortDir(t), "x"), nil)
	check(t, err)
	t.Cleanup(func() { check(t, s.Stop(t.Context())) })
	return s
}

func TestAServedFileCanBeRead(t *testing.T) {
	want := disk(5 * mib)
	s := started(t, job.Export{
		Plugin: "file", Params: []job.Param{{Key: "file", Value: image(t, want)}},
		Filters: []string{"noextents"},
	})
	to := dirty(t, len(want))
	check(t, copyTo(t, s.URI(), to))
	same(t, content(t, to), want)
	err := copyTo(t, to, s.URI())
	wantKind(t, err, job.Permission)
	if err := s.Cause(err); err != nil {
		t.Errorf("a healthy server has a cause: %v", err)
	}
	pid := s.PID()
	check(t, s.Stop(t.Context()))
	check(t, s.Stop(t.Context()))
	<-s.Done()
	if err := syscall.Kill(pid, 0); err == nil {
		t.Errorf("process %d is still there", pid)
	}
}

func TestAServerThatRunsElsewhereIsOnlyNamed(t *testing.T) {
	s, err := kit.Serve(t.Context(), job.Export{URI: "nbd://host/x"}, "", nil)
	check(t, err)
	if s.URI() != "nbd://host/x" || s.PID() != 0 || s.Cause(io.EOF) != nil {
		t.Errorf("URI %q, PID %d, cause %v", s.URI(), s.PID(), s.Cause(io.EOF))
	}
	select {
	case <-s.Done():
		t.Error("it is done")
	default:
	}
	check(t, s.Stop(t.Context()))
	<-s.Done()
	_, err = kit.Serve(t.Context(), job.Export{URI: "http://host/x"}, "", nil)
	wantKind(t, err, job.Invalid)
}

// datastore serves a disk to who has the cookie.
func datastore(t *testing.T, b []byte, cookie *atomic.Value) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/folder/gone.vmdk" {
			http.NotFound(w, r)
			return
		}
		if r.Header.Get("Cookie") != cookie.Load() {
			http.Error(w, "log in first", http.StatusUnauthorized)
			return
		}
		http.ServeContent(w, r, "disk", time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), strings.NewReader(string(b)))
	}))
	t.Cleanup(s.Close)
	return s
}

func TestASecretIsNowhereToBeSeen(t *testing.T) {
	const secret = "vmware_soap_session=canary-4711"
	var cookie atomic.Value
	cookie.Store(secret)
	want := disk(3 * mib)
	web := datastore(t, want, &cookie)
	var words strings.Builder
	dir := filepath.Join(shortDir(t), "it's private")
	e := job.Export{Plugin: "curl", Options: []string{"-v"}, Params: []job.Param{
		{Key: "url", Value: web.URL + "/folder/disk.vmdk"},
		{Key: "cookie", Secret: job.NewSecret(secret), Renewed: true},
	}}
	need(t, "nbdkit")
	t.Setenv("http_proxy", "http://127.0.0.1:1")
	s, err := kit.Serve(t.Context(), e, dir, logTo(&words))
	check(t, err)
	to := dirty(t, len(want))
	check(t, copyTo(t, s.URI(), to))
	same(t, content(t, to), want)

	for _, name := range []string{"cmdline", "environ"} {
		if b := content(t, fmt.Sprintf("/proc/%d/%s", s.PID(), name)); strings.Contains(string(b), "canary") {
			t.Errorf("the secret stands in %s", name)
		}
	}
	files, err := filepath.Glob(dir + "/*")
	check(t, err)
	for _, f := range files {
		info, err := os.Stat(f)
		check(t, err)
		if info.Mode().Perm()&0o077 != 0 && info.Mode().IsRegular() &&
			strings.Contains(string(content(t, f)), "canary") {
			t.Errorf("others can read %s: %v", f, info.Mode())
		}
	}
	check(t, s.Renew("cookie", job.NewSecret("vmware_soap_session=canary-4712")))
	wantKind(t, s.Renew("url", job.NewSecret("x")), job.Invalid)
	cookie.Store("another")
	err = copyTo(t, s.URI(), to)
	cause := s.Cause(err)
	wantKind(t, cause, job.Auth)
	check(t, s.Stop(t.Context()))
	for _, told := range []string{words.String(), fmt.Sprint(cause), fmt.Sprint(s.Cause(err))} {
		if strings.Contains(told, "canary") {
			t.Errorf("the secret was told: %s", told)
		}
	}
	if left, _ := filepath.Glob(dir + "/*"); len(left) > 0 {
		t.Errorf("it left %v", left)
	}
}

func TestTheCauseOfAFailureIsKnown(t *testing.T) {
	var cookie atomic.Value
	cookie.Store("good")
	web := datastore(t, disk(mib), &cookie)
	url := func(u string) job.Param { return job.Param{Key: "url", Value: u} }
	tests := []struct {
		name   string
		params []job.Param
		want   job.Kind
	}{
		{"wrong cookie", []job.Param{
			url(web.URL + "/folder/disk.vmdk"),
			{Key: "cookie", Secret: job.NewSecret("bad"), Renewed: true},
		}, job.Auth},
		{"no such file", []job.Param{url(web.URL + "/folder/gone.vmdk")}, job.NotFound},
		{"no server there", []job.Param{url("http://127.0.0.1:1/x")}, job.Unavailable},
		{"no such host", []job.Param{url("http://nowhere.invalid/x")}, job.Unavailable},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			s := started(t, job.Export{Plugin: "curl", Params: tc.params})
			err := copyTo(t, s.URI(), "null:")
			if err == nil {
				t.Fatal("the copy succeeded")
			}
			cause := s.Cause(err)
			wantKind(t, cause, tc.want)
			if job.NextOf(cause) == "" {
				t.Errorf("no next step: %v", cause)
			}
		})
	}
}

func TestWhatIsMissingIsNamed(t *testing.T) {
	need(t, "nbdkit")
	tests := []struct {
		export job.Export
		want   string
	}{
		{job.Export{Plugin: "vddk"}, "nbdkit-plugin-vddk"},
		{job.Export{Plugin: "ruby-on-rails"}, "nbdkit-plugin-ruby-on-rails"},
		{job.Export{Plugin: "null", Filters: []string{"no-such-filter"}}, "nbdkit"},
	}
	for _, tc := range tests {
		dir := filepath.Join(shortDir(t), "x")
		_, err := kit.Serve(t.Context(), tc.export, dir, nil)
		wantKind(t, err, job.Missing)
		if !strings.Contains(job.NextOf(err), tc.want) {
			t.Errorf("next step %q does not name %s", job.NextOf(err), tc.want)
		}
	}
	t.Setenv("PATH", t.TempDir())
	_, err := kit.Serve(t.Context(), job.Export{Plugin: "null"}, filepath.Join(shortDir(t), "x"), nil)
	wantKind(t, err, job.Missing)
	if !strings.Contains(job.NextOf(err), "nbdkit") {
		t.Errorf("next step %q does not name the package", job.NextOf(err))
	}
}

func TestAFolderThatIsUnfitIsRefused(t *testing.T) {
	need(t, "nbdkit")
	e := job.Export{Plugin: "null"}
	long := filepath.Join(shortDir(t), strings.Repeat("x", 120))
	_, err := kit.Serve(t.Context(), e, long, nil)
	wantKind(t, err, job.Invalid)
	open := filepath.Join(shortDir(t), "open")
	check(t, os.Mkdir(open, 0o755))
	check(t, os.Chmod(open, 0o755))
	_, err = kit.Serve(t.Context(), e, open, nil)
	wantKind(t, err, job.Invalid)
	_, err = kit.Serve(t.Context(), job.Export{Plugin: "--run=id"}, filepath.Join(shortDir(t), "x"), nil)
	wantKind(t, err, job.Invalid)
	_, err = kit.Serve(t.Context(), job.Export{Plugin: "memory", Params: []job.Param{{Key: "--run", Value: "id"}}},
		filepath.Join(shortDir(t), "x"), nil)
	wantKind(t, err, job.Invalid)
}

func TestAServerThatIsKilledIsNoticed(t *testing.T) {
	s := started(t, job.Export{Plugin: "memory", Params: []job.Param{{Key: "size", Value: "1M"}}})
	check(t, syscall.Kill(s.PID(), syscall.SIGKILL))
	<-s.Done()
	err := s.Cause(copyOneByOne(t, s.URI(), "null:"))
	wantKind(t, err, job.Unavailable)
	if !strings.Contains(err.Error(), "killed") {
		t.Errorf("the error does not tell the signal: %v", err)
	}
}

func TestAHangingServerIsStoppedAllTheSame(t *testing.T) {
	s := started(t, job.Export{Plugin: "memory", Params: []job.Param{{Key: "size", Value: "1M"}}})
	check(t, syscall.Kill(s.PID(), syscall.SIGSTOP))
	check(t, s.Stop(t.Context()))
	<-s.Done()
}
