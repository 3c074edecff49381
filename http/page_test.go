package http_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"os"
	"strings"
	"testing"
)

// What a browser must be told of every file of the page.
func TestThePageIsServedWithAStrictPolicy(t *testing.T) {
	_, base := goldenWorld(t)
	for _, address := range []string{"/", "/jobs/job-web", "/assets/index.js", "/assets/worker.js", "/favicon.svg"} {
		resp := head(t, base+address)
		policy := resp.Header.Get("Content-Security-Policy")
		if resp.StatusCode != http.StatusOK || !strings.HasPrefix(policy, "default-src 'self';") ||
			strings.Contains(policy, "unsafe") {
			t.Errorf("%s: %s with the policy %q", address, resp.Status, policy)
		}
		if resp.Header.Get("X-Content-Type-Options") != "nosniff" || resp.Header.Get("ETag") == "" {
			t.Errorf("%s: the header is %v", address, resp.Header)
		}
	}
}

func TestAnAddressOfTheAPIThatThereIsNotIsAProblemAndNotThePage(t *testing.T) {
	_, base := goldenWorld(t)
	for _, address := range []string{"/api/v1/nothing", "/api/v1/jobs/a/b/c", "/nothing", "/index.html"} {
		resp := head(t, base+address)
		if resp.StatusCode != http.StatusNotFound || resp.Header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s: %s of type %q", address, resp.Status, resp.Header.Get("Content-Type"))
		}
	}
}

func head(t *testing.T, address string) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodHead, address, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if err := resp.Body.Close(); err != nil {
		t.Fatal(err)
	}
	return resp
}

// The types of the page are made of web/openapi.json: `make web` after -update.
func TestThePageIsMadeForThisDescription(t *testing.T) {
	const file = "../web/openapi.json"
	_, base := goldenWorld(t)
	var got bytes.Buffer
	if err := json.Indent(&got, fetch(t, base+"/openapi.json"), "", " "); err != nil {
		t.Fatal(err)
	}
	got.WriteByte('\n')
	if *update {
		if err := os.WriteFile(file, got.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Bytes(), want) {
		t.Error("the description of the API has changed: go test ./http -update, then make web")
	}
}
