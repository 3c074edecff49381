package http

import (
	"context"
	"net/http"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/vmferry/vmferry/job"
)

// PlainCell is a text as a cell of a table.
func PlainCell(text string) string { return plainCell(text) }

// Routes calls f for every route.
func (h *Handler) Routes(f func(method, pattern string)) error {
	return chi.Walk(h.router, func(method, pattern string, _ http.Handler, _ ...func(http.Handler) http.Handler) error {
		f(method, pattern)
		return nil
	})
}

// Pattern is the route that a request leads to; "" if there is none.
func (h *Handler) Pattern(method, path string) string {
	c := chi.NewRouteContext()
	if !h.router.Match(c, method, path) {
		return ""
	}
	return c.RoutePattern()
}

// SetStreamLimits changes the limits of streams that are opened from now on.
func (h *Handler) SetStreamLimits(streams int, every, heartbeat, write time.Duration) {
	h.streams.limits = streamLimits{streams, every, heartbeat, write}
}

// Streams is how many are open.
func (h *Handler) Streams() int { return h.streams.count() }

// LeastRoles is the table of who may do what.
func LeastRoles() map[string]job.Role { return leastRoles() }

// UpdateRoute takes no token on this machine.
const UpdateRoute = updateRoute

// SaveUses stores when tokens were used last, as it happens once a minute.
func (h *Handler) SaveUses(ctx context.Context) { h.gate.tokens.saveUses(ctx) }
