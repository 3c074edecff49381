package http

import (
	"log/slog"
	"net/http"
	"strings"

	"github.com/vmferry/vmferry/http/rest"
)

// NewTunnelServer makes a server for the listener at which a tunnel from another machine ends. Its connections come
// from this machine, but not those who use it. The compatibility routes are open for reading there; everything else is
// refused. Its Shutdown does not close h.
func NewTunnelServer(h *Handler, log *slog.Logger) *http.Server {
	s := NewServer(h, log)
	own := &http.Server{
		Handler: tunnelled{h}, ReadHeaderTimeout: s.ReadHeaderTimeout, IdleTimeout: s.IdleTimeout,
		MaxHeaderBytes: s.MaxHeaderBytes, ErrorLog: s.ErrorLog,
	}
	return own
}

// tunnelled decides about a request that came through a tunnel.
type tunnelled struct{ h *Handler }

func (t tunnelled) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		if readsCompat(r.URL.EscapedPath()) {
			t.h.ServeHTTP(w, r)
			return
		}
	}
	writeProblem(w, r, rest.NewProblem(rest.CodeTunnel,
		"through the tunnel only GET /api/v1/progress/{job_id} and /api/v1/vms/{vm_path}/cbt-status are open",
		"Ask at the VMA itself"))
}

// readsCompat says whether a path is that of a compatibility route that is read.
func readsCompat(path string) bool {
	if rest, ok := strings.CutPrefix(path, "/api/v1/progress/"); ok {
		return rest != "" && !strings.Contains(rest, "/")
	}
	return strings.HasPrefix(path, "/api/v1/vms/") && strings.HasSuffix(path, "/cbt-status") || path == "/livez"
}
