package web_test

import (
	"bytes"
	"compress/gzip"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/vmferry/vmferry/web"
)

// The most that a browser has to load, in bytes after gzip.
const (
	mostFirst = 130_000 // before anything is shown
	mostAll   = 260_000
)

func get(t *testing.T, address string, header ...string) *httptest.ResponseRecorder {
	t.Helper()
	p, err := web.New()
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, address, http.NoBody)
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	p.ServeHTTP(w, r)
	return w
}

func TestEveryAddressOfThePageGetsTheStartFile(t *testing.T) {
	start := get(t, "/")
	for _, address := range []string{"/jobs/job-web", "/jobs/%3Cscript%3E", "/new", "/history?page=2", "/index.html"} {
		got := get(t, address)
		if got.Code != http.StatusOK || !bytes.Equal(got.Body.Bytes(), start.Body.Bytes()) {
			t.Errorf("GET %s: %d with %d bytes, want the start file", address, got.Code, got.Body.Len())
		}
		if kind := got.Header().Get("Content-Type"); kind != "text/html; charset=utf-8" {
			t.Errorf("GET %s: type %q", address, kind)
		}
	}
}

func TestTheListOfJobsNamesItsFirstRowsInTheHeadOfItsAnswer(t *testing.T) {
	source, err := os.ReadFile("src/live/first.ts")
	if err != nil {
		t.Fatal(err)
	}
	asked := regexp.MustCompile(`const address = '([^']+)'`).FindSubmatch(source)
	if asked == nil {
		t.Fatal("first.ts asks for no address")
	}
	want := "<" + string(asked[1]) + ">; rel=preload; as=fetch; crossorigin"
	for address, link := range map[string]string{
		"/": want, "/?status=running": want,
		"/?sort=vm": "", "/jobs/job-web": "", "/system": "", "/assets/index.js": "",
	} {
		if got := get(t, address).Header().Get("Link"); got != link {
			t.Errorf("GET %s: Link %q, want %q", address, got, link)
		}
	}
}

func TestAFileThatThereIsNotIsNotTheStartFile(t *testing.T) {
	for _, address := range []string{"/assets/none.js", "/assets/", "/assets/../index.html"} {
		if got := get(t, address); got.Code != http.StatusNotFound || got.Body.Len() != 0 {
			t.Errorf("GET %s: %d with %d bytes, want an empty 404", address, got.Code, got.Body.Len())
		}
	}
}

func TestAFileThatIsKnownIsNotSentAgain(t *testing.T) {
	for _, coding := range []string{"", "gzip"} {
		tag := get(t, "/assets/index.js", "Accept-Encoding", coding).Header().Get("ETag")
		if tag == "" {
			t.Fatal("a file without an ETag")
		}
		again := get(t, "/assets/index.js", "Accept-Encoding", coding, "If-None-Match", tag)
		if again.Code != http.StatusNotModified || again.Body.Len() != 0 {
			t.Errorf("coding %q: %d with %d bytes, want an empty 304", coding, again.Code, again.Body.Len())
		}
	}
}

func TestACompressedFileIsTheSameFile(t *testing.T) {
	plain := get(t, "/assets/index.js", "Accept-Encoding", "gzip;q=0, br")
	small := get(t, "/assets/index.js", "Accept-Encoding", "br, gzip")
	if plain.Header().Get("Content-Encoding") != "" || small.Header().Get("Content-Encoding") != "gzip" {
		t.Fatalf("codings %q and %q", plain.Header().Get("Content-Encoding"), small.Header().Get("Content-Encoding"))
	}
	if plain.Header().Get("ETag") == small.Header().Get("ETag") {
		t.Error("two bodies have one ETag")
	}
	r, err := gzip.NewReader(small.Body)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b, plain.Body.Bytes()) {
		t.Error("the compressed file is another one")
	}
}

func TestThePageIsSmall(t *testing.T) {
	var all int
	for _, name := range files(t) {
		all += packed(t, read(t, name))
	}
	seen := map[string]bool{}
	follow(t, "index.html", seen)
	var first int
	for name := range seen {
		first += packed(t, read(t, name))
	}
	t.Logf("first route %d bytes in %d files, all %d bytes", first, len(seen), all)
	if len(seen) < 3 {
		t.Errorf("only %d files are loaded first: how files are named has changed", len(seen))
	}
	if first > mostFirst || all > mostAll {
		t.Errorf("first route %d bytes, at most %d; all %d, at most %d", first, mostFirst, all, mostAll)
	}
}

var (
	inPage = regexp.MustCompile(`(?:src|href)="/([^"]+)"`)
	// What a script loads as soon as it is loaded, and its worker.
	inScript = regexp.MustCompile("(?:from|import) ?[\"'`]\\./([\\w.-]+)[\"'`]|/(assets/worker\\.js)")
)

// follow finds what a browser loads with the start file: what it names, and what those files import.
func follow(t *testing.T, name string, seen map[string]bool) {
	t.Helper()
	if seen[name] {
		return
	}
	seen[name] = true
	body := read(t, name)
	switch path.Ext(name) {
	case ".html":
		for _, m := range inPage.FindAllSubmatch(body, -1) {
			follow(t, string(m[1]), seen)
		}
	case ".js":
		for _, m := range inScript.FindAllSubmatch(body, -1) {
			if len(m[1]) > 0 {
				follow(t, "assets/"+string(m[1]), seen)
			} else {
				follow(t, string(m[2]), seen)
			}
		}
	}
}

// The page's Content-Security-Policy allows no script and no style within the start file.
func TestThePageHasNoInlineScriptAndNoInlineStyle(t *testing.T) {
	body := string(read(t, "index.html"))
	for _, script := range regexp.MustCompile(`(?s)<script([^>]*)>(.*?)</script>`).FindAllStringSubmatch(body, -1) {
		if !strings.Contains(script[1], "src=") || strings.TrimSpace(script[2]) != "" {
			t.Errorf("an inline script: %s", script[0])
		}
	}
	for _, bad := range []string{"<style", " style=", " onload=", " onclick=", "javascript:"} {
		if strings.Contains(body, bad) {
			t.Errorf("the start file has %q", bad)
		}
	}
}

func TestThePageEvaluatesNoText(t *testing.T) {
	eval := regexp.MustCompile(`\beval\(|new Function\(|[^.\w]Function\(["'` + "`]")
	for _, name := range files(t) {
		if found := eval.Find(read(t, name)); path.Ext(name) == ".js" && found != nil {
			t.Errorf("%s has %q", name, found)
		}
	}
}

func TestThePageNamesNoAddressOutside(t *testing.T) {
	address := regexp.MustCompile(`https?://[^\s"'` + "`" + `<>)\\]+|["'(]//[a-z][^\s"'` + "`" + `)]*`)
	known := []string{ // names, never requested
		"http://www.w3.org/", // of XML
		"https://svelte.dev/e/",
	}
	for _, name := range files(t) {
		for _, found := range address.FindAllString(string(read(t, name)), -1) {
			ok := false
			for _, k := range known {
				ok = ok || strings.HasPrefix(found, k)
			}
			if !ok {
				t.Errorf("%s names %s", name, found)
			}
		}
	}
}

// files are the names of all built files.
func files(t *testing.T) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir("dist", func(name string, entry os.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			out = append(out, strings.TrimPrefix(filepath.ToSlash(name), "dist/"))
		}
		return err
	})
	if err != nil || len(out) == 0 {
		t.Fatalf("no built files: %v", err)
	}
	return out
}

func read(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("dist", filepath.FromSlash(name)))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func packed(t *testing.T, body []byte) int {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(body); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Len()
}
