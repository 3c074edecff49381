package http_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"

	apihttp "github.com/vmferry/vmferry/http"
	"github.com/vmferry/vmferry/web"
)

func loadDescription(tb testing.TB, base string) *openapi3.T {
	tb.Helper()
	doc, err := openapi3.NewLoader().LoadFromData(fetch(tb, base+"/openapi.json"))
	if err != nil {
		tb.Fatal(err)
	}
	return doc
}

func fetch(tb testing.TB, url string) []byte {
	tb.Helper()
	req, err := http.NewRequestWithContext(tb.Context(), http.MethodGet, url, http.NoBody)
	if err != nil {
		tb.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		tb.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		tb.Fatalf("GET %s: %s %v", url, resp.Status, err)
	}
	return b
}

func TestTheDescriptionIsValidAndNamesEveryRoute(t *testing.T) {
	h, base := goldenWorld(t)
	doc := loadDescription(t, base)
	if err := doc.Validate(t.Context()); err != nil {
		t.Error(err)
	}
	asYAML, err := openapi3.NewLoader().LoadFromData(fetch(t, base+"/openapi.yaml"))
	if err != nil || asYAML.Paths.Len() != doc.Paths.Len() {
		t.Errorf("the YAML form differs: %v", err)
	}
	err = h.Routes(func(method, pattern string) {
		if strings.HasPrefix(pattern, "/docs") || strings.HasPrefix(pattern, "/openapi") ||
			slices.Contains(web.Routes(), pattern) {
			return
		}
		if item := doc.Paths.Value(described(pattern)); item == nil || item.GetOperation(method) == nil {
			t.Errorf("%s %s is not described", method, pattern)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if doc.Components.Schemas["ErrorModel"] != nil {
		t.Error("the description names a form of error that no route sends")
	}
}

// A program that reads only OpenAPI 3.0 gets the same routes and types in that form.
func TestTheOlderFormSaysTheSame(t *testing.T) {
	_, base := goldenWorld(t)
	text := fetch(t, base+"/openapi-3.0.json")
	older, err := openapi3.NewLoader().LoadFromData(text)
	if err != nil {
		t.Fatal(err)
	}
	if err := older.Validate(t.Context()); err != nil {
		t.Error(err)
	}
	newer := loadDescription(t, base)
	if older.OpenAPI != "3.0.3" || older.Paths.Len() != newer.Paths.Len() ||
		len(older.Components.Schemas) != len(newer.Components.Schemas) {
		t.Errorf("version %s, %d paths of %d, %d types of %d", older.OpenAPI, older.Paths.Len(), newer.Paths.Len(),
			len(older.Components.Schemas), len(newer.Components.Schemas))
	}
	if strings.Contains(string(text), `"null"`) {
		t.Error("there is a type null, which 3.0 does not have")
	}
	report := older.Components.Schemas["Report"].Value
	if !report.Properties["wait"].Value.Nullable || !report.Properties["eta_at"].Value.Nullable ||
		report.Properties["disks"].Value.Nullable {
		t.Error("what may be null in a report is lost")
	}
}

// Generators make a type of each schema and of each set of words in place. Their names must not meet.
func TestNoTypeOfAGeneratedClientHasTheNameOfAnother(t *testing.T) {
	_, base := goldenWorld(t)
	doc := loadDescription(t, base)
	for name, s := range doc.Components.Schemas {
		for property, p := range s.Value.Properties {
			inner := name + strings.ToUpper(property[:1]) + property[1:]
			if p.Ref == "" && len(p.Value.Enum) > 0 && doc.Components.Schemas[inner] != nil {
				t.Errorf("%s is a schema, and the words of %s.%s", inner, name, property)
			}
			if p.Value.Default != nil && strings.HasSuffix(name, "Request") {
				t.Errorf("%s.%s has a default: generators take it for required", name, property)
			}
		}
	}
	for path, item := range doc.Paths.Map() {
		for method, o := range item.Operations() {
			if o.RequestBody != nil && len(o.RequestBody.Value.Content) != 1 {
				t.Errorf("%s %s takes %d types of body", method, path, len(o.RequestBody.Value.Content))
			}
		}
	}
}

// described is the path of a route in the description.
func described(pattern string) string {
	return strings.Replace(pattern, "/api/v1/vms/*", "/api/v1/vms/{vm_path}/cbt-status", 1)
}

// Every answer of every conversation is checked against the description, and so is every body that was accepted.
func TestEveryAnswerIsAsTheDescriptionSays(t *testing.T) {
	checked := 0
	for _, file := range goldenFiles(t) {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		h, base := goldenWorld(t)
		doc := loadDescription(t, base)
		for part := range strings.SplitSeq(string(b), "\n===\n") {
			request, _, _ := strings.Cut(part, "\n---\n")
			if checkExchange(t, h, doc, request, ask(t, base, strings.TrimRight(request, "\n"))) {
				checked++
			}
		}
	}
	if checked < 60 {
		t.Errorf("only %d answers were checked", checked)
	}
}

func checkExchange(t *testing.T, h *apihttp.Handler, doc *openapi3.T, request, answer string) bool {
	t.Helper()
	line, _, _ := strings.Cut(request, "\n")
	method, target, _ := strings.Cut(line, " ")
	path, _, _ := strings.Cut(target, "?")
	item := doc.Paths.Value(described(h.Pattern(method, path)))
	head, body, _ := strings.Cut(answer, "\n\n")
	status, err := strconv.Atoi(head[:3])
	if err != nil {
		t.Fatal(err)
	}
	if item == nil || item.GetOperation(method) == nil || body == "" {
		return false
	}
	op := item.GetOperation(method)
	resp := op.Responses.Status(status)
	if resp == nil {
		resp = op.Responses.Default()
	}
	contentType := headerOf(head, "Content-Type")
	if !strings.Contains(contentType, "json") {
		return false
	}
	media := resp.Value.Content.Get(contentType)
	if media == nil {
		t.Errorf("%s: %d with %s is not described", line, status, contentType)
		return false
	}
	visit(t, line+" answer", media.Schema.Value, body)
	_, sent, _ := strings.Cut(request, "\n\n")
	if status < 300 && sent != "" {
		visit(t, line+" body", op.RequestBody.Value.Content.Get("application/json").Schema.Value, sent)
	}
	return true
}

func headerOf(head, name string) string {
	for line := range strings.SplitSeq(head, "\n") {
		if v, ok := strings.CutPrefix(line, name+": "); ok {
			return v
		}
	}
	return ""
}

func visit(t *testing.T, what string, schema *openapi3.Schema, text string) {
	t.Helper()
	var v any
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Errorf("%s: %v", what, err)
		return
	}
	if err := schema.VisitJSON(v, openapi3.EnableJSONSchema2020()); err != nil {
		t.Errorf("%s: %v", what, err)
	}
}

func TestEachGroupOfRoutesIsDescribed(t *testing.T) {
	_, base := goldenWorld(t)
	var doc struct {
		Tags  []struct{ Name, Description string }
		Paths map[string]map[string]struct {
			Tags []string `json:"tags"`
		}
	}
	if err := json.Unmarshal(fetch(t, base+"/openapi.json"), &doc); err != nil {
		t.Fatal(err)
	}
	described := map[string]bool{}
	for _, tag := range doc.Tags {
		described[tag.Name] = tag.Description != ""
	}
	for path, operations := range doc.Paths {
		for method, o := range operations {
			for _, tag := range o.Tags {
				if !described[tag] {
					t.Errorf("the group %s of %s %s is not described", tag, method, path)
				}
			}
		}
	}
}

// TestAllFormsOfTheDescriptionAreMadeAtTheSameTime asks for each form twice, all at once: each is made at its first
// request.
func TestAllFormsOfTheDescriptionAreMadeAtTheSameTime(t *testing.T) {
	_, base := goldenWorld(t)
	paths := []string{"/openapi.json", "/openapi-3.0.json", "/openapi.yaml", "/docs"}
	bodies := make([][2][]byte, len(paths))
	var asked sync.WaitGroup
	for i, path := range paths {
		for k := range bodies[i] {
			asked.Go(func() { bodies[i][k] = fetch(t, base+path) })
		}
	}
	asked.Wait()
	for i, b := range bodies {
		if len(b[0]) == 0 || !bytes.Equal(b[0], b[1]) {
			t.Errorf("%s: %d and %d bytes, want the same", paths[i], len(b[0]), len(b[1]))
		}
	}
}
