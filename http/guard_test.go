package http_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	apihttp "github.com/vmferry/vmferry/http"
	"github.com/vmferry/vmferry/http/rest"
	"github.com/vmferry/vmferry/job"
)

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

func readAll(tb testing.TB, resp *http.Response) []byte {
	tb.Helper()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

func post(tb testing.TB, url string, body io.Reader) (status int, p rest.Problem) {
	tb.Helper()
	req, err := http.NewRequestWithContext(tb.Context(), http.MethodPost, url, body)
	if err != nil {
		tb.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		tb.Fatal(err)
	}
	defer resp.Body.Close()
	b := readAll(tb, resp)
	if len(b) > 4096 {
		tb.Errorf("the answer to a bad request has %d bytes", len(b))
	}
	if resp.StatusCode < http.StatusBadRequest {
		return resp.StatusCode, p
	}
	return resp.StatusCode, decode[rest.Problem](tb, b)
}

func TestBodiesThatWouldCostTooMuchAreRefused(t *testing.T) {
	w := newWorld()
	_, s := w.server(t)
	big := strings.Repeat("x", 1<<20)
	for _, tc := range []struct {
		name, body string
		status     int
		code       string
	}{
		{"more than 1 MiB", `{"vm":"` + big + `"}`, 413, "body_too_large"},
		{"a long name below the limit", `{"vm":"` + big[:1<<19] + `"}`, 422, "invalid"},
		{"a very deep value", strings.Repeat("[", 500_000), 400, "body_syntax"},
		{"a very long list", `{"vm":"a","targets":[` + strings.Repeat("1,", 400_000) + `1]}`, 400, "body_syntax"},
		{"text that is not UTF-8", "{\"vm\":\"\xff\"}", 400, "body_syntax"},
		{"a number that is no integer", `{"vm":"a","options":{"bandwidth":1.5}}`, 422, "invalid"},
		{"a number that does not fit", `{"vm":"a","options":{"bandwidth":99999999999999999999}}`, 422, "invalid"},
		{"a size that does not fit", `{"vm":"a","options":{"bandwidth":"99999999TiB"}}`, 422, "invalid"},
		{"control characters in a name", `{"vm":"a\u0007b"}`, 422, "invalid"},
	} {
		for _, path := range []string{"/api/v1/jobs", "/api/v1/preflight"} {
			status, p := post(t, s.URL+path, strings.NewReader(tc.body))
			if status != tc.status || p.Code != tc.code || p.Status != tc.status {
				t.Errorf("%s to %s: got %d %q (%s), want %d %q", tc.name, path, status, p.Code, p.Detail, tc.status,
					tc.code)
			}
		}
	}
	if status, p := post(t, s.URL+"/api/v1/progress/job-x/update",
		strings.NewReader(`{"stage":"`+big+`"}`)); status != http.StatusRequestEntityTooLarge {
		t.Errorf("a large update: got %d %q", status, p.Code)
	}
	if all, err := w.memory.Reports(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("%d jobs were made, %v", len(all), err)
	}
}

// endless is a body that never ends.
type endless struct{ sent atomic.Int64 }

func (e *endless) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = ' '
	}
	e.sent.Add(int64(len(b)))
	return len(b), nil
}

func TestABodyWithoutEndIsCutOff(t *testing.T) {
	w := newWorld()
	_, s := w.server(t)
	body := &endless{}
	status, p := post(t, s.URL+"/api/v1/jobs", body)
	if status != http.StatusRequestEntityTooLarge || p.Code != "body_too_large" {
		t.Errorf("got %d %q", status, p.Code)
	}
	if n := body.sent.Load(); n > 64<<20 {
		t.Errorf("%d bytes were taken", n)
	}
}

func TestHeadersThatComeTooSlowlyOrAreTooManyEndTheConnection(t *testing.T) {
	w := newWorld()
	h, _ := w.server(t)
	server := apihttp.NewServer(h, discard())
	server.ReadHeaderTimeout = 200 * time.Millisecond
	l, err := apihttp.Listen("localhost:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	talk := func(text string) string {
		c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_, _ = io.WriteString(c, text)
		_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
		b, err := io.ReadAll(c)
		var late net.Error
		if errors.As(err, &late) && late.Timeout() {
			t.Error("the connection is still open")
		}
		return string(b)
	}
	talk("GET /livez HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
	if got := talk("GET /livez HTTP/1.1\r\nHost: localhost\r\n" + strings.Repeat("X-Many: 1234567890\r\n", 5000) +
		"\r\n"); !strings.Contains(got, " 431 ") {
		t.Errorf("got %.60q, want 431", got)
	}
	if err := server.Close(); err != nil {
		t.Error(err)
	}
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		t.Error(err)
	}
}

func TestEveryAnswerHasTheHeadersThatProtectABrowser(t *testing.T) {
	_, base := goldenWorld(t)
	for _, path := range []string{"/", "/docs", "/api/v1/jobs", "/livez"} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, base+path, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.Header.Get("X-Content-Type-Options") != "nosniff" ||
			!strings.Contains(resp.Header.Get("Content-Security-Policy"), "default-src 'self'") {
			t.Errorf("%s: %v", path, resp.Header)
		}
	}
}

func TestOnlyKnownHostNamesAreAnswered(t *testing.T) {
	w := newWorld()
	_, s := w.server(t, func(o *apihttp.Options) { o.Hosts = []string{"vma.example"} })
	for host, want := range map[string]int{
		"localhost": 200, "LOCALHOST:9081": 200, "127.0.0.1": 200, "127.8.8.8:1": 200, "[::1]:8081": 200,
		"vma.example:8081": 200, "evil.example": 421, "127.0.0.1.evil.example": 421, "10.0.0.1": 421,
		"localhost.evil.example:80": 421,
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL+"/livez", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = host
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("Host %s: %d, want %d", host, resp.StatusCode, want)
		}
	}
}

type panicking struct{ apihttp.System }

func TestAPanicIsAnAnswerAndALogLine(t *testing.T) {
	w := newWorld()
	var log bytes.Buffer
	_, s := w.server(t, func(o *apihttp.Options) {
		o.System, o.Log = panicking{}, slog.New(slog.NewTextHandler(&log, nil))
	})
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL+"/readyz", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	p := decode[rest.Problem](t, readAll(t, resp))
	s.Close()
	if resp.StatusCode != http.StatusInternalServerError || p.Code != "internal" ||
		!strings.Contains(log.String(), "request handler panicked") {
		t.Errorf("got %s %+v, log %q", resp.Status, p, log.String())
	}
}

func TestOnlyLoopbackAndSocketsAreServed(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for addr, want := range map[string]job.Kind{
		"0.0.0.0:0": job.Invalid, ":0": job.Invalid, "192.0.2.1:80": job.Invalid, "example.com:80": job.Invalid,
		"no-port": job.Invalid, "unix:": job.Invalid, "unix:" + file: job.Conflict,
		"unix:" + dir + strings.Repeat("/x", 80): job.Invalid, "unix:" + dir + "/none/s": job.Unavailable,
		"127.0.0.1:0": "", "[::1]:0": "", "localhost:0": "", "unix:" + dir + "/s": "",
	} {
		l, err := apihttp.Listen(addr)
		if got := job.KindOf(err); got != want {
			if addr == "[::1]:0" && got == job.Unavailable {
				continue // this machine has no IPv6
			}
			t.Errorf("Listen(%q): %v (%s), want kind %q", addr, err, got, want)
		}
		if want != "" && job.NextOf(err) == "" {
			t.Errorf("Listen(%q) has no next step: %v", addr, err)
		}
		if l != nil {
			l.Close()
		}
	}
}

func TestASocketOfAKilledDaemonIsReplacedAndOneInUseIsNot(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := apihttp.Listen("unix:" + path)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("socket: %v %v", info, err)
	}
	if _, err := apihttp.Listen("unix:" + path); job.KindOf(err) != job.Conflict {
		t.Errorf("a socket in use: %v", err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false) // as after kill -9
	l.Close()
	again, err := apihttp.Listen("unix:" + path)
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
}

func TestEveryKindOfErrorHasItsStatusAndComesBackAsItself(t *testing.T) {
	for _, k := range []job.Kind{
		job.Internal, job.Invalid, job.NotFound, job.Conflict, job.Auth, job.Permission, job.Unavailable, job.Timeout,
		job.IO, job.NoSpace, job.Corrupt, job.Unsupported, job.CBTInvalid, job.Cancelled, job.Missing,
	} {
		w := newWorld()
		_, s := w.server(t, func(o *apihttp.Options) { o.Source = failing{k} })
		c, err := rest.NewClient(s.URL)
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.Preflight(t.Context(), webSpec())
		c.Close()
		if job.KindOf(err) != k || job.NextOf(err) != "Do this" || !strings.Contains(err.Error(), "the cause") {
			t.Errorf("%s came back as %s: %v (%s)", k, job.KindOf(err), err, job.NextOf(err))
		}
	}
}

type failing struct{ kind job.Kind }

func (f failing) err() error {
	return fmt.Errorf("outer: %w", job.Errorf("look", f.kind, "Do this", "the cause"))
}

func (failing) VMs(context.Context) ([]job.ListedVM, []string, error) {
	return nil, nil, job.Errorf("list VMs", job.Unavailable, "", "the vCenter is away")
}

func (f failing) Inspect(context.Context, string) (job.VM, error) { return job.VM{}, f.err() }

func (f failing) Preflight(context.Context, job.Spec) ([]rest.Check, error) { return nil, f.err() }
