package http_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	apihttp "github.com/vmferry/vmferry/http"
	"github.com/vmferry/vmferry/http/rest"
	"github.com/vmferry/vmferry/job"
)

// client sends a token, to the address that asks for one.
func (g *guarded) client(tb testing.TB, text string) *rest.Client {
	tb.Helper()
	c, err := rest.NewClient(g.base, rest.WithToken(job.NewSecret(text)))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(c.Close)
	return c
}

// wantCode checks the code of a refused request.
func wantCode(tb testing.TB, resp *http.Response, body []byte, status int, code string) rest.Problem {
	tb.Helper()
	var p rest.Problem
	if resp.Header.Get("Content-Type") == "application/problem+json" {
		p = decode[rest.Problem](tb, body)
	}
	if resp.StatusCode != status || p.Code != code || p.Next == "" {
		tb.Errorf("got %s %q (next %q), want %d %q", resp.Status, p.Code, p.Next, status, code)
	}
	return p
}

func TestATokenThatIsNotRightIsRefusedAndSaysWhatToDo(t *testing.T) {
	g := guard(t)
	right := g.text[job.Admin]
	for name, value := range map[string]string{
		"none":                 "",
		"an empty one":         "Bearer ",
		"only the word":        "Bearer",
		"another scheme":       "Basic " + right,
		"no scheme":            right,
		"a wrong one":          "Bearer " + right[:len(right)-1] + other(right[len(right)-1]),
		"a wrong id":           "Bearer vmf_AAAAAAAAAAAA" + right[16:],
		"one in small letters": "Bearer " + strings.ToLower(right),
		"one that is cut":      "Bearer " + right[:40],
		"one with more":        "Bearer " + right + "A",
		"10 KB":                "Bearer " + strings.Repeat("A", 10_000),
		"10 KB of a mark":      "Bearer " + strings.Repeat("vmf_", 2_500),
		"two":                  "Bearer " + right + "\nBearer " + right,
		"a list":               "Bearer " + right + ", Bearer " + right,
		"not ASCII":            "Bearer \u202evmf",
	} {
		header := map[string]string{"Authorization": value}
		if value == "" {
			header = nil
		}
		g.pass(time.Minute) // wrong tokens are few, so that none is refused for being one of many
		resp, body := talk(t, http.MethodGet, g.base+"/api/v1/jobs", "", header)
		p := wantCode(t, resp, body, 401, rest.CodeUnauthenticated)
		if resp.Header.Get("Www-Authenticate") == "" || len(body) > 600 {
			t.Errorf("%s: header %q, %d bytes", name, resp.Header.Get("Www-Authenticate"), len(body))
		}
		text := strings.TrimSpace(strings.TrimPrefix(value, "Bearer"))
		if len(text) > 8 && strings.Contains(p.Detail, text[:8]) {
			t.Errorf("%s: the answer quotes it: %s", name, p.Detail)
		}
	}
	for _, form := range []string{"Bearer ", "bearer ", "BEARER  "} {
		if resp, body := talk(t, http.MethodGet, g.base+"/api/v1/jobs", "", map[string]string{
			"Authorization": form + right,
		}); resp.StatusCode != http.StatusOK {
			t.Errorf("%q: %s %s", form, resp.Status, body)
		}
	}
}

func other(b byte) string {
	if b == 'A' {
		return "B"
	}
	return "A"
}

func TestATokenInAnAddressIsRefusedByName(t *testing.T) {
	var log logBuffer
	g := guard(t, func(o *apihttp.Options) { o.Log = slog.New(slog.NewTextHandler(&log, nil)) })
	right := g.text[job.Admin]
	for _, base := range []string{g.base, g.open} {
		for _, at := range []string{
			"/api/v1/jobs?token=" + right, "/api/v1/events?access_token=x", "/api/v1/jobs?a=1&API_KEY=x", "/?apikey=x",
			"/api/v1/jobs/" + right, "/api/v1/jobs?vm=" + right, "/api/v1/vms/" + right + "/cbt-status",
		} {
			resp, body := talk(t, http.MethodGet, base+at, "", bearerOf(right))
			wantCode(t, resp, body, 400, rest.CodeTokenInURL)
			if bytes.Contains(body, []byte(right)) {
				t.Errorf("%s: the answer has the token", at)
			}
		}
	}
	if strings.Contains(log.String(), right[10:]) {
		t.Errorf("the log has a token: %s", log.String())
	}
	if status, code := g.status(t, http.MethodGet, "/api/v1/jobs?vm=vmf_web", right); status != 200 {
		t.Errorf("a VM whose name begins like a token: %d %s", status, code)
	}
}

func TestOnlyADigestOfATokenIsKept(t *testing.T) {
	g := guard(t)
	made := g.create(t, "ops", job.Operator)
	kept, err := g.tokens.Tokens(t.Context())
	if err != nil || len(kept) != 4 {
		t.Fatal(kept, err)
	}
	secret := made.Text[strings.LastIndexByte(made.Text, '_')+1:]
	if text := fmt.Sprintf("%+v", kept); strings.Contains(text, secret) || len(secret) != 52 {
		t.Errorf("kept: %s", text)
	}
	_, list := talk(t, http.MethodGet, g.base+rest.TokensPath, "", bearerOf(g.text[job.Admin]))
	for _, tok := range kept {
		if bytes.Contains(list, []byte(tok.Hash)) || bytes.Contains(list, []byte(secret)) {
			t.Errorf("the list has a digest or a secret: %s", list)
		}
	}
	// Another daemon over the same journal, as after a restart.
	w := newWorld()
	_, s := w.server(t, func(o *apihttp.Options) { o.Tokens = g.tokens })
	if resp, body := talk(t, http.MethodGet, s.URL+"/api/v1/jobs", "",
		bearerOf(made.Text)); resp.StatusCode != http.StatusOK {
		t.Errorf("after a restart: %s %s", resp.Status, body)
	}
}

func TestATokenEndsWhenItExpires(t *testing.T) {
	g := guard(t)
	hour := int64(3600)
	made, err := g.client(t, g.text[job.Admin]).CreateToken(t.Context(),
		rest.TokenRequest{Name: "short", Role: job.Viewer, ExpiresInSeconds: &hour})
	if err != nil || made.ExpiresAt == nil || !made.ExpiresAt.Equal(g.clock().Add(time.Hour)) ||
		made.CreatedBy != "a admin from 127.0.0.1" {
		t.Fatalf("%+v, %v", made, err)
	}
	g.pass(time.Hour - time.Second)
	if status, code := g.status(t, http.MethodGet, "/api/v1/jobs", made.Text); status != 200 {
		t.Errorf("before its end: %d %s", status, code)
	}
	g.pass(time.Second)
	resp, body := talk(t, http.MethodGet, g.base+"/api/v1/jobs", "", bearerOf(made.Text))
	if p := wantCode(t, resp, body, 401, rest.CodeUnauthenticated); !strings.Contains(p.Detail, "expired at") {
		t.Errorf("%s", body)
	}
	again := g.create(t, "short", job.Viewer) // the name is free
	list, err := g.client(t, g.text[job.Admin]).Tokens(t.Context())
	if err != nil || len(list) != 4 || list[3].ID != again.ID {
		t.Errorf("%+v %v", list, err)
	}
	never := int64(0)
	for _, life := range []*int64{nil, &never} {
		made, err := g.client(t, g.text[job.Admin]).CreateToken(t.Context(),
			rest.TokenRequest{Name: fmt.Sprint("life ", life == nil), Role: job.Viewer, ExpiresInSeconds: life})
		if err != nil || (made.ExpiresAt == nil) != (life != nil) ||
			life == nil && !made.ExpiresAt.Equal(g.clock().Add(rest.StandardTokenLife)) {
			t.Errorf("%+v, %v", made, err)
		}
	}
}

func TestOfANameThereIsOneToken(t *testing.T) {
	g := guard(t)
	c := g.client(t, g.text[job.Admin])
	for _, r := range []rest.TokenRequest{
		{Name: "a viewer", Role: job.Admin},
		{Name: "x", Role: "root"},
		{Name: "", Role: job.Viewer},
		{Name: "a\u202eb", Role: job.Viewer},
		{Name: "a\x1b[2J", Role: job.Viewer},
		{Name: strings.Repeat("x", 81), Role: job.Viewer},
	} {
		_, err := c.CreateToken(t.Context(), r)
		k := job.KindOf(err)
		if k != job.Invalid && (k != job.Conflict || r.Name != "a viewer") || job.NextOf(err) == "" {
			t.Errorf("%+v: %v", r, err)
		}
	}
	if list, err := c.Tokens(t.Context()); err != nil || len(list) != 3 {
		t.Errorf("%d tokens, %v", len(list), err)
	}
}

// streamTo opens the event stream and waits for its first event. ended is closed when the stream ends.
func streamTo(tb testing.TB, base string, header map[string]string) (ended <-chan struct{}) {
	tb.Helper()
	req, err := http.NewRequestWithContext(tb.Context(), http.MethodGet, base+"/api/v1/events", http.NoBody)
	if err != nil {
		tb.Fatal(err)
	}
	for name, value := range header {
		req.Header.Set(name, value)
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		tb.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK {
		tb.Fatalf("the stream: %s", resp.Status)
	}
	lines := bufio.NewReader(resp.Body)
	if _, err := lines.ReadString('\n'); err != nil {
		tb.Fatal(err)
	}
	done := make(chan struct{})
	var reading sync.WaitGroup
	reading.Go(func() {
		defer close(done)
		_, _ = io.Copy(io.Discard, lines)
	})
	tb.Cleanup(func() {
		resp.Body.Close()
		reading.Wait()
	})
	return done
}

func wait(tb testing.TB, what string, done <-chan struct{}) {
	tb.Helper()
	select {
	case <-done:
	case <-time.After(time.Minute):
		tb.Fatalf("%s goes on", what)
	}
}

func TestARevokedTokenEndsAtOnceWithItsStreams(t *testing.T) {
	g := guard(t)
	made := g.create(t, "gone", job.Viewer)
	stays := streamTo(t, g.base, bearerOf(g.text[job.Viewer]))
	ended := streamTo(t, g.base, bearerOf(made.Text))
	admin := g.client(t, g.text[job.Admin])
	if err := admin.RevokeToken(t.Context(), made.ID); err != nil {
		t.Fatal(err)
	}
	wait(t, "the stream of a revoked token", ended)
	if status, code := g.status(t, http.MethodGet, "/api/v1/jobs", made.Text); status != 401 {
		t.Errorf("%d %s", status, code)
	}
	select {
	case <-stays:
		t.Error("the stream of another token has ended")
	default:
	}
	for _, id := range []string{made.ID, "none", "../jobs", strings.Repeat("x", 100)} {
		if err := admin.RevokeToken(t.Context(), id); job.KindOf(err) != job.NotFound {
			t.Errorf("revoked %q: %v", id, err)
		}
	}
	// An admin may end the token of this very request.
	own := g.create(t, "own", job.Admin)
	if err := g.client(t, own.Text).RevokeToken(t.Context(), own.ID); err != nil {
		t.Error(err)
	}
}

func TestAStreamEndsWhenItsTokenExpires(t *testing.T) {
	g := guard(t)
	second := int64(1)
	made, err := g.client(t, g.text[job.Admin]).CreateToken(t.Context(),
		rest.TokenRequest{Name: "short", Role: job.Viewer, ExpiresInSeconds: &second})
	if err != nil {
		t.Fatal(err)
	}
	wait(t, "the stream of an expired token", streamTo(t, g.base, bearerOf(made.Text)))
}

func TestTheLastUseOfATokenIsKeptAndARevokedOneDoesNotComeBack(t *testing.T) {
	g := guard(t)
	g.pass(time.Hour)
	at := g.clock()
	g.status(t, http.MethodGet, "/api/v1/jobs", g.text[job.Viewer])
	g.status(t, http.MethodGet, "/api/v1/jobs", g.text[job.Operator])
	list, err := g.client(t, g.text[job.Admin]).Tokens(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, tok := range list {
		if tok.LastUsedAt == nil || !tok.LastUsedAt.Equal(at) {
			t.Errorf("%+v", tok)
		}
	}
	for _, tok := range list {
		if tok.Role == job.Operator {
			if err := g.client(t, g.text[job.Admin]).RevokeToken(t.Context(), tok.ID); err != nil {
				t.Fatal(err)
			}
		}
	}
	g.h.SaveUses(t.Context())
	kept, _ := g.tokens.Tokens(t.Context())
	for _, k := range kept {
		if k.Role == job.Operator || !k.LastUsedAt.Equal(at) {
			t.Errorf("kept: %+v", k)
		}
	}
}

func TestATokenThatCannotBeStoredIsNotGiven(t *testing.T) {
	g := guard(t)
	g.tokens.fail = job.Errorf("change tokens", job.NoSpace, "Free space", "the disk is full")
	c := g.client(t, g.text[job.Admin])
	_, err := c.CreateToken(t.Context(), rest.TokenRequest{Name: "x", Role: job.Viewer})
	if job.KindOf(err) != job.NoSpace {
		t.Errorf("create: %v", err)
	}
	list, err := c.Tokens(t.Context())
	if err != nil || len(list) != 3 {
		t.Fatal(list, err)
	}
	if err := c.RevokeToken(t.Context(), list[0].ID); job.KindOf(err) != job.NoSpace {
		t.Errorf("revoke: %v", err)
	}
	if status, code := g.status(t, http.MethodGet, "/api/v1/jobs", g.text[job.Viewer]); status != 200 {
		t.Errorf("a token whose end is not durable: %d %s", status, code)
	}
	w := newWorld()
	_, err = apihttp.New(t.Context(), apihttp.Options{
		Reports: reports{w.memory}, Commands: w, Volumes: w, System: w, Tokens: g.tokens,
	})
	if job.KindOf(err) != job.NoSpace {
		t.Errorf("a daemon that cannot read its tokens: %v", err)
	}
}

// from answers a request as if it came from that address.
func (g *guarded) from(address, method, path string, header map[string]string) (resp *http.Response, body []byte) {
	r := httptest.NewRequestWithContext(context.Background(), method, path, http.NoBody)
	r.RemoteAddr, r.Host = address, "localhost"
	for name, value := range header {
		r.Header.Set(name, value)
	}
	w := httptest.NewRecorder()
	g.h.ServeHTTP(w, r)
	return w.Result(), w.Body.Bytes()
}

func TestWrongTokensAreLimitedButARightOneIsNot(t *testing.T) {
	var log logBuffer
	g := guard(t, func(o *apihttp.Options) { o.Log = slog.New(slog.NewTextHandler(&log, nil)) })
	wrong := bearerOf("vmf_AAAAAAAAAAAA_" + strings.Repeat("A", 52))
	const one, two = "192.0.2.1:1000", "192.0.2.2:1000"
	for i := range 10 {
		if resp, body := g.from(one, http.MethodGet, "/api/v1/jobs",
			wrong); resp.StatusCode != http.StatusUnauthorized {
			t.Fatalf("attempt %d: %s %s", i, resp.Status, body)
		}
	}
	logged := log.Len()
	resp, body := g.from("192.0.2.1:2000", http.MethodGet, "/api/v1/jobs", wrong)
	wantCode(t, resp, body, 429, rest.CodeTooManyAttempts)
	if resp.Header.Get("Retry-After") == "" || log.Len() != logged {
		t.Errorf("Retry-After %q, the log grew by %d", resp.Header.Get("Retry-After"), log.Len()-logged)
	}
	if resp, body := g.from(one, http.MethodGet, "/api/v1/jobs",
		bearerOf(g.text[job.Viewer])); resp.StatusCode != http.StatusOK {
		t.Errorf("a right token after wrong ones: %s %s", resp.Status, body)
	}
	if resp, body := g.from(two, http.MethodGet, "/api/v1/jobs", wrong); resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("another client: %s %s", resp.Status, body)
	}
	if resp, _ := g.from(one, http.MethodGet, "/api/v1/jobs", nil); resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("no token at all: %s", resp.Status)
	}
	g.pass(5 * time.Second)
	if resp, _ := g.from(one, http.MethodGet, "/api/v1/jobs", wrong); resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("after a pause: %s", resp.Status)
	}
}

func TestOneClientCannotTakeTheTimeOfOthers(t *testing.T) {
	g := guard(t, func(o *apihttp.Options) { o.RequestsPerSecond = 5 })
	ask := func(address, text string) int {
		resp, body := g.from(address, http.MethodGet, "/api/v1/jobs", bearerOf(text))
		if resp.StatusCode == http.StatusTooManyRequests {
			wantCode(t, resp, body, 429, rest.CodeTooManyRequests)
		}
		return resp.StatusCode
	}
	for i := range 10 {
		if got := ask(fmt.Sprintf("192.0.2.%d:1", i), g.text[job.Viewer]); got != 200 {
			t.Fatalf("request %d: %d", i, got)
		}
	}
	if got := ask("192.0.2.77:1", g.text[job.Viewer]); got != 429 {
		t.Errorf("a token that has asked enough: %d", got)
	}
	if got := ask("192.0.2.77:1", g.text[job.Operator]); got != 200 {
		t.Errorf("another token from the same address: %d", got)
	}
	g.pass(time.Second)
	if got := ask("192.0.2.77:1", g.text[job.Viewer]); got != 200 {
		t.Errorf("a second later: %d", got)
	}
	for range 40 {
		if resp, _ := g.from("[2001:db8::1]:1", http.MethodGet, "/livez",
			nil); resp.StatusCode == http.StatusTooManyRequests {
			if resp, _ := g.from("[2001:db8::2]:1", http.MethodGet, "/livez",
				nil); resp.StatusCode != http.StatusTooManyRequests {
				t.Error("an address of the same network counts for itself")
			}
			return
		}
	}
	t.Error("without a token one may ask without end")
}

func TestUpdatesOfOlderToolsNeedNoTokenOnThisMachineOnly(t *testing.T) {
	g := guard(t)
	for name, tc := range map[string]struct {
		from   string
		header map[string]string
		want   int
	}{
		"this machine":               {"127.0.0.1:5", nil, 400}, // the body is missing
		"this machine, IPv6":         {"[::1]:5", nil, 400},
		"another machine":            {"192.0.2.1:5", nil, 401},
		"another, with a token":      {"192.0.2.1:5", bearerOf(g.text[job.Operator]), 400},
		"another, a viewer":          {"192.0.2.1:5", bearerOf(g.text[job.Viewer]), 403},
		"a proxy on this machine":    {"127.0.0.1:5", map[string]string{"X-Forwarded-For": "192.0.2.9"}, 401},
		"a proxy of the other style": {"127.0.0.1:5", map[string]string{"Forwarded": "for=192.0.2.9"}, 401},
	} {
		resp, body := g.from(tc.from, http.MethodPost, "/api/v1/progress/job-x/update", tc.header)
		if resp.StatusCode != tc.want {
			t.Errorf("%s: %s %s", name, resp.Status, body)
		}
	}
	if resp, _ := g.from("127.0.0.1:5", http.MethodGet, "/api/v1/progress/job-web",
		nil); resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("reading from this machine: %s", resp.Status)
	}
}

func TestATokenIsNotSentInClear(t *testing.T) {
	token := rest.WithToken(job.NewSecret("vmf_x"))
	for address, ok := range map[string]bool{
		"https://vma.example.org": true, "http://127.0.0.1:8081": true, "http://[::1]:8081": true, "unix:/run/x": true,
		"http://localhost:1": true, "http://vma.example.org": false, "http://10.0.0.1:8081": false,
		"http://localhost.evil.example:1": false,
	} {
		c, err := rest.NewClient(address, token)
		if (err == nil) != ok || err != nil && (job.KindOf(err) != job.Invalid || job.NextOf(err) == "") {
			t.Errorf("%s: %v", address, err)
		}
		if c != nil {
			c.Close()
		}
	}
	var got []string
	there := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		got = append(got, r.Header.Get("Authorization"))
	}))
	defer there.Close()
	here := httptest.NewServer(http.RedirectHandler(there.URL, http.StatusFound))
	defer here.Close()
	c, err := rest.NewClient(here.URL, token)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.Alive(t.Context())
	if len(got) > 0 {
		t.Errorf("a token followed a redirect: %q", got)
	}
}

func TestTheUserAtTheOtherEndOfASocketIsKnown(t *testing.T) {
	var log logBuffer
	w := newWorld()
	h, _ := w.server(t, func(o *apihttp.Options) {
		o.Tokens, o.Log = newTokenStore(), slog.New(slog.NewTextHandler(&log, nil))
	})
	path := t.TempDir() + "/s"
	l, err := apihttp.ListenPrivate(path)
	if err != nil {
		t.Fatal(err)
	}
	server := apihttp.NewServer(h, discard())
	served := make(chan error, 1)
	go func() { served <- server.Serve(apihttp.Open(l)) }()
	c, err := rest.NewClient("unix:" + path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	made, err := c.CreateToken(t.Context(), rest.TokenRequest{Name: "first", Role: job.Admin})
	if err != nil || !strings.Contains(made.CreatedBy, "from uid ") {
		t.Errorf("%+v, %v", made, err)
	}
	_ = server.Close()
	if err := <-served; !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
	if !strings.Contains(log.String(), `from="uid `) || strings.Contains(log.String(), made.Text[20:]) {
		t.Errorf("log: %s", log.String())
	}
}
