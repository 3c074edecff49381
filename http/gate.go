package http

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/vmferry/vmferry/http/rest"
	"github.com/vmferry/vmferry/job"
)

const (
	sessionLife   = 12 * time.Hour
	sessionCookie = "vmferry_session"
	secureCookie  = "__Host-" + sessionCookie // browsers take it only over TLS, and for this host only
	bearer        = "Bearer "
)

// gate decides whether the sender of a request may take its route, and writes down who has commanded what.
type gate struct {
	h       *Handler
	tokens  *tokens // nil: no listener asks for tokens
	roles   map[string]job.Role
	origin  *http.CrossOriginProtection
	clients clients
	next    http.Handler
}

// ServeHTTP answers with a problem, or passes the request on with its sender in the context.
func (g *gate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s := sender(r)
	open, marked := r.Context().Value(openKey).(bool)
	s.open = g.tokens == nil || marked && open
	if tokenInURL(r.URL.EscapedPath(), r.URL.RawQuery) {
		p := rest.NewProblem(rest.CodeTokenInURL, "there is a token in the address of the request",
			"Send it in the header Authorization: Bearer TOKEN, and make a new one: logs may have this one by now")
		r.URL.Path, r.URL.RawPath = "/", "" // an answer has the path
		writeProblem(w, r, p)
		return
	}
	safe := r.Method == http.MethodGet || r.Method == http.MethodHead || r.Method == http.MethodOptions
	route := ""
	if !s.open || !safe {
		route = g.h.routeOf(r)
	}
	s, p := g.admit(w, r, s, route, safe)
	ctx := context.WithValue(r.Context(), whoKey, s)
	if !safe && route != updateRoute && route != preflightRoute {
		note := &note{}
		ctx = context.WithValue(ctx, noteKey, note)
		recorded := &recorder{ResponseWriter: w, status: http.StatusOK}
		defer func() { g.audit(ctx, s, r, route, recorded, note) }()
		w = recorded
	}
	r = r.WithContext(ctx)
	if p != nil {
		writeProblem(w, r, p)
		return
	}
	if token := g.find(s); token != nil && safe {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		//nolint:contextcheck // the token's own: its end ends a stream
		defer context.AfterFunc(token.live, cancel)()
		r = r.WithContext(ctx)
	}
	g.next.ServeHTTP(w, r)
}

func (g *gate) find(s who) *held {
	if g.tokens == nil || s.token == "" {
		return nil
	}
	return g.tokens.find(s.token)
}

// admit says who sends the request, and why it is refused; nil if it is not.
func (g *gate) admit(w http.ResponseWriter, r *http.Request, s who, route string, safe bool) (who, *rest.Problem) {
	if err := g.origin.Check(r); err != nil {
		return s, foreignPage()
	}
	if s.open {
		s.role = job.Admin
		return s, nil
	}
	least := leastRole(g.roles, route)
	var wrong *rest.Problem
	s, wrong = g.recognize(w, r, s)
	if !g.clients.request(s.client(), g.h.now()) {
		return s, tooMany(rest.CodeTooManyRequests, "1", "this client sends more requests than it may",
			"Send less, or raise auth.requests_per_second")
	}
	switch {
	case s.cookie && !safe && r.Header.Get("Origin") == "" && r.Header.Get("Sec-Fetch-Site") == "":
		return s, rest.NewProblem(rest.CodeCrossOrigin, "a command with a cookie does not say which page it is from",
			"Use a browser of 2020 or newer, or send a token in the header Authorization")
	case least == public, s.local && route == updateRoute:
		return s, nil
	case wrong != nil:
		return s, wrong
	case !s.role.May(least):
		return s, rest.NewProblem(rest.CodeRoleTooLow,
			fmt.Sprintf("this needs the role %s, and the token %s is of the role %s", least, s.name, s.role),
			fmt.Sprintf("Use a token of the role %s", least))
	}
	return s, nil
}

// recognize finds the token of a request. The problem says why there is none that counts.
func (g *gate) recognize(w http.ResponseWriter, r *http.Request, s who) (who, *rest.Problem) {
	if values := r.Header.Values("Authorization"); len(values) > 0 {
		text := values[0]
		if len(values) > 1 || len(text) < len(bearer) || !strings.EqualFold(text[:len(bearer)], bearer) {
			return s, unauthenticated("the header Authorization does not have one token in the form Bearer TOKEN", "")
		}
		h, bad := g.tokens.check(strings.TrimSpace(text[len(bearer):]), false)
		if h == nil {
			return s, g.failed(r.Context(), s, bad)
		}
		return s.with(h, false), nil
	}
	c, err := r.Cookie(s.cookieName())
	if err != nil {
		return s, unauthenticated("this daemon asks for a token, and the request has none", "")
	}
	h, bad := g.tokens.check(c.Value, true)
	if h == nil {
		http.SetCookie(w, s.sessionCookie("", time.Time{}))
		return s, unauthenticated(bad.why, "Log in again")
	}
	return s.with(h, true), nil
}

func (s who) with(h *held, cookie bool) who {
	s.name, s.role, s.token, s.cookie, s.expires = h.Name, h.Role, h.ID, cookie, h.ExpiresAt
	return s
}

// failed counts a wrong token against its sender, and says so in the log as long as they are few.
func (g *gate) failed(ctx context.Context, s who, bad refusal) *rest.Problem {
	if !g.clients.attempt(s.client(), g.h.now()) {
		return tooMany(rest.CodeTooManyAttempts, attemptSeconds, "too many wrong tokens came from this client",
			"Wait, and send a token that is right")
	}
	g.h.log.WarnContext(ctx, "a token was refused", "from", s.from, "why", bad.why)
	return unauthenticated(bad.why, bad.next)
}

func unauthenticated(why, next string) *rest.Problem {
	if next == "" {
		next = "Send a token in the header Authorization: Bearer TOKEN (--token-file of vmferry), or log in at the page"
	}
	p := rest.NewProblem(rest.CodeUnauthenticated, why, next)
	p.Header = http.Header{"Www-Authenticate": {`Bearer realm="vmferry"`}}
	return p
}

func tooMany(code, seconds, why, next string) *rest.Problem {
	p := rest.NewProblem(code, why, next)
	p.Header = http.Header{"Retry-After": {seconds}}
	return p
}

// note is what later steps add to the line about a command.
type note struct{ code string }

// noteCode notes the code of a problem that a request is answered with.
func noteCode(ctx context.Context, code string) {
	if n, ok := ctx.Value(noteKey).(*note); ok {
		n.code = code
	}
}

// recorder notes the status of an answer.
type recorder struct {
	http.ResponseWriter
	status int
}

func (r *recorder) WriteHeader(status int) {
	r.status = status
	r.ResponseWriter.WriteHeader(status)
}

// Unwrap is for http.ResponseController.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// audit writes one line about a command. It has nothing of the body, and of the address only the route and the ids.
func (g *gate) audit(ctx context.Context, s who, r *http.Request, route string, answer *recorder, n *note) {
	outcome, level := "accepted", slog.LevelInfo
	switch {
	case answer.status >= http.StatusInternalServerError:
		outcome, level = "failed", slog.LevelWarn
	case answer.status >= http.StatusBadRequest:
		outcome, level = "refused", slog.LevelWarn
	}
	args := []any{"verb", g.h.verbOf(route), "by", s.label(), "role", string(s.role), "from", s.from}
	if what := objectOf(r, route, answer.Header().Get("Location")); what != "" {
		args = append(args, "of", rest.Clip(what))
	}
	args = append(args, "outcome", outcome, "status", answer.status)
	if n.code != "" {
		args = append(args, "code", n.code)
	}
	g.h.log.Log(ctx, level, "command", args...)
}

// verbOf is the name of a route's operation.
func (h *Handler) verbOf(route string) string { return cmp.Or(h.verbs[route], route, "nothing") }

// label names the sender in the log.
func (s who) label() string {
	switch {
	case s.name != "":
		return s.name
	case s.open:
		return "anyone on this machine"
	default:
		return "without a token"
	}
}

// objectOf is what a command is about: the id in its address, or in the address of what it made.
func objectOf(r *http.Request, route, location string) string {
	if location != "" {
		return location[strings.LastIndexByte(location, '/')+1:]
	}
	if route == "" {
		return r.Method
	}
	pattern, path := strings.Split(route[len(r.Method)+1:], "/"), strings.Split(r.URL.Path, "/")
	for i, part := range pattern {
		if strings.HasPrefix(part, "{") && i < len(path) {
			return path[i]
		}
	}
	return ""
}
