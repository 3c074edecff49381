package http_test

import (
	"net/http"
	"strings"
	"testing"

	apihttp "github.com/vmferry/vmferry/http"
	"github.com/vmferry/vmferry/http/rest"
	"github.com/vmferry/vmferry/job"
)

// tunnel serves a handler at the end of a tunnel.
func tunnel(tb testing.TB, h *apihttp.Handler) (base string) {
	tb.Helper()
	l, err := apihttp.Listen("127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	server, done := apihttp.NewTunnelServer(h, discard()), make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(l)
	}()
	tb.Cleanup(func() {
		_ = server.Close()
		<-done
	})
	return "http://" + l.Addr().String()
}

func TestOneWhoComesThroughATunnelIsNotOnThisMachine(t *testing.T) {
	g := guard(t)
	g.base = tunnel(t, g.h)
	for _, c := range []struct {
		at   string
		role job.Role
		want string // code of the problem; "" for none of the gate
	}{
		{"GET /api/v1/progress/none", "", ""},
		{"HEAD /api/v1/progress/none", "", ""},
		{"GET /api/v1/vms/DC0/vm/web/cbt-status", "", ""},
		{"GET /api/v1/vms", "", rest.CodeUnauthenticated},
		{"GET /api/v1/jobs", "", rest.CodeUnauthenticated},
		{"GET /api/v1/jobs/../progress/none", "", rest.CodeUnauthenticated},
		{"GET /api/v1/progress/", "", rest.CodeUnauthenticated},
		{"POST /api/v1/progress/none", "", rest.CodeUnauthenticated},
		{"POST /api/v1/progress/none/update", "", rest.CodeUnauthenticated}, // open on this machine
		{"GET /api/v1/jobs", job.Viewer, ""},
		{"PATCH /api/v1/limits", job.Viewer, rest.CodeRoleTooLow},
	} {
		method, path, _ := strings.Cut(c.at, " ")
		if status, code := g.status(t, method, path, g.text[c.role]); code != c.want {
			t.Errorf("%s with role %q: %d %s, want %s", c.at, c.role, status, code, c.want)
		}
	}
}

func TestADaemonWithoutTokensHasOnlyCompatibilityRoutesAtATunnel(t *testing.T) {
	h, _ := newWorld().server(t)
	base := tunnel(t, h)
	for path, want := range map[string]int{
		"/api/v1/vms/DC0/vm/web/cbt-status": http.StatusOK,
		"/api/v1/jobs":                      http.StatusForbidden,
		"/":                                 http.StatusForbidden,
	} {
		resp, body := talk(t, http.MethodGet, base+path, "", nil)
		refused := want == http.StatusForbidden
		if resp.StatusCode != want || refused && decode[rest.Problem](t, body).Code != rest.CodeTunnel {
			t.Errorf("%s: %s %s", path, resp.Status, body)
		}
	}
}
