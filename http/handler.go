package http

import (
	"cmp"
	"context"
	"log/slog"
	"net/http"
	"reflect"
	"strings"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humachi"
	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/vmferry/vmferry/http/rest"
	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/web"
)

// Options are what a Handler is made of. Reports, Commands, Volumes and System must be set.
type Options struct {
	Reports  Reports
	Commands Commands
	Volumes  Volumes
	Source   Source // nil: no vCenter is configured
	System   System
	Nodes    Nodes                // nil: this daemon watches no nodes
	History  History              // nil: none is kept in SQL
	Speeds   Speeds               // of the jobs over time; nil: none are known
	Registry *prometheus.Registry // for /metrics, with the series of the jobs; nil: the Go runtime and the process
	Log      *slog.Logger         // nil discards
	Version  string               // of the build
	Hosts    []string             // host names under which the daemon answers, with localhost and loopback addresses

	Tokens            TokenStore    // nil: no listener asks for tokens
	Certificate       *Certificate  // of the TLS listener: the daemon answers under its names; nil without one
	SessionLife       time.Duration // how long a login in a browser lasts; 0 for 12 hours
	RequestsPerSecond float64       // of one client, where tokens are asked for, and twice as many at once; 0: no limit

	Now func() time.Time // nil for time.Now
}

// Handler answers every request. It may be used by many goroutines.
type Handler struct {
	reports  Reports
	commands Commands
	volumes  Volumes
	source   Source
	system   System
	nodes    Nodes
	history  History
	speeds   Speeds
	version  string
	log      *slog.Logger
	now      func() time.Time
	streams  streams
	frames   frames
	pages    sync.Pool // of *bytes.Buffer, for pages of the list
	restarts restarts

	inventory *inventory
	router    *chi.Mux
	serve     http.Handler
	end       context.CancelFunc
	done      sync.WaitGroup
	limiting  sync.Mutex // held while limits of the node are changed
	gate      *gate
	verbs     map[string]string // operation ids by route

	sessionLife time.Duration
}

// strictNames makes huma refuse names in another case than ours. It holds for the whole process.
var strictNames = sync.OnceFunc(func() { huma.ValidateStrictCasing = true }) //nolint:gochecknoglobals // huma's is one

// New makes a handler that lives until Close, or until ctx ends.
func New(ctx context.Context, o Options) (*Handler, error) {
	if o.Reports == nil || o.Commands == nil || o.Volumes == nil || o.System == nil {
		return nil, job.Errorf("make the HTTP handler", job.Internal, "",
			"reports, commands, volumes or system are missing")
	}
	strictNames()
	h := &Handler{
		reports: o.Reports, commands: o.Commands, volumes: o.Volumes, source: o.Source, system: o.System,
		version: o.Version, log: o.Log, now: o.Now, nodes: o.Nodes, history: o.History,
		speeds:   o.Speeds,
		streams:  streams{open: map[*stream]context.CancelFunc{}, limits: standardLimits()},
		frames:   frames{jobs: map[job.ID]frame{}},
		restarts: restarts{seen: map[job.ID]map[job.DiskID]int{}, by: map[job.Kind]int{}},
		router:   chi.NewRouter(), inventory: newInventory(),
	}
	if h.log == nil {
		h.log = slog.New(slog.DiscardHandler)
	}
	if h.now == nil {
		h.now = time.Now
	}
	if h.speeds == nil {
		h.speeds = noSpeeds{}
	}
	ctx, h.end = context.WithCancel(ctx)
	if err := h.open(ctx, o); err != nil {
		h.end()
		return nil, err
	}
	if h.gate.tokens != nil {
		h.done.Go(func() { h.gate.tokens.keep(ctx) })
	}
	h.done.Go(func() { h.restarts.run(ctx, h.reports) })
	context.AfterFunc(ctx, h.streams.close)
	return h, nil
}

// open makes the steps of a request. ctx is that of the handler.
func (h *Handler) open(ctx context.Context, o Options) error {
	h.sessionLife = cmp.Or(o.SessionLife, sessionLife)
	h.gate = &gate{
		h: h, roles: leastRoles(), clients: clients{perSecond: o.RequestsPerSecond}, next: h.router,
		origin: http.NewCrossOriginProtection(),
	}
	if o.Tokens != nil {
		var err error
		if h.gate.tokens, err = openTokens(ctx, o.Tokens, h.log, h.now); err != nil {
			return err
		}
	}
	if err := h.routes(o); err != nil {
		return err
	}
	h.serve = guard{
		hosts: o.Hosts, certificate: o.Certificate, log: h.log, now: h.now, next: h.gate,
	}.handler()
	return nil
}

// ServeHTTP answers one request.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) { h.serve.ServeHTTP(w, r) }

// Close ends the event streams and the handler's own goroutine, and waits for the goroutine. Other requests are still
// answered. It may be called more than once, by any goroutine.
func (h *Handler) Close() {
	h.end()
	h.streams.close()
	h.done.Wait()
}

// routes registers all routes. The API's description is made last, when all routes are known.
func (h *Handler) routes(o Options) error {
	r := h.router
	r.Use(middleware.GetHead, joinConditions)
	r.NotFound(func(w http.ResponseWriter, r *http.Request) {
		writeProblem(w, r, rest.NewProblem(rest.CodeRouteNotFound, "there is nothing at "+instanceOf(r),
			"See /docs for all addresses"))
	})
	r.MethodNotAllowed(h.methodNotAllowed)
	var api huma.API
	r.Group(func(r chi.Router) {
		r.Use(strictQuery, strictBody)
		api = humachi.New(r, h.config())
		h.registerJobs(api)
		h.registerList(api)
		h.registerBulk(api)
		h.registerDetails(api)
		h.registerThroughput(api)
		h.registerSystem(api)
		h.registerPreflight(api)
		h.registerVMs(api)
		h.registerLimits(api)
		h.registerVolumes(api)
		h.registerNodes(api)
		h.registerHistory(api)
		h.registerSession(api)
		h.registerTokens(api)
	})
	h.plainRoutes(r, o.Registry)
	page, err := web.New()
	if err != nil {
		return job.Errorf("make the HTTP handler", job.Internal, "", "%w", err)
	}
	for _, pattern := range web.Routes() {
		r.Method(http.MethodGet, pattern, page)
	}
	return h.describe(api)
}

func (h *Handler) plainRoutes(r chi.Router, registry *prometheus.Registry) {
	r.Get("/api/v1/events", h.events)
	r.Get("/api/v1/jobs/{id}/report", h.jobReport)
	r.Get("/api/v1/progress/{job_id}", h.progress)
	r.Post("/api/v1/progress/{job_id}/update", h.update)
	r.Get("/api/v1/vms/*", h.cbtStatus)
	r.Get("/livez", h.live)
	r.Get("/healthz", h.live)
	r.Get("/readyz", h.ready)
	r.Method(http.MethodGet, "/metrics", h.metrics(registry))
}

// config is huma's configuration: no schema links in bodies, and vmferry's own description and form of errors.
func (h *Handler) config() huma.Config {
	c := huma.DefaultConfig("vmferry", h.version)
	c.Components.Schemas = huma.NewMapRegistry("#/components/schemas/", schemaName)
	c.CreateHooks = nil
	c.OpenAPIPath, c.DocsPath, c.SchemasPath = "", "", ""
	c.RejectUnknownQueryParameters = true
	c.Formats = map[string]huma.Format{"application/json": jsonFormat(), "json": jsonFormat()}
	c.Transformers = []huma.Transformer{h.transform}
	c.Components.Schemas.RegisterTypeAlias(reflect.TypeFor[rest.Rate](), reflect.TypeFor[rate]())
	c.Components.Schemas.RegisterTypeAlias(reflect.TypeFor[rest.Duration](), reflect.TypeFor[duration]())
	return c
}

// transform gives every error of a huma route the form of a problem, and logs it if its status is 500. No later step
// sees the error.
func (h *Handler) transform(ctx huma.Context, _ string, v any) (any, error) {
	var p *rest.Problem
	switch e := v.(type) {
	case *rest.Problem:
		shared := *e
		p = &shared
	case *huma.ErrorModel:
		if e.Status == http.StatusNotModified {
			return v, nil
		}
		p = problemOfHuma(e)
	default:
		return v, nil
	}
	r, _ := humachi.Unwrap(ctx)
	noteCode(r.Context(), p.Code)
	p.Instance = instanceOf(r)
	if p.Status == http.StatusInternalServerError {
		h.log.ErrorContext(r.Context(), "request failed", "method", r.Method, "path", p.Instance, "code", p.Code, "err",
			p.Detail)
	}
	return p, nil
}

func (h *Handler) methodNotAllowed(w http.ResponseWriter, r *http.Request) {
	path := r.URL.RawPath
	if path == "" {
		path = r.URL.Path
	}
	var allowed []string
	for _, m := range []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPatch, http.MethodDelete} {
		probe := m
		if m == http.MethodHead {
			probe = http.MethodGet
		}
		if h.router.Match(chi.NewRouteContext(), probe, path) {
			allowed = append(allowed, m)
		}
	}
	w.Header().Set("Allow", strings.Join(append(allowed, http.MethodOptions), ", "))
	if r.Method == http.MethodOptions {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	writeProblem(w, r, rest.NewProblem(rest.CodeMethodNotAllowed, "this address does not take "+r.Method,
		"See /docs for all addresses"))
}
