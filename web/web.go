// Package web is the page that operators watch and act on: built files, and a handler that serves them.
//
// The sources are in src, in Svelte and TypeScript. `make web` builds dist of them, which is committed: so building the
// daemon needs no node. The page speaks to the daemon only by the API that all programs have.
package web

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"strings"
	"sync"
	"time"
)

//go:embed all:dist
var built embed.FS

const (
	root  = "dist"
	index = "index.html"
	// leastToCompress is the size in bytes from which compression saves more than its header costs.
	leastToCompress = 512
	// firstRows is what the list of jobs shows first (src/live/first.ts). The browser asks for it beside the scripts.
	firstRows = "</api/v1/jobs?ended=false&limit=50>; rel=preload; as=fetch; crossorigin"
)

// Page serves the built page. It may be used by many goroutines.
type Page struct {
	files map[string]*file // by address, without the leading slash
}

// file is one built file.
type file struct {
	kind       string // its content type
	tag        string // of the ETag, without quotes
	body       []byte
	compressed func() []byte // nil where compressing does not pay
}

// New reads the built page. It fails only if the build of this program left it out.
func New() (*Page, error) {
	p := &Page{files: map[string]*file{}}
	whole := sha256.New()
	err := fs.WalkDir(built, root, func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		body, err := fs.ReadFile(built, name)
		if err != nil {
			return err
		}
		_, _ = fmt.Fprintf(whole, "%s %d\n", name, len(body)) // a hash never fails
		_, _ = whole.Write(body)
		sum := sha256.Sum256(body)
		p.files[strings.TrimPrefix(name, root+"/")] = newFile(name, hex.EncodeToString(sum[:8]), body)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the built page: %w", err)
	}
	start, ok := p.files[index]
	if !ok {
		return nil, fmt.Errorf("read the built page: %s is missing", index)
	}
	// The tag of the start file is that of the whole build: a page that asks for it learns whether it is out of date.
	start.tag = hex.EncodeToString(whole.Sum(nil)[:8])
	return p, nil
}

func newFile(name, tag string, body []byte) *file {
	kind := mime.TypeByExtension(path.Ext(name))
	switch path.Ext(name) { // those of the system may differ
	case ".js":
		kind = "text/javascript; charset=utf-8"
	case ".css":
		kind = "text/css; charset=utf-8"
	case ".html":
		kind = "text/html; charset=utf-8"
	case ".svg":
		kind = "image/svg+xml"
	}
	f := &file{kind: kind, tag: tag, body: body}
	if len(body) >= leastToCompress {
		f.compressed = sync.OnceValue(func() []byte { return compress(body) })
	}
	return f
}

func compress(body []byte) []byte {
	var out bytes.Buffer
	w, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
	if err != nil {
		return nil // not for this level
	}
	_, _ = w.Write(body) // a bytes.Buffer takes everything
	_ = w.Close()
	return out.Bytes()
}

// Routes lists the patterns that the page answers, with a final * for everything below. All others are not its own.
func Routes() []string {
	return []string{
		"/", "/jobs/*", "/new", "/volumes", "/history", "/system", "/login", "/assets/*", "/favicon.svg",
	}
}

// ServeHTTP answers GET and HEAD for the addresses of Routes: a built file, or for every other address the start file,
// whose script shows what the address names. A file below /assets/ that there is not is a 404 without a body.
func (p *Page) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name := strings.TrimPrefix(r.URL.Path, "/")
	f, ok := p.files[name]
	switch {
	case ok:
	case strings.HasPrefix(name, "assets/"):
		w.WriteHeader(http.StatusNotFound)
		return
	default:
		f = p.files[index]
	}
	head := w.Header()
	head.Set("Content-Type", f.kind)
	head.Set("Cache-Control", "no-cache") // the names are stable, so each use asks, and the ETag saves the body
	head.Add("Vary", "Accept-Encoding")
	body, tag := f.body, f.tag
	if f.compressed != nil && acceptsGzip(r) {
		if small := f.compressed(); small != nil {
			body, tag = small, tag+"-gz"
			head.Set("Content-Encoding", "gzip")
		}
	}
	head.Set("ETag", `"`+tag+`"`)
	if r.URL.Path == "/" && r.Method == http.MethodGet && !r.URL.Query().Has("sort") {
		head.Set("Link", firstRows)
	}
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(body))
}

// acceptsGzip says whether the client takes a compressed body.
func acceptsGzip(r *http.Request) bool {
	for coding := range strings.SplitSeq(r.Header.Get("Accept-Encoding"), ",") {
		name, weight, _ := strings.Cut(coding, ";")
		if strings.EqualFold(strings.TrimSpace(name), "gzip") {
			w := strings.ReplaceAll(weight, " ", "")
			return w != "q=0" && !strings.HasPrefix(w, "q=0.0")
		}
	}
	return false
}
