package http_test

import (
	"encoding/json"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"

	apihttp "github.com/vmferry/vmferry/http"
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
		if strings.HasPrefix(pattern, "/docs") || strings.HasPrefix(pattern, "/openapi") {
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
