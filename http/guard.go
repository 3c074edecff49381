package http

import (
	"errors"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/vmferry/vmferry/http/rest"
	"github.com/vmferry/vmferry/job"
)

// guard runs before every route. It refuses requests under a foreign name, sets the headers that every answer has, and
// turns a panic into an answer.
type guard struct {
	hosts       []string
	certificate *Certificate // nil without TLS
	log         *slog.Logger
	now         func() time.Time
	next        http.Handler
}

func (g guard) handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer g.recovered(w, r)
		head := w.Header()
		head.Set(rest.TimeHeader, rest.TimeText(g.now()))
		head.Set("X-Content-Type-Options", "nosniff")
		head.Set("Content-Security-Policy",
			"default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'")
		head.Set("Referrer-Policy", "no-referrer")
		head.Set("Cache-Control", "no-cache") // clients must ask again; an ETag saves the body
		if r.TLS != nil {
			head.Set("Strict-Transport-Security", "max-age=31536000")
		}
		if !g.known(r) {
			writeProblem(w, r, rest.NewProblem(rest.CodeHostNotAllowed, "the daemon does not answer under the name "+
				rest.Clip(r.Host), "Use a name of its certificate, localhost or a loopback address, or add the name "+
				"to auth.hosts"))
			return
		}
		g.next.ServeHTTP(w, r)
	})
}

func refuseOrigin(w http.ResponseWriter, r *http.Request) { writeProblem(w, r, foreignPage()) }

func foreignPage() *rest.Problem {
	return rest.NewProblem(rest.CodeCrossOrigin, "the request came from another web page", "")
}

// known says whether the daemon answers under the request's host name. A foreign name that resolves to a loopback
// address is refused (DNS rebinding). Over a unix socket any name is fine, and over TLS those of the certificate.
func (g guard) known(r *http.Request) bool {
	if local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok && local.Network() == "unix" {
		return true
	}
	host := r.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	if host == "" || strings.EqualFold(host, "localhost") {
		return true // "" is not from a browser, which always sends a name
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsLoopback() {
		return true
	}
	if r.TLS != nil && g.certificate != nil && g.certificate.isFor(host) {
		return true
	}
	return slices.ContainsFunc(g.hosts, func(known string) bool { return strings.EqualFold(known, host) })
}

// recovered answers a request whose handler panicked. The daemon continues.
func (g guard) recovered(w http.ResponseWriter, r *http.Request) {
	v := recover()
	if v == nil {
		return
	}
	if err, ok := v.(error); ok && errors.Is(err, http.ErrAbortHandler) {
		panic(v) // net/http's own way to drop a connection
	}
	g.log.ErrorContext(r.Context(), "request handler panicked", "method", r.Method, "path", instanceOf(r), "panic", v,
		"stack", string(debug.Stack()))
	writeProblem(w, r, rest.NewProblem(string(job.Internal),
		"the request failed because of a bug; the daemon's log has the details", "Report it with the log"))
}
