package http_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vmferry/vmferry/http/rest"
	"github.com/vmferry/vmferry/job"
)

// bad is a request as it goes over the wire, and what may be answered.
type bad struct {
	name     string
	head     string // method, target and more headers, one a line
	body     string // sent with its length, unless head says otherwise
	statuses []int
	code     string // of the problem; "" where net/http itself answers
}

const jsonType = "\nContent-Type: application/json"

// corpus has the requests that break servers: what is in them is numbered as in lists of such requests.
func corpus(token string) []bad {
	submit := func(name, body string, status int, code string) bad {
		return bad{name, "POST /api/v1/jobs" + jsonType, body, []int{status}, code}
	}
	get := func(name, target string, status int, code string) bad {
		return bad{name, "GET " + target, "", []int{status}, code}
	}
	long := strings.Repeat("x", 500)
	list := []bad{
		submit("1 no body", "", 400, "body_syntax"),
		submit("2 null", "null", 422, "invalid"),
		submit("3 a list", "[]", 422, "invalid"),
		submit("4 two values", `{"vm":"a"}{}`, 400, "body_syntax"),
		submit("5 a name twice", `{"vm":"a","vm":"b"}`, 400, "body_syntax"),
		submit("6 names in capitals", `{"VM":"a"}`, 422, "invalid"),
		submit("6 two cases of one name", `{"vm":"a","vM":"b"}`, 422, "invalid"),
		submit("7 nested deeply", strings.Repeat("[", 1e6), 400, "body_syntax"),
		submit("7 objects nested deeply", strings.Repeat(`{"a":`, 2e5), 400, "body_syntax"),
		submit("8 a text of 10 MB", `{"vm":"`+strings.Repeat("x", 10<<20)+`"}`, 413, "body_too_large"),
		submit("9 a million elements", `{"vm":"a","targets":[`+strings.Repeat("1,", 1e6)+`1]}`, 413, "body_too_large"),
		submit("9 300 thousand elements", `{"vm":"a","targets":[`+strings.Repeat("1,", 3e5)+`1]}`, 400, "body_syntax"),
		submit("10 a name that is unknown", `{"vm":"a","is_admin":true}`, 422, "invalid"),
		submit("11 above int64", `{"vm":"a","options":{"bandwidth":9223372036854775808}}`, 422, "invalid"),
		submit("11 disks above int64", `{"vm":"a","options":{"disks":99999999999999999999}}`, 422, "invalid"),
		submit("12 a fraction", `{"vm":"a","options":{"disks":1.5}}`, 422, "invalid"),
		submit("12 an exponent", `{"vm":"a","options":{"bandwidth":1e30}}`, 422, "invalid"),
		submit("12 below zero", `{"vm":"a","options":{"disks":-1}}`, 422, "invalid"),
		submit("12 not a number", `{"vm":"a","options":{"disks":NaN}}`, 400, "body_syntax"),
		submit("13 a zero byte in a name", `{"vm":"a\u0000b"}`, 422, "invalid"),
		submit("14 not UTF-8", "{\"vm\":\"\xff\xfe\"}", 400, "body_syntax"),
		submit("15 half a pair", `{"vm":"a\ud800b"}`, 400, "body_syntax"),
		submit("15 the other half", `{"vm":"\udc00"}`, 400, "body_syntax"),
		submit("15 halves in the wrong order", `{"vm":"\uDC00\uD800"}`, 400, "body_syntax"),
		get("17 a path as id", "/api/v1/jobs/../../etc/passwd", 404, "route_not_found"),
		get("17 dots as id", "/api/v1/jobs/..", 400, "id_invalid"),
		get("18 an escaped path", "/api/v1/jobs/%2e%2e%2fetc%2fpasswd", 400, "id_invalid"),
		get("18 an escaped zero byte", "/api/v1/jobs/%00", 400, "id_invalid"),
		get("18 escaped twice", "/api/v1/jobs/%252e%252e%252f", 400, "id_invalid"),
		get("18 of older tools", "/api/v1/progress/%2e%2e%2f", 400, "id_invalid"),
		get("18 a broken escape", "/api/v1/jobs/%zz", 400, ""),
		get("19 an id of 500 characters", "/api/v1/jobs/"+long, 400, "id_invalid"),
		submit("19 likewise in a body", `{"vm":"a","job_id":"`+long+`"}`, 422, "invalid"),
		{"23 no type", "POST /api/v1/jobs", `{"vm":"a"}`, []int{415}, "content_type"},
		{
			"23 a form", "POST /api/v1/jobs\nContent-Type: application/x-www-form-urlencoded", "vm=a",
			[]int{415},
			"content_type",
		},
		{
			"23 packed", "POST /api/v1/jobs\nContent-Encoding: gzip" + jsonType, "\x1f\x8b\x08",
			[]int{415},
			"content_type",
		},
		{"24 TRACE", "TRACE /api/v1/jobs", "", []int{405}, "method_not_allowed"},
		{"24 CONNECT", "CONNECT /api/v1/jobs", "", []int{400, 404, 405}, ""},
		{"24 a verb of its own", "FETCH /api/v1/jobs", "", []int{405}, "method_not_allowed"},
		{"24 DELETE of all", "DELETE /api/v1/jobs", "", []int{405}, "method_not_allowed"},
		{
			"24 another verb in a header", "GET /api/v1/jobs/none\nX-HTTP-Method-Override: DELETE", "",
			[]int{404},
			"job_not_found",
		},
		{"26 two lengths", "POST /api/v1/jobs\nContent-Length: 2\nContent-Length: 3" + jsonType, "{}", []int{400}, ""},
		{
			"26 a length and chunks", "POST /api/v1/jobs\nContent-Length: 5\nTransfer-Encoding: chunked" + jsonType,
			"0\r\n\r\n",
			[]int{400},
			"",
		},
		{"26 a length that is none", "POST /api/v1/jobs\nContent-Length: -1" + jsonType, "{}", []int{400}, ""},
		{
			"26 chunks of another kind", "POST /api/v1/jobs\nTransfer-Encoding: xchunked" + jsonType, "{}",
			[]int{400, 501},
			"",
		},
		{"27 a header of 1 MiB", "GET /api/v1/jobs\nX-Long: " + strings.Repeat("x", 1<<20), "", []int{431}, ""},
		{"27 a hundred thousand headers", "GET /api/v1/jobs" + strings.Repeat("\nX-Many: 1", 1e5), "", []int{431}, ""},
		{"27 a long address", "GET /api/v1/jobs?vm=" + strings.Repeat("x", 1<<20), "", []int{431}, ""},
		get("a filter that is not encoded", "/api/v1/jobs?vm=%zz", 422, "parameter_invalid"),
		get("a filter with a semicolon", "/api/v1/jobs?vm=a;b", 422, "parameter_invalid"),
		{"29 a line break in a token", "GET /api/v1/jobs\nAuthorization: Bearer x\r", "", []int{400, 401}, ""},
		{"29 a token in the address", "GET /api/v1/jobs?token=" + token, "", []int{400}, "token_in_url"},
		{"30 a foreign name", "GET /api/v1/jobs\nHost: evil.example", "", []int{421}, "host_not_allowed"},
		{"30 two names", "GET /api/v1/jobs\nHost: localhost\nHost: evil.example", "", []int{400}, ""},
		{"31 a foreign page", "GET /api/v1/events\nOrigin: https://evil.example", "", []int{403}, "cross_origin"},
		{
			"31 a foreign page that commands", "POST /api/v1/jobs/job-web/cancel\nOrigin: https://evil.example", "",
			[]int{403},
			"cross_origin",
		},
	}
	for name, text := range map[string]string{
		"empty": "", "10 KB": strings.Repeat("A", 10_000), "of no one": "vmf_AAAAAAAAAAAA_" + strings.Repeat("A", 52),
	} {
		list = append(list, bad{
			"29 a token that is " + name, "GET /api/v1/jobs\nAuthorization: Bearer " + text, "",
			[]int{401, 429},
			"unauthenticated|too_many_attempts",
		})
	}
	return list
}

// send writes a request byte by byte as it is, and reads the answer. An answer that comes while the request is still
// written is read all the same.
func send(tb testing.TB, base, token string, b bad) (resp *http.Response, text []byte) {
	tb.Helper()
	c, err := (&net.Dialer{}).DialContext(tb.Context(), "tcp", strings.TrimPrefix(base, "http://"))
	if err != nil {
		tb.Fatal(err)
	}
	defer c.Close()
	first, more, _ := strings.Cut(b.head, "\n")
	head := first + " HTTP/1.1\r\n"
	if more != "" {
		head += strings.ReplaceAll(more, "\n", "\r\n") + "\r\n"
	}
	if !strings.Contains(b.head, "Host: ") {
		head += "Host: localhost\r\n"
	}
	if token != "" && !strings.Contains(b.head, "Authorization: ") {
		head += "Authorization: Bearer " + token + "\r\n"
	}
	if !strings.Contains(b.head, "Content-Length: ") && !strings.Contains(b.head, "Transfer-Encoding: ") &&
		!strings.HasPrefix(b.head, "GET ") {
		head += fmt.Sprintf("Content-Length: %d\r\n", len(b.body))
	}
	var writing sync.WaitGroup
	writing.Go(func() { _, _ = io.WriteString(c, head+"\r\n"+b.body) }) // a server may hang up before the end
	_ = c.SetReadDeadline(time.Now().Add(time.Minute))
	defer writing.Wait()
	defer c.Close()
	resp, err = http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return nil, nil // hung up
	}
	defer resp.Body.Close()
	text, _ = io.ReadAll(resp.Body)
	return resp, text
}

func TestARequestThatBreaksServersIsRefusedAndChangesNothing(t *testing.T) {
	g := guard(t)
	for where, base := range map[string]string{"open": g.open, "with tokens": g.base} {
		token := map[string]string{g.base: g.text[job.Admin]}[base]
		for _, b := range corpus(g.text[job.Viewer]) {
			if base == g.open && strings.HasPrefix(b.name, "29 a token that") {
				continue // it asks for none
			}
			g.pass(time.Second)
			resp, text := send(t, base, token, b)
			if resp == nil {
				if len(b.head)+len(b.body) < 1<<18 { // else the kernel may drop the answer, with what was not read
					t.Errorf("%s, %s: no answer", where, b.name)
				}
				continue
			}
			if !slices.Contains(b.statuses, resp.StatusCode) || len(text) > 4096 {
				t.Errorf("%s, %s: %s %.300s, want %v", where, b.name, resp.Status, text, b.statuses)
			}
			if b.code == "" {
				continue
			}
			var p rest.Problem
			if err := json.Unmarshal(text, &p); err != nil || !slices.Contains(strings.Split(b.code, "|"), p.Code) ||
				p.Status != resp.StatusCode || p.Detail == "" {
				t.Errorf("%s, %s: %s (%v), want %s", where, b.name, text, err, b.code)
			}
		}
	}
	all, err := g.memory.Reports(t.Context())
	if err != nil || len(all) != 1 || all[0].Status != job.Running {
		t.Errorf("%d jobs after it, %v", len(all), err)
	}
}

func TestANameThatTurnsTextIsKeptAsItIs(t *testing.T) {
	w := newWorld()
	_, s := w.server(t)
	for i, name := range []string{
		"/DC0/vm/\u202egnp.exe", "/DC0/vm/a\u200bb", "/DC0/vm/\u2066x\u2069", "/DC0/vm/<img src=x onerror=alert(1)>",
		"/DC0/vm/\"';--", "/DC0/vm/" + strings.Repeat("ü", 500), "/DC0/vm/{{.}}", "/DC0/vm/%s%n",
	} {
		id := fmt.Sprint("job-", i)
		body, err := json.Marshal(map[string]string{"vm": name, "job_id": id})
		if err != nil {
			t.Fatal(err)
		}
		resp, text := talk(t, http.MethodPost, s.URL+"/api/v1/jobs", string(body),
			map[string]string{"Content-Type": "application/json"})
		if resp.StatusCode != http.StatusCreated {
			t.Errorf("%q: %s %s", name, resp.Status, text)
			continue
		}
		resp, text = talk(t, http.MethodGet, s.URL+"/api/v1/jobs/"+id, "", nil)
		if got := decode[struct{ VM struct{ Path string } }](t, text).VM.Path; got != name {
			t.Errorf("%q comes back as %q (%s)", name, got, resp.Status)
		}
		if strings.Contains(string(text), "<img") || resp.Header.Get("Content-Type") != "application/json" {
			t.Errorf("markup in %s of type %s", text, resp.Header.Get("Content-Type"))
		}
	}
}

func TestAKeyThatComesAgainWithAnotherBodyMakesNoJob(t *testing.T) {
	w := newWorld()
	_, s := w.server(t)
	for i, want := range []int{201, 200, 422} {
		body := []string{`{"vm":"/DC0/vm/a"}`, `{"vm":"/DC0/vm/a"}`, `{"vm":"/DC0/vm/b"}`}[i]
		resp, text := talk(t, http.MethodPost, s.URL+"/api/v1/jobs", body,
			map[string]string{"Content-Type": "application/json", "Idempotency-Key": "k"})
		if resp.StatusCode != want {
			t.Errorf("request %d: %s %s", i, resp.Status, text)
		}
	}
}

func TestOfManyRequestsForOneVMOneMakesAJob(t *testing.T) {
	w := newWorld()
	_, s := w.server(t)
	var mu sync.Mutex
	seen := map[int]int{}
	var asking sync.WaitGroup
	for range 8 {
		asking.Go(func() {
			resp, _ := talk(t, http.MethodPost, s.URL+"/api/v1/jobs",
				`{"vm":"/DC0/vm/web","targets":[{"disk":"disk-2000","uri":"/srv/targets/a"}]}`,
				map[string]string{"Content-Type": "application/json"})
			mu.Lock()
			defer mu.Unlock()
			seen[resp.StatusCode]++
		})
	}
	asking.Wait()
	if seen[http.StatusCreated] != 1 || seen[http.StatusConflict] != 7 {
		t.Errorf("answers: %v", seen)
	}
}

func TestAJobThatHasNotEndedIsNotForgotten(t *testing.T) {
	w := newWorld()
	_, s := w.server(t)
	vm := webVM()
	try := func(stage string, want int) {
		t.Helper()
		resp, text := talk(t, http.MethodDelete, s.URL+"/api/v1/jobs/job-1", "", nil)
		if resp.StatusCode != want {
			t.Errorf("%s: %s %s", stage, resp.Status, text)
		}
	}
	for i, ev := range []job.Event{
		job.Submitted{ID: "job-1", Spec: webSpec()},
		job.Admitted{},
		job.Inspected{VM: vm},
		job.CBTReady{Enabled: true},
		job.CommandReceived{Verb: job.Cancel},
	} {
		if err := w.apply(t.Context(), "job-1", ev); err != nil {
			t.Fatalf("event %d: %v", i, err)
		}
		r, err := w.memory.Report(t.Context(), "job-1")
		if err != nil {
			t.Fatal(err)
		}
		if r.Phase.Terminal() {
			try(fmt.Sprintf("%T", ev), 204)
			return
		}
		try(fmt.Sprintf("after %T in phase %s", ev, r.Phase), 409)
	}
}

func TestAPlaceInTheStreamThatNeverWasBeginsItAgain(t *testing.T) {
	_, base := goldenWorld(t)
	for _, id := range []string{
		"-1", "18446744073709551616", "99999999999999999999-1", "1-1", "x", "-", "--", "0-0", "1758807780000-999999",
		strings.Repeat("9", 5000),
	} {
		for _, at := range []string{"", "?last_event_id=" + id} {
			header := map[string]string{}
			if at == "" {
				header["Last-Event-ID"] = id
			}
			text := ask(t, base, "GET /api/v1/events"+at+headers(header))
			if !strings.HasPrefix(text, "200 OK") || !strings.Contains(text, "event: snapshot") {
				t.Errorf("%.30q %.30q: %.200s", id, at, text)
			}
		}
	}
}

func headers(h map[string]string) (text string) {
	for k, v := range h {
		text += "\n" + k + ": " + v
	}
	return text
}
