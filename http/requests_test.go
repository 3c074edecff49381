package http_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	apihttp "github.com/vmferry/vmferry/http"
	"github.com/vmferry/vmferry/http/rest"
	"github.com/vmferry/vmferry/report"
)

// talk sends one request with its headers, and returns the answer with its body.
func talk(tb testing.TB, method, url, body string, header map[string]string) (resp *http.Response, text []byte) {
	tb.Helper()
	req, err := http.NewRequestWithContext(tb.Context(), method, url, strings.NewReader(body))
	if err != nil {
		tb.Fatal(err)
	}
	for name, value := range header {
		for line := range strings.SplitSeq(value, "\n") {
			req.Header.Add(name, line)
		}
	}
	resp, err = http.DefaultTransport.RoundTrip(req)
	if err != nil {
		tb.Fatal(err)
	}
	defer resp.Body.Close()
	return resp, readAll(tb, resp)
}

func TestABodyOfAnotherTypeIsRefused(t *testing.T) {
	_, base := goldenWorld(t)
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	if _, err := io.WriteString(z, `{"vm":"a"}`); err != nil || z.Close() != nil {
		t.Fatal(err)
	}
	const asJSON, form = "application/json", "application/x-www-form-urlencoded"
	for name, tc := range map[string]struct {
		path, kind, coding, body string
		status                   int
	}{
		"no type":                 {"/api/v1/jobs", "", "", `{"vm":"a"}`, 415},
		"a form":                  {"/api/v1/jobs", form, "", `{"vm":"a"}`, 415},
		"text":                    {"/api/v1/jobs", "text/json", "", `{"vm":"a"}`, 415},
		"another character set":   {"/api/v1/jobs", asJSON + "; charset=latin1", "", `{"vm":"a"}`, 415},
		"a broken type":           {"/api/v1/jobs", "application/json;;", "", `{"vm":"a"}`, 415},
		"gzip":                    {"/api/v1/jobs", asJSON, "gzip", packed.String(), 415},
		"gzip to preflight":       {"/api/v1/preflight", asJSON, "gzip", packed.String(), 415},
		"gzip from an older tool": {"/api/v1/progress/a/update", asJSON, "gzip", packed.String(), 415},
		"no type, an older tool":  {"/api/v1/progress/a/update", "", "", `{"percent":1}`, 200},
		"a form, an older tool":   {"/api/v1/progress/a/update", form, "", `{"percent":1}`, 200},
		"any case, an older tool": {"/api/v1/progress/a/update", asJSON, "", `{"Percent":1}`, 200},
		"the type in capitals": {
			"/api/v1/preflight", "Application/JSON; charset=UTF-8", "identity", `{"vm":"web"}`, 200,
		},
		"a name in capitals":       {"/api/v1/preflight", asJSON, "", `{"VM":"a"}`, 422},
		"a name with one capital":  {"/api/v1/preflight", asJSON, "", `{"vm":"a","Mode":"full"}`, 422},
		"a capital within options": {"/api/v1/preflight", asJSON, "", `{"vm":"a","options":{"Verify":"none"}}`, 422},
		"a letter that folds":      {"/api/v1/preflight", asJSON, "", "{\"vm\":\"a\",\"option\u017f\":{}}", 422},
		"an unknown name":          {"/api/v1/preflight", asJSON, "", `{"vm":"a","color":1}`, 422},
		"two cases of one name":    {"/api/v1/preflight", asJSON, "", `{"vm":"a","Vm":"b"}`, 422},
		"no body":                  {"/api/v1/jobs", asJSON, "", "", 400},
		"no body and no type":      {"/api/v1/jobs/job-web/pause", "", "", "", 202},
	} {
		t.Run(name, func(t *testing.T) {
			header := map[string]string{}
			if tc.kind != "" {
				header["Content-Type"] = tc.kind
			}
			if tc.coding != "" {
				header["Content-Encoding"] = tc.coding
			}
			resp, text := talk(t, http.MethodPost, base+tc.path, tc.body, header)
			if resp.StatusCode != tc.status {
				t.Fatalf("got %s, want %d: %s", resp.Status, tc.status, text)
			}
			if tc.coding == "gzip" && resp.Header.Get("Accept-Encoding") != "identity" {
				t.Error("the answer does not say which coding is taken")
			}
			if tc.status < 400 {
				return
			}
			p := decode[rest.Problem](t, text)
			if p.Status != tc.status || p.Next == "" && tc.status != 400 {
				t.Errorf("problem %+v", p)
			}
		})
	}
}

func TestOnlyTheTagOfTheReportIsUnmodified(t *testing.T) {
	w := newWorld()
	w.running(t, "job-web")
	_, s := w.server(t)
	r, err := w.memory.Report(t.Context(), "job-web")
	if err != nil {
		t.Fatal(err)
	}
	tag := `"` + r.Version().String() + `"`
	older := fmt.Sprintf(`"%s"`, report.Version{Epoch: r.Epoch, Seq: r.Seq - 1})
	for header, want := range map[string]int{
		tag: 304, "W/" + tag: 304, "*": 304, older + ", " + tag: 304, older + "," + tag: 304, older + "\n" + tag: 304,
		older: 200, "W/" + older: 200, `"x"`: 200, r.Version().String(): 200, tag[:len(tag)-1]: 200, `""`: 200,
		"x, y": 200,
	} {
		for _, path := range []string{
			"/api/v1/jobs/job-web", "/api/v1/jobs/job-web/disks", "/api/v1/jobs/job-web/phases",
			"/api/v1/jobs/job-web/rounds", "/api/v1/progress/job-web",
		} {
			resp, body := talk(t, http.MethodGet, s.URL+path, "", map[string]string{"If-None-Match": header})
			if resp.StatusCode != want || resp.Header.Get("Etag") != tag || want == 304 && len(body) > 0 {
				t.Errorf("%s with %q: %s, tag %s, %d bytes; want %d", path, header, resp.Status,
					resp.Header.Get("Etag"), len(body), want)
			}
		}
	}
	for header, want := range map[string]int{"W/" + tag: 412, older: 412, `"x"`: 412, older + "\n" + tag: 202} {
		resp, _ := talk(t, http.MethodPost, s.URL+"/api/v1/jobs/job-web/pause", "",
			map[string]string{"If-Match": header})
		if resp.StatusCode != want {
			t.Errorf("If-Match %q: %s, want %d", header, resp.Status, want)
		}
	}
}

func TestEachAddressAnswersEachMethod(t *testing.T) {
	_, base := goldenWorld(t)
	for _, tc := range []struct {
		method, path string
		status       int
		allow        string
	}{
		{"PUT", "/api/v1/jobs", 405, "GET, HEAD, POST, OPTIONS"},
		{"DELETE", "/livez", 405, "GET, HEAD, OPTIONS"},
		{"GET", "/api/v1/jobs/job-web/pause", 405, "POST, OPTIONS"},
		{"POST", "/metrics", 405, "GET, HEAD, OPTIONS"},
		{"TRACE", "/api/v1/jobs", 405, "GET, HEAD, POST, OPTIONS"},
		{"OPTIONS", "/api/v1/jobs/job-web", 204, "GET, HEAD, PATCH, DELETE, OPTIONS"},
		{"OPTIONS", "/api/v1/events", 204, "GET, HEAD, OPTIONS"},
		{"OPTIONS", "/nothing", 404, ""},
		{"HEAD", "/api/v1/jobs", 200, ""},
		{"HEAD", "/api/v1/jobs/job-web", 200, ""},
		{"HEAD", "/api/v1/events", 200, ""},
		{"HEAD", "/metrics", 200, ""},
		{"HEAD", "/openapi-3.0.json", 200, ""},
		{"HEAD", "/api/v1/jobs/none", 404, ""},
		{"GET", "/api/v1/jobs/", 404, ""},
		{"GET", "/api/v1/jobs/job-web/", 404, ""},
		{"GET", "//api/v1/jobs", 404, ""},
		{"GET", "/api/v2/jobs", 404, ""},
		{"GET", "/API/v1/jobs", 404, ""},
		{"POST", "/api/v1/nothing", 404, ""},
		{"GET", "/api/v1/jobs/job-web/nothing", 404, ""},
	} {
		resp, body := talk(t, tc.method, base+tc.path, "", nil)
		if resp.StatusCode != tc.status || resp.Header.Get("Allow") != tc.allow {
			t.Errorf("%s %s: %s, Allow %q; want %d, %q", tc.method, tc.path, resp.Status, resp.Header.Get("Allow"),
				tc.status, tc.allow)
		}
		if tc.method == "HEAD" && len(body) > 0 || tc.method != "HEAD" && tc.status >= 400 &&
			decode[rest.Problem](t, body).Status != tc.status {
			t.Errorf("%s %s: %q", tc.method, tc.path, body)
		}
		if kind := resp.Header.Get("Content-Type"); tc.status >= 400 && kind != "application/problem+json" {
			t.Errorf("%s %s: a %s", tc.method, tc.path, kind)
		}
	}
}

func TestAClientOfHTTP10IsAnswered(t *testing.T) {
	_, base := goldenWorld(t)
	c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", strings.TrimPrefix(base, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, "GET /api/v1/jobs HTTP/1.0\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(c) // ends: the server closes the connection
	if err != nil || !bytes.HasPrefix(b, []byte("HTTP/1.0 200 OK\r\n")) || !bytes.Contains(b, []byte("job-web")) {
		t.Errorf("%v, %.80q", err, b)
	}
}

// pipe is a listener whose one connection is a pipe in memory, so that time is virtual.
type pipe struct{ conns chan net.Conn }

func (p pipe) Accept() (net.Conn, error) {
	c, ok := <-p.conns
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}
func (p pipe) Close() error   { return nil }
func (p pipe) Addr() net.Addr { return &net.UnixAddr{Net: "unix"} }

func TestABodyThatDoesNotArriveIsGivenUpAfterFiveSeconds(t *testing.T) {
	for name, tc := range map[string]struct {
		path       string
		status     int
		afterFirst time.Duration
	}{
		"a job that never comes":     {"/api/v1/jobs", 408, time.Hour},
		"an update that never comes": {"/api/v1/progress/a/update", 408, time.Hour},
		"a job that is late":         {"/api/v1/preflight", 200, 4 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld()
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				h, err := apihttp.New(ctx, apihttp.Options{
					Reports: reports{w.memory}, Commands: w, Volumes: w, Source: source{}, System: w,
				})
				if err != nil {
					t.Fatal(err)
				}
				client, peer := net.Pipe()
				server, conns := apihttp.NewServer(h, discard()), make(chan net.Conn, 1)
				conns <- peer
				served := make(chan error, 1)
				go func() { served <- server.Serve(pipe{conns}) }()
				const body = `{"vm":"/DC0/vm/web"}`
				began := time.Now()
				_, err = fmt.Fprintf(client, "POST %s HTTP/1.1\r\nHost: localhost\r\n"+
					"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", tc.path, len(body), body[:5])
				if err != nil {
					t.Fatal(err)
				}
				go func() {
					select {
					case <-time.After(tc.afterFirst):
						_, _ = io.WriteString(client, body[5:])
					case <-ctx.Done():
					}
				}()
				resp, err := http.ReadResponse(bufio.NewReader(client), nil)
				if err != nil {
					t.Fatal(err)
				}
				took := time.Since(began)
				text, err := io.ReadAll(resp.Body)
				if err != nil || resp.StatusCode != tc.status || took > 6*time.Second {
					t.Errorf("%s after %v: %s, %v", resp.Status, took, text, err)
				}
				if tc.status == http.StatusRequestTimeout && (took != 5*time.Second ||
					decode[rest.Problem](t, text).Code != rest.CodeBodyTimeout) {
					t.Errorf("after %v: %s", took, text)
				}
				cancel()
				client.Close()
				h.Close()
				close(conns)
				_ = server.Close()
				<-served
			})
		})
	}
}
