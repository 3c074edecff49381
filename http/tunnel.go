package http

import (
	"context"
	"log/slog"
	"net/http"
	"strings"

	"github.com/vmferry/vmferry/http/rest"
)

// NewTunnelServer makes a server for the listener at which a tunnel from another machine ends. Its connections come
// from this machine, but not those who use it. The compatibility routes are open for reading there. Everything else
// asks for a token, and is refused if the Handler has no tokens. Its Shutdown does not close h.
func NewTunnelServer(h *Handler, log *slog.Logger) *http.Server {
	s := NewServer(h, log)
	return &http.Server{
		Handler: tunnelled{h}, ReadHeaderTimeout: s.ReadHeaderTimeout, IdleTimeout: s.IdleTimeout,
		MaxHeaderBytes: s.MaxHeaderBytes, ErrorLog: s.ErrorLog,
	}
}

// tunnelled marks the requests that came through a tunnel.
type tunnelled struct{ h *Handler }

func (t tunnelled) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	open := (r.Method == http.MethodGet || r.Method == http.MethodHead) && readsCompat(r.URL.EscapedPath())
	if !open && t.h.gate.tokens == nil {
		writeProblem(w, r, rest.NewProblem(rest.CodeTunnel,
			"through the tunnel only GET /api/v1/progress/{job_id} and /api/v1/vms/{vm_path}/cbt-status are open",
			"Ask at the VMA itself"))
		return
	}
	ctx := context.WithValue(r.Context(), tunnelKey, true)
	t.h.ServeHTTP(w, r.WithContext(context.WithValue(ctx, openKey, open)))
}

// readsCompat says whether a path is that of a compatibility route that is read.
func readsCompat(path string) bool {
	if rest, ok := strings.CutPrefix(path, "/api/v1/progress/"); ok {
		return rest != "" && !strings.Contains(rest, "/")
	}
	return strings.HasPrefix(path, "/api/v1/vms/") && strings.HasSuffix(path, "/cbt-status") || path == "/livez"
}
