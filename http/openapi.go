package http

import (
	"bytes"
	"cmp"
	"embed"
	"encoding/json"
	"html/template"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/danielgtaylor/huma/v2"

	"github.com/vmferry/vmferry/http/rest"
	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
)

//go:embed docs.html docs.css
var docs embed.FS

// describe finishes the API's description and adds the routes that serve it. No route may be registered later.
func (h *Handler) describe(api huma.API) error {
	doc := api.OpenAPI()
	doc.Info.Description = "Moves running VMware VMs to a KVM cloud and shows the progress. " +
		"Sizes are bytes, times are RFC 3339 in UTC, unknown values are null."
	doc.Info.Contact = &huma.Contact{Name: "vmferry", URL: "https://github.com/vmferry/vmferry"}
	doc.Servers = []*huma.Server{{URL: "/", Description: "The daemon that serves this description"}}
	secure(doc)
	doc.Tags = tags()
	schemas := doc.Components.Schemas
	for _, o := range plainOperations(schemas) {
		doc.AddOperation(o)
	}
	h.verbs = map[string]string{}
	for _, o := range operations(doc) {
		h.verbs[o.Method+" "+o.Path] = o.OperationID
		o.Tags = []string{titleWord(o.Path)}
		o.Description = cmp.Or(o.Description, o.Summary+".")
	}
	delete(schemas.Map(), "ErrorModel") // huma's form of errors, which no route sends
	delete(schemas.Map(), "ErrorDetail")
	explain(schemas)
	nameWords(schemas)
	refine(schemas, reflect.TypeFor[report.Report](), map[reflect.Type]bool{})
	for _, t := range []reflect.Type{
		reflect.TypeFor[rest.SystemReport](), reflect.TypeFor[LegacyProgress](), reflect.TypeFor[rest.Throughput](),
		reflect.TypeFor[rest.TotalThroughput](), reflect.TypeFor[rest.BulkReport](),
		reflect.TypeFor[rest.BulkRequest](), reflect.TypeFor[rest.Node](),
		reflect.TypeFor[rest.JobReport](), reflect.TypeFor[rest.VMList](),
		reflect.TypeFor[rest.Session](), reflect.TypeFor[rest.Token](), reflect.TypeFor[rest.NewToken](),
	} {
		refine(schemas, t, map[reflect.Type]bool{})
	}
	tidy(doc)
	style, err := docs.ReadFile("docs.css")
	if err != nil {
		return job.Errorf("describe the API", job.Internal, "", "%w", err)
	}
	const asJSON, asYAML, asHTML = "application/openapi+json", "application/openapi+yaml", "text/html; charset=utf-8"
	h.router.Get("/openapi.json", made(asJSON, func() ([]byte, error) { return json.Marshal(doc) }))
	h.router.Get("/openapi-3.0.json", made(asJSON, func() ([]byte, error) { return downgrade(doc) }))
	h.router.Get("/openapi.yaml", made(asYAML, doc.YAML))
	h.router.Get("/docs", made(asHTML, func() ([]byte, error) { return docsPage(doc) }))
	h.router.Get("/docs/docs.css", fixed("text/css; charset=utf-8", style))
	return nil
}

// made serves a body that is made at the first request: a start of the daemon does not wait for it.
func made(contentType string, body func() ([]byte, error)) http.HandlerFunc {
	once := sync.OnceValues(body)
	return func(w http.ResponseWriter, r *http.Request) {
		b, err := once()
		if err != nil {
			writeProblem(w, r, problemOf(job.Errorf("describe the API", job.Internal, "", "%w", err)))
			return
		}
		fixed(contentType, b)(w, r)
	}
}

// secure describes what a request needs: nothing where the daemon is open, else a token in the header or a login.
func secure(doc *huma.OpenAPI) {
	doc.Components.SecuritySchemes = map[string]*huma.SecurityScheme{
		"token": {Type: "http", Scheme: "bearer", Description: "A token of vmferry token create"},
		"login": {Type: "apiKey", In: "cookie", Name: sessionCookie, Description: "Set by POST " + rest.SessionPath},
	}
	doc.Security = []map[string][]string{{}, {"token": {}}, {"login": {}}}
}

func fixed(contentType string, body []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		_, _ = w.Write(body) // the client has gone if this fails
	}
}

// schemaName is the name of a type in the API's description. The parts of a report keep the names that clients have
// always seen: report.Disk is ReportDisk.
func schemaName(t reflect.Type, hint string) string {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	name := huma.DefaultSchemaNamer(t, hint)
	switch t {
	case reflect.TypeFor[report.VM](), reflect.TypeFor[report.Snapshot](), reflect.TypeFor[report.Error](),
		reflect.TypeFor[report.Phase](), reflect.TypeFor[report.Round](), reflect.TypeFor[report.Disk]():
		return "Report" + name
	}
	return name
}

// explain describes the fields whose text is too long for a tag.
func explain(schemas huma.Registry) {
	for name, text := range map[string]string{
		"JobRequest.job_id":      "1 to 128 characters of A-Z, a-z, 0-9 and . _ : - ; left out, one is made",
		"JobRequest.vm":          "Inventory path, UUID, moref or unique name",
		"JobRequest.mode":        "auto: incremental where a checkpoint set fits, else full",
		"JobRequest.node":        "At an OMA: the node that runs the job; left out, the one whose vCenter has the VM",
		"JobRequest.targets":     "One for each disk; left out, each keeps its last target, or gets a raw file",
		"TargetRequest.uri":      "NBD URI, path of a regular file or block device, or a volume's name",
		"OptionsRequest.verify":  "How much is read back before a round counts",
		"OptionsRequest.quiesce": "Ask the guest to quiesce its file systems for the snapshot",
		"OptionsRequest.disks":   "How many disks are copied at the same time; 0 for no limit",
		"OptionsRequest.cutover": "auto: done after the first round; manual: waits for sync or cutover",
		"OptionsRequest.adopt":   "Take over targets of another VM or with data of others, and overwrite them",
		"OptionsRequest.strict":  "Fail, instead of copying in full, if others have written to a target",
		"OptionsRequest.patience": "How long to wait for what is unavailable: 1 s to 30 days, in seconds or as " +
			"in 4h; 0 for what the configuration says",
		"OptionsRequest.last_round_patience": "The same in a last round that follows a committed one",
		"PatchRequest.patience":              "How long to wait for what is unavailable, as in POST",
		"PatchRequest.last_round_patience":   "The same in a last round that follows a committed one",
		"PatchRequest.disks":                 "How many disks of the job are copied at the same time; 0 for no limit",
		"TokenRequest.expires_in_seconds":    "When the token ends, at most 10 years; 0: never; left out: 90 days",
	} {
		schema, field, _ := strings.Cut(name, ".")
		schemas.Map()[schema].Properties[field].Description = text
	}
}

// refine adds to the schemas what huma does not see in Go's types: pointers to structs may be null, and strings of
// closed sets have known words. huma takes any value for one that may be null: what is checked needs nullable:"false".
func refine(schemas huma.Registry, t reflect.Type, seen map[reflect.Type]bool) {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct || seen[t] || schemas.Map()[schemaName(t, "")] == nil {
		return
	}
	seen[t] = true
	properties := schemas.Map()[schemaName(t, "")].Properties
	for f := range t.Fields() {
		name := jsonName(f)
		s := properties[name]
		if s == nil {
			continue
		}
		switch {
		case f.Type.Kind() == reflect.Pointer && s.Ref != "" && f.Tag.Get("nullable") != "false":
			properties[name] = &huma.Schema{AnyOf: []*huma.Schema{{Ref: s.Ref}, {Type: "null"}}}
		case f.Type.Kind() == reflect.Slice:
			if ref := wordsRef(f.Type.Elem()); ref != nil && s.Items != nil {
				s.Items = ref
			}
		case f.Type.Kind() == reflect.String && len(s.Enum) == 0:
			if ref := wordsRef(f.Type); ref != nil {
				properties[name] = ref
			}
		}
		refine(schemas, f.Type, seen)
	}
}

func jsonName(f reflect.StructField) string {
	tag := f.Tag.Get("json")
	for i := range len(tag) {
		if tag[i] == ',' {
			return tag[:i]
		}
	}
	return tag
}

// words lists the values of a type that is a closed set; nil for any other type.
func words(t reflect.Type) []any {
	switch t {
	case reflect.TypeFor[job.Status]():
		return anys(job.Pending, job.Running, job.Paused, job.WaitingCutover, job.StatusCompleted, job.StatusFailed,
			job.StatusCancelled, job.Unreachable, job.Lost)
	case reflect.TypeFor[job.Phase]():
		return append(anys(job.Way()...), anys(job.Failed, job.PhaseCancelled)...)
	case reflect.TypeFor[report.Health]():
		return anys(report.Throttled, report.Retrying, report.Unavailable, report.Silent, report.Stalled,
			report.Degraded, report.Stale)
	case reflect.TypeFor[job.Role]():
		return anys(job.Roles()...)
	case reflect.TypeFor[job.Mode]():
		return anys(job.Auto, job.Full, job.Incremental)
	case reflect.TypeFor[report.Origin]():
		return anys(report.Own, report.External)
	case reflect.TypeFor[report.WaitedFor]():
		return anys(report.WaitedForWords()...)
	case reflect.TypeFor[job.Verb]():
		return anys(job.Pause, job.Resume, job.Cancel, job.Retry, job.Sync, job.CutoverNow, job.Delete)
	case reflect.TypeFor[job.DiskPhase]():
		return anys(job.DiskPending, job.DiskRunning, job.DiskBackoff, job.DiskPaused, job.DiskCopied,
			job.DiskVerifying, job.DiskDone, job.DiskFailed)
	default:
		return nil
	}
}

func anys[T ~string](list ...T) []any {
	out := make([]any, 0, len(list))
	for _, v := range list {
		out = append(out, string(v))
	}
	return out
}

// plainOperations describes the routes that do not use huma.
func plainOperations(schemas huma.Registry) []*huma.Operation {
	schema := func(t reflect.Type) *huma.Schema { return schemas.Schema(t, true, t.Name()) }
	text := &huma.Schema{Type: huma.TypeString}
	jobID := &huma.Param{Name: "job_id", In: "path", Required: true, Schema: text, Description: "Job id"}
	progress, update, vm := op("getProgress", http.MethodGet, "/api/v1/progress/{job_id}",
		"A job in the words of older tools",
		"The same numbers as in /api/v1/jobs/{id}, under the names that older pollers read."),
		op("updateProgress", http.MethodPost, "/api/v1/progress/{job_id}/update", "Take a report of another copy tool",
			"The first update for an unknown id makes the job. A late one, with fewer bytes than known, is ignored. "+
				"409 if the id is that of a job of vmferry itself, 429 if too many jobs of other tools are known."),
		op("getCBTStatus", http.MethodGet, "/api/v1/vms/{vm_path}/cbt-status",
			"Whether changed blocks of a VM are tracked", "The path may hold slashes, escaped or not.")
	progress.Parameters, update.Parameters = []*huma.Param{jobID}, []*huma.Param{jobID}
	vm.Parameters = []*huma.Param{{
		Name: "vm_path", In: "path", Required: true, Schema: text,
		Description: "Inventory path, UUID, moref or unique name",
	}}
	progress.Responses = answers(schemas, schema(reflect.TypeFor[LegacyProgress]()))
	progress.Responses["304"] = &huma.Response{Description: "The job has not changed since the ETag"}
	progress.Responses["404"] = answer("No such job", "application/json", schema(reflect.TypeFor[LegacyNotFound]()))
	update.RequestBody = &huma.RequestBody{
		Required: true,
		Content: map[string]*huma.MediaType{
			"application/json": {Schema: schema(reflect.TypeFor[rest.ProgressUpdate]())},
		},
	}
	update.Responses = answers(schemas, schema(reflect.TypeFor[ProgressAccepted]()))
	vm.Responses = answers(schemas, schema(reflect.TypeFor[CBTStatus]()))
	live, health, ready, metrics := op("live", http.MethodGet, "/livez", "Whether requests are answered", ""),
		op("healthz", http.MethodGet, "/healthz", "The same as /livez", ""),
		op("ready", http.MethodGet, "/readyz", "Whether jobs can be accepted",
			"503 if not. A vCenter or a sink that is away makes the status degraded, with 200."),
		op("metrics", http.MethodGet, "/metrics", "Metrics for Prometheus", "")
	status := &huma.Schema{Type: huma.TypeObject, Properties: map[string]*huma.Schema{"status": text}}
	live.Responses, health.Responses = answers(schemas, status), answers(schemas, status)
	ready.Parameters = []*huma.Param{{
		Name: "verbose", In: "query", AllowEmptyValue: true, Schema: text,
		Description: "Tell of the vCenter and of each sink",
	}}
	ready.Responses = answers(schemas, schema(reflect.TypeFor[rest.Readiness]()))
	ready.Responses["503"] = answer("Jobs can't be accepted", "application/json",
		schema(reflect.TypeFor[rest.Readiness]()))
	metrics.Responses = map[string]*huma.Response{"200": answer("OK", "text/plain", text)}
	events := eventsOperation(schemas)
	file := reportOperation(schemas, schema(reflect.TypeFor[rest.JobReport]()))
	return []*huma.Operation{events, file, &progress, &update, &vm, &live, &health, &ready, &metrics}
}

func eventsOperation(schemas huma.Registry) *huma.Operation {
	text := &huma.Schema{Type: huma.TypeString}
	o := op("followEvents", http.MethodGet, "/api/v1/events", "Follow the jobs",
		"Server-sent events. First `snapshot` with {\"jobs\":[...]}, then `progress` with one job each, "+
			"at most four a second of each job, and `deleted` with {\"job_id\":...,\"deleted\":true,\"epoch\":..., "+
			"\"seq\":...,\"deleted_at\":...}. After a snapshot, a job that is not in it is gone. "+
			"The id of an event is the version of its report. A client that "+
			"comes back with Last-Event-ID gets what it missed, or a snapshot if that is not kept any more. "+
			"After two seconds in which nothing was sent comes `time` with {\"time_ms\":...}, the daemon's clock "+
			"in ms since 1970, which every answer also has in its header Vmferry-Time: the age of a report is that "+
			"minus sampled_at.")
	o.Parameters = []*huma.Param{
		{Name: "jobs", In: "query", Schema: text, Description: "Only these jobs, with commas between them"},
		{
			Name: "last_event_id", In: "query", Schema: text,
			Description: "Like the header, for clients that cannot set it",
		},
		{Name: "Last-Event-ID", In: "header", Schema: text, Description: "The last id that the client has seen"},
	}
	o.Responses = map[string]*huma.Response{
		"200":     answer("The stream", "text/event-stream", text),
		"default": problemResponse(schemas),
	}
	return &o
}

func answers(schemas huma.Registry, s *huma.Schema) map[string]*huma.Response {
	return map[string]*huma.Response{"200": answer("OK", "application/json", s), "default": problemResponse(schemas)}
}

func answer(description, contentType string, s *huma.Schema) *huma.Response {
	return &huma.Response{Description: description, Content: map[string]*huma.MediaType{contentType: {Schema: s}}}
}

// docsOperation is one route on the page /docs.
type docsOperation struct {
	Method, Path, Summary, Description string
	Parameters                         []docsParameter
	Body, Answer                       string // names of types
}

type docsParameter struct{ Name, In, Description string }

// docsPage writes the description as one page without scripts and without files from other servers.
func docsPage(doc *huma.OpenAPI) ([]byte, error) {
	page, err := template.ParseFS(docs, "docs.html")
	if err != nil {
		return nil, err
	}
	var list []docsOperation
	for _, at := range slices.Sorted(maps.Keys(doc.Paths)) {
		item := doc.Paths[at]
		for _, o := range []*huma.Operation{item.Get, item.Post, item.Patch, item.Delete} {
			if o != nil {
				list = append(list, docsOperationOf(o))
			}
		}
	}
	types := map[string]string{}
	for name, s := range doc.Components.Schemas.Map() {
		b, err := json.MarshalIndent(s, "", "  ")
		if err != nil {
			return nil, err
		}
		types[name] = string(b)
	}
	return render(page, map[string]any{"Info": doc.Info, "Operations": list, "Types": types})
}

func docsOperationOf(o *huma.Operation) docsOperation {
	d := docsOperation{Method: o.Method, Path: o.Path, Summary: o.Summary, Description: o.Description}
	for _, p := range o.Parameters {
		d.Parameters = append(d.Parameters, docsParameter{p.Name, p.In, cmp.Or(p.Description, p.Schema.Description)})
	}
	if o.RequestBody != nil {
		d.Body = typeOf(o.RequestBody.Content["application/json"])
	}
	for _, status := range []string{"200", "201", "202"} {
		if a := o.Responses[status]; a != nil && d.Answer == "" {
			d.Answer = typeOf(a.Content["application/json"])
		}
	}
	return d
}

// typeOf is the name of the type of a body, or of the elements of a list; "" if the type has no name.
func typeOf(m *huma.MediaType) string {
	if m == nil || m.Schema == nil {
		return ""
	}
	ref := m.Schema.Ref
	if m.Schema.Items != nil {
		ref = m.Schema.Items.Ref
	}
	_, name, _ := strings.Cut(ref, schemaPrefix)
	return name
}

func render(page *template.Template, data any) ([]byte, error) {
	var out bytes.Buffer
	if err := page.Execute(&out, data); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// rate describes a rest.Rate, which is an integer or a text.
type rate struct{}

// Schema implements huma.SchemaProvider.
func (rate) Schema(huma.Registry) *huma.Schema {
	least := 0.0
	return &huma.Schema{
		Description: "Bytes per second over all disks of the job, as an integer or as in 200MiB; 0 for no limit",
		OneOf: []*huma.Schema{
			{Type: huma.TypeInteger, Format: "int64", Minimum: &least},
			{
				Type: huma.TypeString, MaxLength: new(40),
				Pattern: `^ *[0-9]+(\.[0-9]+)? *([KkMmGgTt]([Ii]?[Bb])?|[Bb])?(/s)? *$`,
			},
		},
	}
}

// duration describes a rest.Duration, which is an integer or a text.
type duration struct{}

// Schema implements huma.SchemaProvider.
func (duration) Schema(huma.Registry) *huma.Schema {
	least := 0.0
	return &huma.Schema{
		Description: "A time from 1 s to 30 days, in seconds or as in 4h; 0 for what the configuration says",
		OneOf: []*huma.Schema{
			{Type: huma.TypeInteger, Format: "int64", Minimum: &least},
			{Type: huma.TypeString, MaxLength: new(40), Pattern: `^([0-9]+(\.[0-9]+)?(h|m|s|ms))+$`},
		},
	}
}
