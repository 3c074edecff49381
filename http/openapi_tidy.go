package http

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
)

// This file makes the description one that linters pass and that programs make clients from: each closed set of words
// has a name, lists are never null, and there is a form for programs that read only OpenAPI 3.0.

// wordSets are the closed sets of words that have a schema of their own. A schema of its own gives a generated client
// one type for all places; in place, the type of Report.phase would be called like that of the schema ReportPhase.
func wordSets() map[reflect.Type]string {
	return map[reflect.Type]string{
		reflect.TypeFor[job.Status]():    "JobStatus",
		reflect.TypeFor[job.Phase]():     "JobPhase",
		reflect.TypeFor[job.Role]():      "Role",
		reflect.TypeFor[job.Mode]():      "JobMode",
		reflect.TypeFor[job.Verb]():      "JobVerb",
		reflect.TypeFor[job.DiskPhase](): "DiskStatus",
		reflect.TypeFor[report.Health](): "HealthFlag",
		reflect.TypeFor[report.Origin](): "JobOrigin",

		reflect.TypeFor[report.WaitedFor](): "WaitedFor",
	}
}

const schemaPrefix = "#/components/schemas/"

// nameWords adds the schemas of the closed sets.
func nameWords(schemas huma.Registry) {
	for t, name := range wordSets() {
		s := &huma.Schema{Type: huma.TypeString, Enum: words(t)}
		s.PrecomputeMessages()
		schemas.Map()[name] = s
	}
}

// wordsRef refers to the schema of a closed set; nil for any other type.
func wordsRef(t reflect.Type) *huma.Schema {
	if name := wordSets()[t]; name != "" {
		return &huma.Schema{Ref: schemaPrefix + name}
	}
	return nil
}

// tidy changes what huma adds for itself: lists that may be null, defaults of the parts of a body, and the bytes of a
// body as a type of their own. A generator takes a part with a default for one that always comes. Every operation has
// problems of its own: any request may be refused.
func tidy(doc *huma.OpenAPI) {
	for name, s := range doc.Components.Schemas.Map() {
		neverNull(s)
		if !strings.HasSuffix(name, "Request") {
			continue
		}
		for _, p := range s.Properties {
			if p.Default != nil {
				value := reflect.Indirect(reflect.ValueOf(p.Default)) // of a part that may be left out, a pointer
				p.Description = strings.TrimPrefix(fmt.Sprintf("%s; default %v", p.Description, value), "; ")
				p.Default = nil
			}
		}
	}
	for _, o := range operations(doc) {
		if o.RequestBody != nil {
			delete(o.RequestBody.Content, "application/octet-stream")
		}
		if o.Responses["404"] == nil {
			o.Responses["4XX"] = problemResponse(doc.Components.Schemas)
		}
		for _, p := range o.Parameters {
			neverNull(p.Schema)
		}
		for _, a := range o.Responses {
			for _, m := range a.Content {
				neverNull(m.Schema)
			}
		}
	}
}

func neverNull(s *huma.Schema) {
	if s == nil {
		return
	}
	if s.Type == huma.TypeArray {
		s.Nullable = false
	}
	neverNull(s.Items)
	for _, p := range s.Properties {
		neverNull(p)
	}
}

// operations are all operations of the description, in no order.
func operations(doc *huma.OpenAPI) []*huma.Operation {
	var out []*huma.Operation
	for _, item := range doc.Paths {
		for _, o := range []*huma.Operation{item.Get, item.Post, item.Patch, item.Delete} {
			if o != nil {
				out = append(out, o)
			}
		}
	}
	return out
}

// tags are the groups of routes, for the description.
func tags() []*huma.Tag {
	return []*huma.Tag{
		{Name: "events", Description: "Reports of jobs as they come"},
		{Name: "healthz", Description: "Whether the daemon answers"},
		{Name: "history", Description: "Jobs in the tables that the history is kept in"},
		{Name: "jobs", Description: "Jobs: submit, follow, command, forget"},
		{Name: "limits", Description: "Limits of the node"},
		{Name: "livez", Description: "Whether the daemon answers"},
		{Name: "metrics", Description: "Metrics for Prometheus"},
		{Name: "nodes", Description: "Other nodes: how each is seen, and the link with it"},
		{Name: "preflight", Description: "Checks that change nothing"},
		{Name: "progress", Description: "Jobs in the words of older tools"},
		{Name: "readyz", Description: "Whether the daemon can accept jobs"},
		{Name: "session", Description: "Logins of a browser"},
		{Name: "system", Description: "The state of the daemon"},
		{Name: "throughput", Description: "Speeds over time, of all jobs together"},
		{Name: "tokens", Description: "Who may do what"},
		{Name: "vms", Description: "VMs of the vCenter; one of them in the words of older tools"},
		{Name: "volumes", Description: "Targets, and whose they are"},
	}
}

// downgrade writes the description as OpenAPI 3.0.3.
func downgrade(doc *huma.OpenAPI) ([]byte, error) {
	b, err := doc.Downgrade()
	if err != nil {
		return nil, err
	}
	var tree any
	if err := json.Unmarshal(b, &tree); err != nil {
		return nil, err
	}
	return json.Marshal(olderForm(tree))
}

// olderForm changes what huma leaves in the form of OpenAPI 3.1: an object or null, and a reference with a description.
func olderForm(v any) any {
	switch v := v.(type) {
	case []any:
		for i := range v {
			v[i] = olderForm(v[i])
		}
	case map[string]any:
		for k := range v {
			v[k] = olderForm(v[k])
		}
		if ref, ok := v["$ref"]; ok && len(v) > 1 {
			delete(v, "$ref")
			v["allOf"] = []any{map[string]any{"$ref": ref}}
		}
		either, _ := v["anyOf"].([]any)
		rest := slices.DeleteFunc(either, func(one any) bool {
			m, ok := one.(map[string]any)
			return ok && m["type"] == "null"
		})
		if len(rest) == 1 {
			delete(v, "anyOf")
			v["type"], v["allOf"], v["nullable"] = huma.TypeObject, rest, true
		}
	}
	return v
}
