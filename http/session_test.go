package http_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	apihttp "github.com/vmferry/vmferry/http"
	"github.com/vmferry/vmferry/http/rest"
	"github.com/vmferry/vmferry/job"
)

// login logs in as a browser on the daemon's own page does, and returns the cookie.
func (g *guarded) login(tb testing.TB, token string) *http.Cookie {
	tb.Helper()
	resp, body := talk(tb, http.MethodPost, g.base+rest.SessionPath, fmt.Sprintf(`{"token":%q}`, token),
		map[string]string{"Content-Type": "application/json", "Sec-Fetch-Site": "same-origin"})
	if resp.StatusCode != http.StatusOK || len(resp.Cookies()) != 1 {
		tb.Fatalf("%s %s, %d cookies", resp.Status, body, len(resp.Cookies()))
	}
	if bytes.Contains(body, []byte("vmf_")) {
		tb.Errorf("the answer has a token: %s", body)
	}
	return resp.Cookies()[0]
}

func cookieOf(c *http.Cookie) map[string]string {
	return map[string]string{"Cookie": c.Name + "=" + c.Value, "Sec-Fetch-Site": "same-origin"}
}

func TestALoginHasTheRightsOfItsTokenAndEndsByALogout(t *testing.T) {
	g := guard(t)
	c := g.login(t, g.text[job.Operator])
	if !c.HttpOnly || c.SameSite != http.SameSiteStrictMode || c.Path != "/" || c.Secure || c.Domain != "" ||
		!c.Expires.Equal(g.clock().Add(12*time.Hour)) || c.Value == g.text[job.Operator] {
		t.Errorf("cookie %+v", c)
	}
	_, body := talk(t, http.MethodGet, g.base+rest.SessionPath, "", cookieOf(c))
	if s := decode[rest.Session](t, body); s.Open || s.Name != "a operator" || s.Role != job.Operator ||
		s.ExpiresAt == nil || !s.ExpiresAt.Equal(g.clock().Add(12*time.Hour)) {
		t.Errorf("%s", body)
	}
	for path, want := range map[string]int{"job-web/pause": 202, "job-web/disks/disk-2000/panic": 403} {
		resp, body := talk(t, http.MethodPost, g.base+"/api/v1/jobs/"+path, "", cookieOf(c))
		if resp.StatusCode != want {
			t.Errorf("%s: %s %s", path, resp.Status, body)
		}
	}
	stream := streamTo(t, g.base, cookieOf(c))
	resp, _ := talk(t, http.MethodDelete, g.base+rest.SessionPath, "", cookieOf(c))
	if resp.StatusCode != http.StatusNoContent || len(resp.Cookies()) != 1 || resp.Cookies()[0].MaxAge >= 0 {
		t.Errorf("logout: %s, %v", resp.Status, resp.Cookies())
	}
	wait(t, "the stream of a login that has ended", stream)
	resp, body = talk(t, http.MethodGet, g.base+rest.SessionPath, "", cookieOf(c))
	wantCode(t, resp, body, 401, rest.CodeUnauthenticated)
	if status, code := g.status(t, http.MethodGet, "/api/v1/jobs", g.text[job.Operator]); status != 200 {
		t.Errorf("the token itself: %d %s", status, code)
	}
	resp, _ = talk(t, http.MethodDelete, g.base+rest.SessionPath, "", nil)
	if resp.StatusCode != http.StatusNoContent {
		t.Errorf("a logout without a login: %s", resp.Status)
	}
}

func TestALoginEndsWithItsTokenAtTheLatest(t *testing.T) {
	g := guard(t)
	hour := int64(3600)
	made, err := g.client(t, g.text[job.Admin]).CreateToken(t.Context(),
		rest.TokenRequest{Name: "short", Role: job.Viewer, ExpiresInSeconds: &hour})
	if err != nil {
		t.Fatal(err)
	}
	short := g.login(t, made.Text)
	if !short.Expires.Equal(g.clock().Add(time.Hour)) {
		t.Errorf("it ends at %v", short.Expires)
	}
	gone := g.create(t, "gone", job.Admin)
	session := g.login(t, gone.Text)
	stream := streamTo(t, g.base, cookieOf(session))
	if err := g.client(t, g.text[job.Admin]).RevokeToken(t.Context(), gone.ID); err != nil {
		t.Fatal(err)
	}
	wait(t, "the stream of a login whose token was revoked", stream)
	g.pass(time.Hour)
	for name, c := range map[string]*http.Cookie{"revoked": session, "expired": short} {
		resp, body := talk(t, http.MethodGet, g.base+"/api/v1/jobs", "", cookieOf(c))
		wantCode(t, resp, body, 401, rest.CodeUnauthenticated)
		if len(resp.Cookies()) != 1 || resp.Cookies()[0].MaxAge >= 0 {
			t.Errorf("%s: the browser keeps the cookie: %v", name, resp.Cookies())
		}
	}
}

func TestALoginIsNoTokenAndATokenIsNoLogin(t *testing.T) {
	g := guard(t)
	c := g.login(t, g.text[job.Admin])
	if status, _ := g.status(t, http.MethodGet, "/api/v1/jobs", c.Value); status != 401 {
		t.Errorf("a login in the header Authorization: %d", status)
	}
	resp, _ := talk(t, http.MethodGet, g.base+"/api/v1/jobs", "",
		cookieOf(&http.Cookie{Name: c.Name, Value: g.text[job.Admin]}))
	if resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("a token in a cookie: %s", resp.Status)
	}
	for _, token := range []string{"", c.Value, "x", strings.Repeat("A", 10_000), g.text[job.Admin] + " "} {
		g.pass(time.Minute)
		resp, body := talk(t, http.MethodPost, g.base+rest.SessionPath, fmt.Sprintf(`{"token":%q}`, token),
			map[string]string{"Content-Type": "application/json"})
		wantCode(t, resp, body, 401, rest.CodeUnauthenticated)
		if len(resp.Cookies()) > 0 || len(body) > 600 {
			t.Errorf("%.20q: %v, %d bytes", token, resp.Cookies(), len(body))
		}
	}
	list, err := g.client(t, g.text[job.Admin]).Tokens(t.Context())
	if err != nil || len(list) != 3 {
		t.Errorf("logins are listed as tokens: %+v, %v", list, err)
	}
}

func TestATokenHasALimitedNumberOfLogins(t *testing.T) {
	g := guard(t)
	first := g.login(t, g.text[job.Viewer])
	g.pass(time.Second)
	second := g.login(t, g.text[job.Viewer])
	for range 49 {
		g.pass(time.Second)
		g.login(t, g.text[job.Viewer])
	}
	if kept, _ := g.tokens.Tokens(t.Context()); len(kept) != 3+50 {
		t.Errorf("%d tokens are kept", len(kept))
	}
	for c, want := range map[*http.Cookie]int{first: 401, second: 200} {
		if resp, _ := talk(t, http.MethodGet, g.base+rest.SessionPath, "", cookieOf(c)); resp.StatusCode != want {
			t.Errorf("%s, want %d", resp.Status, want)
		}
	}
	g.pass(13 * time.Hour)
	g.login(t, g.text[job.Viewer])
	if kept, _ := g.tokens.Tokens(t.Context()); len(kept) != 3+1 {
		t.Errorf("%d tokens are kept after their logins have expired", len(kept))
	}
}

// A page of another site, in the browser of an operator who is logged in or who sits at an open daemon, must not be
// able to command jobs or to follow them.
func TestAPageOfAnotherSiteCanCommandNothing(t *testing.T) {
	g := guard(t)
	cookie := cookieOf(g.login(t, g.text[job.Admin]))["Cookie"]
	at := strings.TrimPrefix(g.base, "http://")
	for name, tc := range map[string]struct {
		header map[string]string
		open   int // at the address that asks for no token
		login  int // with the cookie
	}{
		"another site": {
			map[string]string{"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"}, 403, 403,
		},
		"another port of this host": {
			map[string]string{"Sec-Fetch-Site": "same-site", "Origin": "http://127.0.0.1:1"}, 403, 403,
		},
		"an old browser":        {map[string]string{"Origin": "https://evil.example"}, 403, 403},
		"a sandbox":             {map[string]string{"Origin": "null"}, 403, 403},
		"no page":               {nil, 202, 403},
		"the daemon's own page": {map[string]string{"Sec-Fetch-Site": "same-origin"}, 202, 202},
		// the open address has another port
		"its page, an old browser": {map[string]string{"Origin": "http://" + at}, 403, 202},
	} {
		ask := func(base, cookie string) (*http.Response, []byte) {
			header := map[string]string{"Content-Type": "application/json"}
			maps.Copy(header, tc.header)
			if cookie != "" {
				header["Cookie"] = cookie
			}
			return talk(t, http.MethodPatch, base+"/api/v1/jobs/job-web", `{"disks":2}`, header)
		}
		if resp, body := ask(g.open,
			""); resp.StatusCode != tc.open && (tc.open != 202 || resp.StatusCode != http.StatusOK) {
			t.Errorf("%s, open: %s %s", name, resp.Status, body)
		}
		resp, body := ask(g.base, cookie)
		if resp.StatusCode != tc.login && (tc.login != 202 || resp.StatusCode != http.StatusOK) {
			t.Errorf("%s, logged in: %s %s", name, resp.Status, body)
		}
	}
	for _, header := range []map[string]string{{"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}} {
		for base, c := range map[string]string{g.open: "", g.base: cookie} {
			header["Cookie"] = c
			resp, body := talk(t, http.MethodGet, base+"/api/v1/events", "", header)
			wantStatus(t, resp, body, 403, rest.CodeCrossOrigin)
		}
	}
	resp, body := talk(t, http.MethodPost, g.base+rest.SessionPath, fmt.Sprintf(`{"token":%q}`, g.text[job.Viewer]),
		map[string]string{"Content-Type": "application/json", "Origin": "https://evil.example"})
	wantStatus(t, resp, body, 403, rest.CodeCrossOrigin)
}

func wantStatus(tb testing.TB, resp *http.Response, body []byte, status int, code string) {
	tb.Helper()
	if resp.StatusCode != status || decode[rest.Problem](tb, body).Code != code {
		tb.Errorf("got %s %s, want %d %q", resp.Status, body, status, code)
	}
}

// lines are the lines of a log in JSON with that message.
func lines(tb testing.TB, log []byte, message string) (out []map[string]any) {
	tb.Helper()
	for line := range bytes.Lines(log) {
		var l map[string]any
		if err := json.Unmarshal(line, &l); err != nil {
			tb.Fatalf("%v in %s", err, line)
		}
		if l["msg"] == message {
			out = append(out, l)
		}
	}
	return out
}

func TestEachCommandIsALineInTheLogWithItsSenderAndNoSecret(t *testing.T) {
	var log logBuffer
	g := guard(t, func(o *apihttp.Options) { o.Log = slog.New(slog.NewJSONHandler(&log, nil)) })
	c := g.login(t, g.text[job.Operator])
	log.Reset()
	asJSON := func(header map[string]string) map[string]string {
		header["Content-Type"] = "application/json"
		return header
	}
	operator := func() map[string]string { return asJSON(bearerOf(g.text[job.Operator])) }
	type want struct{ verb, by, of, outcome, code string }
	var all []want
	for _, tc := range []struct {
		method, path, body string
		header             map[string]string
		want               want
	}{
		{
			"POST", "/api/v1/jobs/job-web/pause", "", operator(),
			want{"pauseJob", "a operator", "job-web", "accepted", ""},
		},
		{
			"POST", "/api/v1/jobs/job-web/retry", "", cookieOf(c),
			want{"retryJob", "a operator", "job-web", "refused", "conflict"},
		},
		{
			"POST", "/api/v1/jobs", `{"vm":"/DC0/vm/db","job_id":"job-db"}`, operator(),
			want{"submitJob", "a operator", "job-db", "accepted", ""},
		},
		{
			"DELETE", "/api/v1/jobs/none", "", operator(),
			want{"deleteJob", "a operator", "none", "refused", "job_not_found"},
		},
		{
			"POST", "/api/v1/volumes/x/release", "", operator(),
			want{"releaseVolume", "a operator", "x", "refused", "role_too_low"},
		},
		{
			"POST", "/api/v1/jobs/job-web/cancel", "",
			map[string]string{},
			want{"cancelJob", "without a token", "job-web", "refused", "unauthenticated"},
		},
		{
			"POST", "/api/v1/jobs/%1b%5b2J%e2%80%ae/cancel", "", operator(),
			want{"cancelJob", "a operator", "\x1b[2J\u202e", "refused", "id_invalid"},
		},
		{"POST", "/nowhere", "", operator(), want{"nothing", "a operator", "POST", "refused", "route_not_found"}},
		{
			"POST", "/api/v1/jobs/job-web/cancel", "",
			map[string]string{"Origin": "https://evil.example"},
			want{"cancelJob", "without a token", "job-web", "refused", "cross_origin"},
		},
		{
			"POST", rest.SessionPath, `{"token":"` + g.text[job.Viewer] + `"}`, asJSON(map[string]string{}),
			want{"beginSession", "without a token", "", "accepted", ""},
		},
	} {
		talk(t, tc.method, g.base+tc.path, tc.body, tc.header)
		all = append(all, tc.want)
	}
	for _, tc := range []struct{ path, body string }{ // no commands
		{"/api/v1/preflight", `{"vm":"web"}`}, {"/api/v1/progress/job-x/update", `{"percent":1}`},
	} {
		talk(t, http.MethodPost, g.base+tc.path, tc.body, operator())
	}
	text := func(v any) string {
		if v == nil {
			return ""
		}
		return fmt.Sprint(v)
	}
	got := lines(t, []byte(log.String()), "command")
	if len(got) != len(all) {
		t.Fatalf("%d lines for %d commands: %s", len(got), len(all), log.String())
	}
	for i, l := range got {
		is := want{text(l["verb"]), text(l["by"]), text(l["of"]), text(l["outcome"]), text(l["code"])}
		if is != all[i] || l["from"] != "127.0.0.1" || l["status"] == nil {
			t.Errorf("line %d: %v, want %+v", i, l, all[i])
		}
	}
	for role, token := range g.text {
		if token != "" && strings.Contains(log.String(), token[20:]) {
			t.Errorf("the log has the token of %s", role)
		}
	}
	if strings.Contains(log.String(), c.Value[20:]) || strings.Contains(log.String(), "\x1b") {
		t.Errorf("the log has a cookie or a control character: %s", log.String())
	}
}
