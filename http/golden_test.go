package http_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	apihttp "github.com/vmferry/vmferry/http"
	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/web"
)

var update = flag.Bool("update", false, "rewrite the golden files with what the server answers")

// oldToolUpdate is an update with all fields, as an older copy tool sends it.
const oldToolUpdate = `{"stage":"Transfer","status":"in_progress","bytes_transferred":65536,"total_bytes":43253760,` +
	`"throughput_bps":0,"percent":0.15,"disk_id":"disk-2000","sync_type":"full","error_message":""}`

// Each file of testdata is a conversation: a request, a line of dashes, the answer; then, after a line of equal signs,
// the next request. It starts in a world with one running job, one cancelled job and one job of another tool.
func TestEachConversationIsAnsweredAsItsFileSays(t *testing.T) {
	for _, file := range goldenFiles(t) {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			before, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			_, base := goldenWorld(t)
			var after []string
			for part := range strings.SplitSeq(string(before), "\n===\n") {
				request, _, _ := strings.Cut(part, "\n---\n")
				request = strings.TrimRight(request, "\n")
				after = append(after, request+"\n---\n"+ask(t, base, request))
			}
			got := strings.Join(after, "\n===\n") + "\n"
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(string(before), got); diff != "" {
				t.Errorf("the answers differ (-want +got):\n%s", diff)
			}
		})
	}
}

func TestEveryRouteHasAGoldenFile(t *testing.T) {
	h, _ := goldenWorld(t)
	seen := map[string]bool{}
	for _, file := range goldenFiles(t) {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for part := range strings.SplitSeq(string(b), "\n===\n") {
			line, _, _ := strings.Cut(part, "\n")
			method, target, _ := strings.Cut(line, " ")
			path, _, _ := strings.Cut(target, "?")
			seen[method+" "+h.Pattern(method, path)] = true
		}
	}
	err := h.Routes(func(method, pattern string) {
		if !seen[method+" "+pattern] && !slices.Contains(web.Routes(), pattern) {
			t.Errorf("%s %s has no golden file in testdata", method, pattern)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
}

func goldenFiles(tb testing.TB) []string {
	tb.Helper()
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		tb.Fatalf("no golden files: %v", err)
	}
	return files
}

func goldenWorld(tb testing.TB) (h *apihttp.Handler, base string) {
	tb.Helper()
	w := newWorld()
	ctx := tb.Context()
	for _, ev := range []job.Event{
		job.Submitted{ID: "job-done", Spec: job.Spec{VM: "/DC0/vm/db", Mode: job.Auto}},
		job.CommandReceived{Verb: job.Cancel},
	} {
		if err := w.apply(ctx, "job-done", ev); err != nil {
			tb.Fatal(err)
		}
	}
	w.volumes = []job.VolumeRecord{{ // of a job that was deleted since
		ID: "volume-db", Target: "/dev/vg/db", Owner: job.VolumeOwner{
			VM: "502d7a5f-1d2c-6a0e-2f3b-0d2a3c4b5e6f", Name: "/DC0/vm/db", Disk: "disk-2000",
		},
		Job: "job-old", Generation: 3, Size: 8 * gib, Stamp: "writes=17,4096,0,0 seq=9 boot=b",
		ClaimedAt: start().Add(-48 * time.Hour), AdoptedAt: start().Add(-48 * time.Hour),
	}}
	w.running(tb, "job-web")
	w.claim("job-web")
	u, err := apihttp.DecodeUpdate([]byte(oldToolUpdate))
	if err != nil {
		tb.Fatal(err)
	}
	if err := w.ExternalUpdate(ctx, "job-20250925-134230.513-8034ee", u); err != nil {
		tb.Fatal(err)
	}
	h, s := w.server(tb, func(o *apihttp.Options) { o.Nodes, o.History = watching{w}, pastOf(20) })
	return h, s.URL
}

// ask sends a request as a file has it, and returns the answer as the file must have it.
func ask(tb testing.TB, base, text string) string {
	tb.Helper()
	head, body, _ := strings.Cut(text, "\n\n")
	lines := strings.Split(head, "\n")
	method, target, ok := strings.Cut(lines[0], " ")
	if !ok {
		tb.Fatalf("%q is not a request", lines[0])
	}
	ctx, cancel := context.WithCancel(tb.Context())
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, base, strings.NewReader(body))
	if err != nil {
		tb.Fatal(err)
	}
	req.URL.Opaque = target // unchanged: nothing is cleaned or escaped
	if body == "" {
		req.Body = http.NoBody
	}
	for _, line := range lines[1:] {
		name, value, _ := strings.Cut(line, ": ")
		if name == "Host" {
			req.Host = value
		}
		req.Header.Set(name, value)
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		tb.Fatal(err)
	}
	defer resp.Body.Close()
	return answerText(tb, resp)
}

func answerText(tb testing.TB, resp *http.Response) string {
	tb.Helper()
	var out strings.Builder
	fmt.Fprintf(&out, "%s\n", resp.Status)
	for _, name := range []string{
		"Allow", "Cache-Control", "Content-Type", "Etag", "Link", "Location", "Retry-After",
		"Vmferry-Time", "X-Accel-Buffering",
	} {
		for _, v := range resp.Header[name] {
			fmt.Fprintf(&out, "%s: %s\n", name, v)
		}
	}
	body := readAnswer(tb, resp)
	if strings.Contains(resp.Header.Get("Content-Type"), "json") && len(body) > 0 {
		var pretty bytes.Buffer
		if err := json.Indent(&pretty, body, "", "  "); err != nil {
			tb.Fatalf("%v in %s", err, body)
		}
		body = pretty.Bytes()
	}
	const most = 12_000 // of the description and its page, the files have only the beginning
	if len(body) > most {
		body = append(body[:2000:2000], "\n..."...)
	}
	out.WriteString("\n" + strings.TrimRight(string(body), "\n"))
	return strings.TrimRight(out.String(), "\n")
}

// readAnswer reads an answer; of a stream only up to the end of the first event.
func readAnswer(tb testing.TB, resp *http.Response) []byte {
	tb.Helper()
	if resp.Header.Get("Content-Type") != "text/event-stream" {
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			tb.Fatal(err)
		}
		return b
	}
	var b []byte
	lines := bufio.NewReader(resp.Body)
	for !slices.Contains(strings.Split(string(b), "\n"), "event: snapshot") || !bytes.HasSuffix(b, []byte("\n\n")) {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			tb.Fatal(err)
		}
		b = append(b, line...)
	}
	return b
}

func TestADaemonWhoseVCenterIsAwayIsReadyAndDegraded(t *testing.T) {
	w := newWorld()
	w.away, w.down = true, true
	_, s := w.server(t)
	got := ask(t, s.URL, "GET /readyz?verbose")
	for _, part := range []string{
		"200 OK", `"status": "degraded"`, `"reason": "connection refused"`, `"vcenter",`, `"redis"`,
		`"state": "unreachable"`, `"next": "Look whether it runs"`,
	} {
		if !strings.Contains(got, part) {
			t.Errorf("there is no %s in %s", part, got)
		}
	}
}
