package http

import (
	"net/http"

	"github.com/go-chi/chi/v5"

	"github.com/vmferry/vmferry/http/rest"
	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/web"
)

// public is the least role of a route that asks for no token.
const public job.Role = ""

// updateRoute takes the updates of older copy tools. On this machine they need no token: these tools have none.
const updateRoute = "POST /api/v1/progress/{job_id}/update"

// preflightRoute takes a POST that commands nothing.
const preflightRoute = "POST /api/v1/preflight"

// watchRoute lets an OMA ask for a job of an older VMA.
const watchRoute = "POST " + rest.NodesPath + "/{node}/jobs/{id}/watch"

// leastRoles is the one table of who may do what: each route, and the least role that it needs where tokens are asked
// for. A route that is not in it needs Admin, and a test fails.
func leastRoles() map[string]job.Role {
	roles := map[string]job.Role{
		"GET /livez":             public,
		"GET /healthz":           public,
		"GET /readyz":            public, // without ?verbose, which needs Viewer
		"GET /api/v1/session":    public,
		"POST /api/v1/session":   public,
		"DELETE /api/v1/session": public,

		"GET /metrics":                              job.Viewer,
		"GET /docs":                                 job.Viewer,
		"GET /docs/docs.css":                        job.Viewer,
		"GET /openapi.json":                         job.Viewer,
		"GET /openapi-3.0.json":                     job.Viewer,
		"GET /openapi.yaml":                         job.Viewer,
		"GET /api/v1/events":                        job.Viewer,
		"GET /api/v1/jobs":                          job.Viewer,
		"GET /api/v1/jobs/{id}":                     job.Viewer,
		"GET /api/v1/jobs/{id}/disks":               job.Viewer,
		"GET /api/v1/jobs/{id}/phases":              job.Viewer,
		"GET /api/v1/jobs/{id}/rounds":              job.Viewer,
		"GET /api/v1/jobs/{id}/events":              job.Viewer,
		"GET /api/v1/jobs/{id}/throughput":          job.Viewer,
		"GET /api/v1/jobs/{id}/report":              job.Viewer,
		"GET /api/v1/throughput":                    job.Viewer,
		"GET /api/v1/vms":                           job.Viewer,
		"GET /api/v1/limits":                        job.Viewer,
		"GET /api/v1/volumes":                       job.Viewer,
		"GET /api/v1/system":                        job.Viewer,
		"GET /api/v1/nodes":                         job.Viewer,
		"GET /api/v1/history":                       job.Viewer,
		"GET /api/v1/progress/{job_id}":             job.Viewer,
		"GET /api/v1/vms/*":                         job.Viewer,
		preflightRoute:                              job.Operator, // changes nothing, but makes the vCenter work
		"POST /api/v1/jobs":                         job.Operator,
		"POST /api/v1/jobs/bulk":                    job.Operator,
		"PATCH /api/v1/jobs/{id}":                   job.Operator,
		"DELETE /api/v1/jobs/{id}":                  job.Operator,
		"POST /api/v1/jobs/{id}/pause":              job.Operator,
		"POST /api/v1/jobs/{id}/resume":             job.Operator,
		"POST /api/v1/jobs/{id}/cancel":             job.Operator,
		"POST /api/v1/jobs/{id}/retry":              job.Operator,
		"POST /api/v1/jobs/{id}/sync":               job.Operator,
		"POST /api/v1/jobs/{id}/cutover":            job.Operator,
		updateRoute:                                 job.Operator,
		watchRoute:                                  job.Operator,
		"PATCH /api/v1/limits":                      job.Admin,
		"DELETE /api/v1/limits":                     job.Admin,
		"POST /api/v1/volumes/{id}/release":         job.Admin,
		"POST /api/v1/jobs/{id}/disks/{disk}/panic": job.Admin,
		"GET /api/v1/tokens":                        job.Admin,
		"POST /api/v1/tokens":                       job.Admin,
		"DELETE /api/v1/tokens/{id}":                job.Admin,
	}
	for _, pattern := range web.Routes() { // the page has no data of its own, and its login has to be shown
		roles["GET "+pattern] = public
	}
	return roles
}

// routeOf is the route that a request leads to, as in leastRoles; "" if there is none.
func (h *Handler) routeOf(r *http.Request) string {
	method, path := r.Method, r.URL.RawPath
	if method == http.MethodHead {
		method = http.MethodGet
	}
	if path == "" {
		path = r.URL.Path
	}
	c := chi.NewRouteContext()
	if !h.router.Match(c, method, path) {
		return ""
	}
	return method + " " + c.RoutePattern()
}

// leastRole is the least role that may take a route. What is at an address that leads nowhere is for viewers to know.
func leastRole(roles map[string]job.Role, route string) job.Role {
	if route == "" {
		return job.Viewer
	}
	if least, ok := roles[route]; ok {
		return least
	}
	return job.Admin
}
