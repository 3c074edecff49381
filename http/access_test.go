package http_test

import (
	"context"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	apihttp "github.com/vmferry/vmferry/http"
	"github.com/vmferry/vmferry/http/rest"
	"github.com/vmferry/vmferry/job"
)

// logBuffer takes a log from many goroutines.
type logBuffer struct {
	mu   sync.Mutex
	text strings.Builder
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

func (b *logBuffer) Len() int { return len(b.String()) }

func (b *logBuffer) Reset() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.text.Reset()
}

// tokenStore keeps tokens in memory.
type tokenStore struct {
	mu   sync.Mutex
	kept map[string]job.Token
	fail error
}

func newTokenStore() *tokenStore { return &tokenStore{kept: map[string]job.Token{}} }

func (s *tokenStore) Tokens(context.Context) ([]job.Token, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Values(s.kept)), s.fail
}

func (s *tokenStore) ChangeTokens(_ context.Context, save []job.Token, drop []string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail != nil {
		return s.fail
	}
	for _, id := range drop {
		delete(s.kept, id)
	}
	for _, t := range save {
		s.kept[t.ID] = t
	}
	return nil
}

// guarded is a daemon that asks for tokens.
type guarded struct {
	*world
	h      *apihttp.Handler
	base   string // of the address that asks for tokens
	open   string // of one that does not
	tokens *tokenStore
	text   map[job.Role]string // a token of each role; "" for none
}

// guard serves the golden world at two addresses, one of which asks for tokens.
func guard(tb testing.TB, change ...func(*apihttp.Options)) *guarded {
	tb.Helper()
	g := &guarded{world: newWorld(), tokens: newTokenStore(), text: map[job.Role]string{"": ""}}
	g.running(tb, "job-web")
	g.claim("job-web")
	change = append([]func(*apihttp.Options){func(o *apihttp.Options) { o.Tokens = g.tokens }}, change...)
	g.h, _ = g.server(tb, change...)
	server := apihttp.NewServer(g.h, discard())
	var serving sync.WaitGroup
	for i, at := range []*string{&g.base, &g.open} {
		l, err := apihttp.Listen("127.0.0.1:0")
		if err != nil {
			tb.Fatal(err)
		}
		*at = "http://" + l.Addr().String()
		if i == 1 {
			l = apihttp.Open(l)
		}
		serving.Go(func() { _ = server.Serve(l) })
	}
	tb.Cleanup(func() {
		_ = server.Close()
		serving.Wait()
	})
	for _, role := range job.Roles() {
		g.text[role] = g.create(tb, "a "+string(role), role).Text
	}
	return g
}

// create makes a token at the address that asks for none.
func (g *guarded) create(tb testing.TB, name string, role job.Role) rest.NewToken {
	tb.Helper()
	c, err := rest.NewClient(g.open)
	if err != nil {
		tb.Fatal(err)
	}
	defer c.Close()
	t, err := c.CreateToken(tb.Context(), rest.TokenRequest{Name: name, Role: role})
	if err != nil {
		tb.Fatal(err)
	}
	return t
}

func bearerOf(text string) map[string]string {
	if text == "" {
		return nil
	}
	return map[string]string{"Authorization": "Bearer " + text}
}

// status asks with a token and returns the status and the code of the problem. Of a stream only the head is read.
func (g *guarded) status(tb testing.TB, method, path, token string) (status int, code string) {
	tb.Helper()
	ctx, cancel := context.WithCancel(tb.Context())
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, g.base+path, http.NoBody)
	if err != nil {
		tb.Fatal(err)
	}
	for name, value := range bearerOf(token) {
		req.Header.Set(name, value)
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		tb.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.Header.Get("Content-Type") != "application/problem+json" || method == http.MethodHead {
		return resp.StatusCode, ""
	}
	return resp.StatusCode, decode[rest.Problem](tb, readAll(tb, resp)).Code
}

// address fills a pattern with ids that lead nowhere, so that nothing is changed by a request that is let through.
func address(pattern string) string {
	for part := range strings.SplitSeq(pattern, "/") {
		if strings.HasPrefix(part, "{") {
			pattern = strings.Replace(pattern, part, "none", 1)
		}
	}
	return strings.Replace(pattern, "*", "none", 1)
}

// This walks the table of who may do what: each route of the router, and of the API's description, with no token and
// with one of each role.
func TestEachRouteIsOpenToItsRoleAndThoseAboveItOnly(t *testing.T) {
	g := guard(t)
	table := apihttp.LeastRoles()
	routes := map[string]string{} // with the method, by the address to ask
	err := g.h.Routes(func(method, pattern string) {
		if _, ok := table[method+" "+pattern]; !ok {
			t.Errorf("%s %s is not in the table of least roles (http/access.go)", method, pattern)
		}
		routes[method+" "+address(pattern)] = method + " " + pattern
	})
	if err != nil {
		t.Fatal(err)
	}
	for path, item := range loadDescription(t, g.open).Paths.Map() {
		for method := range item.Operations() {
			at := method + " " + address(strings.Replace(path, "{vm_path}/cbt-status", "none", 1))
			if _, ok := routes[at]; !ok {
				t.Errorf("%s %s is described, but not a route", method, path)
			}
		}
	}
	for route := range table {
		if !slices.Contains(slices.Collect(maps.Values(routes)), route) {
			t.Errorf("%s is in the table, but not a route", route)
		}
	}
	for at, route := range routes {
		method, path, _ := strings.Cut(at, " ")
		for _, has := range append([]job.Role{""}, job.Roles()...) {
			least := table[route]
			status, code := g.status(t, method, path, g.text[has])
			switch allowed := least == "" || has.May(least) || route == apihttp.UpdateRoute; {
			case allowed && (code == rest.CodeUnauthenticated || code == rest.CodeRoleTooLow) &&
				route != "GET /api/v1/session":
				t.Errorf("%s with role %q: %d %s", at, has, status, code)
			case !allowed && has == "" && (status != 401 || code != rest.CodeUnauthenticated):
				t.Errorf("%s without a token: %d %s", at, status, code)
			case !allowed && has != "" && (status != 403 || code != rest.CodeRoleTooLow):
				t.Errorf("%s with role %q: %d %s, but it needs %s", at, has, status, code, least)
			case status >= 500 && status != http.StatusServiceUnavailable:
				t.Errorf("%s with role %q: %d %s", at, has, status, code)
			}
			if method == http.MethodGet && !strings.HasSuffix(path, "/events") {
				if head, _ := g.status(t, http.MethodHead, path, g.text[has]); head != status {
					t.Errorf("HEAD %s with role %q: %d, GET has %d", path, has, head, status)
				}
			}
		}
	}
}

func TestWhatIsNowhereIsHiddenWithoutAToken(t *testing.T) {
	g := guard(t)
	for _, at := range []string{
		"GET /nothing", "PUT /api/v1/jobs", "TRACE /livez", "OPTIONS /api/v1/jobs", "GET /api/v1/jobs/", "GET //livez",
		"GET /API/V1/JOBS", "POST /livez", "GET /debug/pprof/",
	} {
		method, path, _ := strings.Cut(at, " ")
		if status, code := g.status(t, method, path, ""); status != 401 || code != rest.CodeUnauthenticated {
			t.Errorf("%s: %d %s", at, status, code)
		}
		if status, _ := g.status(t, method, path, g.text[job.Viewer]); status == 401 || status == 403 {
			t.Errorf("%s with a token: %d", at, status)
		}
	}
}

func TestAnOpenListenerAsksForNoToken(t *testing.T) {
	g := guard(t)
	for _, header := range []map[string]string{nil, bearerOf("wrong"), bearerOf(g.text[job.Viewer])} {
		resp, body := talk(t, http.MethodPatch, g.open+"/api/v1/limits", `{"disks":7}`, map[string]string{
			"Content-Type": "application/json", "Authorization": header["Authorization"],
		})
		if resp.StatusCode != http.StatusOK {
			t.Errorf("%v: %s %s", header, resp.Status, body)
		}
	}
	_, body := talk(t, http.MethodGet, g.open+rest.SessionPath, "", nil)
	if s := decode[rest.Session](t, body); !s.Open || s.Role != job.Admin || s.Name != "" || s.ExpiresAt != nil {
		t.Errorf("%+v", s)
	}
}

func TestReadinessTellsDetailsToViewersOnly(t *testing.T) {
	g := guard(t)
	for has, want := range map[job.Role]bool{"": false, job.Viewer: true} {
		_, body := talk(t, http.MethodGet, g.base+"/readyz?verbose", "", bearerOf(g.text[has]))
		if got := strings.Contains(string(body), `"sinks"`); got != want {
			t.Errorf("role %q: %s", has, body)
		}
	}
}
