package sim_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/nbd/sim"
)

func TestOptionsThatCannotWorkAreRefused(t *testing.T) {
	disk := sim.NewMemory(mib)
	for name, opt := range map[string]sim.Options{
		"no disk":                 {},
		"an endless name":         {Backend: disk, Export: strings.Repeat("x", 5000)},
		"any address":             {Backend: disk, Listen: "0.0.0.0:0"},
		"a name":                  {Backend: disk, Listen: "example.org:1"},
		"no port":                 {Backend: disk, Listen: "nowhere"},
		"a long path":             {Backend: disk, Listen: "/" + strings.Repeat("x", 107)},
		"control over TCP":        {Backend: disk, Control: "127.0.0.1:0"},
		"blocks of 3":             {Backend: disk, BlockSizes: sim.BlockSizes{Min: 3}},
		"blocks without order":    {Backend: disk, BlockSizes: sim.BlockSizes{Min: 4096, Preferred: 512}},
		"requests of half blocks": {Backend: disk, BlockSizes: sim.BlockSizes{Min: 4096, Max: 5000}},
		"a wrong fault":           {Backend: disk, Faults: []sim.Fault{{Kind: sim.FaultLate}}},
	} {
		s, err := sim.Start(t.Context(), opt)
		if err == nil {
			s.Close()
		}
		if job.KindOf(err) != job.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	path := socket(t)
	start(t, sim.Options{Backend: disk, Listen: path})
	_, err := sim.Start(t.Context(), sim.Options{Backend: disk, Listen: path})
	wantKind(t, err, job.Unavailable)
	_, err = sim.Start(t.Context(), sim.Options{Backend: disk, Control: path})
	wantKind(t, err, job.Unavailable)
	_, err = sim.Start(t.Context(), sim.Options{Backend: disk, Listen: "/nowhere/s"})
	wantKind(t, err, job.Unavailable)
	_, err = sim.ParseCapabilities("extents,flying")
	wantKind(t, err, job.Invalid)
}

func TestFilesThatAreNoDiskAreRefused(t *testing.T) {
	_, err := sim.OpenFile("/nowhere/image", true)
	wantKind(t, err, job.NotFound)
	_, err = sim.OpenFile(t.TempDir(), true)
	wantKind(t, err, job.Invalid)
	_, err = sim.OpenFile("/dev/null", false)
	wantKind(t, err, job.Invalid)
}

func TestOneConnectionTooManyIsClosed(t *testing.T) {
	s := start(t, sim.Options{Backend: filled(mib), Connections: 2})
	a, b := connect(t, s), connect(t, s)
	if got := (&client{tb: t, c: dial(t, s)}).ended(); len(got) > 0 {
		t.Errorf("the third one was greeted by %q", got)
	}
	a.c.Close()
	await(t, "there is room again", func() bool { return s.State().Connections == 1 })
	connect(t, s).alive()
	b.alive()
	if st := s.State(); st.Accepted != 4 || st.Refused != 1 {
		t.Errorf("%d were accepted, %d refused", st.Accepted, st.Refused)
	}
}

func TestWhatWasNotFlushedIsLostInACrash(t *testing.T) {
	m := sim.NewVolatileMemory(mib)
	s := start(t, sim.Options{Backend: m})
	c := connect(t, s)
	c.ask(0, write, 0, 1, 1)
	c.ask(0, write, 100*kib, 1, 2)
	c.ask(0, flush, 0, 0)
	c.ask(0, zero, 0, 64*kib)
	c.ask(0, zero, 100*kib, 1)
	c.ask(0, write, 200*kib, 1, 3)
	c.ask(fua, write, 300*kib, 1, 4)
	c.ask(fua, zero, 100*kib+1, 1)
	if got := s.State().Unflushed; got == 0 {
		t.Error("nothing is said to be lost")
	}
	for at, want := range map[int64]byte{0: 0, 100 * kib: 0, 200 * kib: 3, 300 * kib: 4} {
		if got := get(m, at, 1)[0]; got != want {
			t.Errorf("before: byte %d is %d, want %d", at, got, want)
		}
	}
	s.Crash()
	if got := c.ended(); len(got) > 0 {
		t.Errorf("%d bytes came after the crash", len(got))
	}
	for at, want := range map[int64]byte{0: 1, 100 * kib: 2, 200 * kib: 0, 300 * kib: 4} {
		if got := get(m, at, 1)[0]; got != want {
			t.Errorf("after: byte %d is %d, want %d", at, got, want)
		}
	}
	connect(t, s).alive()
	if st := s.State(); st.Crashes != 1 || st.Unflushed != 0 {
		t.Errorf("%d crashes, %d bytes not flushed", st.Crashes, st.Unflushed)
	}
}

func TestNoRequestBegunBeforeACrashTakesEffectAfterIt(t *testing.T) {
	m := sim.NewVolatileMemory(mib)
	s := start(t, sim.Options{Backend: m})
	for range 20 {
		c := connect(t, s)
		var wg sync.WaitGroup
		wg.Go(func() {
			for range 64 {
				if _, err := c.c.Write(requestOf(0, write, 1, 0, 4096, bytes.Repeat([]byte{1}, 4096)...)); err != nil {
					return // the crash has closed the connection
				}
			}
		})
		c.part(0)
		s.Crash()
		if get(m, 0, 1)[0] != 0 {
			t.Fatal("a write came after the crash")
		}
		c.c.Close()
		wg.Wait()
		await(t, "the connection has ended", func() bool { return s.State().Connections == 0 })
		if get(m, 0, 1)[0] != 0 {
			t.Fatal("a write came long after the crash")
		}
	}
}

func TestViolationsOfTheProtocolAreRefusedAndRecorded(t *testing.T) {
	s := start(t, sim.Options{
		Backend: filled(mib + 100), Without: sim.CanTrim | sim.CanFUA,
		BlockSizes: sim.BlockSizes{Min: 512, Preferred: 512, Max: 64 << 10},
	})
	c := connect(t, s)
	for name, tc := range map[string]struct {
		flags, command uint16
		off            uint64
		n              uint32
		errno          uint32
	}{
		"beyond the end":             {0, read, 1 << 20, 512, 22},
		"no space beyond the end":    {0, write, 1 << 20, 512, 28},
		"an offset that overflows":   {0, read, 1<<64 - 512, 1024, 22},
		"half a block":               {0, read, 0, 100, 22},
		"from within a block":        {0, read, 100, 412, 22},
		"no bytes":                   {0, read, 0, 0, 22},
		"too much":                   {0, read, 0, 128 << 10, 22},
		"a command without a name":   {0, 77, 0, 512, 22},
		"what was not offered":       {0, trim, 0, 512, 22},
		"a flag that was not either": {fua, zero, 0, 512, 22},
		"a flag of another command":  {noHole, read, 0, 512, 22},
		"a flush of some bytes":      {0, flush, 0, 512, 22},
	} {
		before := len(s.State().Violations)
		var data []byte
		if tc.command == write {
			data = make([]byte, tc.n)
		}
		if p := c.ask(tc.flags, tc.command, tc.off, tc.n, data...); p.errno != tc.errno {
			t.Errorf("%s: %+v", name, p)
		}
		if len(s.State().Violations) != before+1 {
			t.Errorf("%s: recorded is %q", name, s.State().Violations)
		}
	}
	c.ask(0, read, mib, 100).want(t, "cookie 1 simple false errno 0x0 flags 1 kind 0x1, 108 bytes")
	if p := c.ask(fastZero|noHole, zero, 0, 512); p.errno != 95 {
		t.Errorf("fast zero that can't be fast: %+v", p)
	}
	if p := c.ask(reqOne, status, 0, 1024); len(p.body) != 12 {
		t.Errorf("one extent: %+v", p)
	}
	r := start(t, sim.Options{Backend: filled(mib), ReadOnly: true})
	if p := connect(t, r).ask(0, write, 0, 1, 1); p.errno != 1 {
		t.Errorf("a write to a read-only disk: %+v", p)
	}
}

func TestGarbageFromOneClientHarmsNoOther(t *testing.T) {
	s := start(t, sim.Options{Backend: filled(mib)})
	for _, words := range []string{
		"", "GET / HTTP/1.1\r\n\r\n", strings.Repeat("\xff", 100), "\x00\x00\x00\x03no option, and more",
		"\x00\x00\x00\x03IHAVEOPT\x00\x00\x00\x07\xff\xff\xff\xff",
		"\x00\x00\x00\x03IHAVEOPT\x00\x00\x00\x07\x00\x00\x00\x04\xff\xff\xff\xff",
		"\x00\x00\x00\x03IHAVEOPT\x00\x00\x00\x0a\x00\x00\x00\x08\x00\x00\x00\x00\xff\xff\xff\xff",
		"\x00\x00\x00\x03IHAVEOPT\x00\x00\x00\x01\x00\x00\x00\x00" + strings.Repeat("\x01", 28),
	} {
		c := dial(t, s)
		_, err := io.WriteString(c, words)
		must(t, err)
		if cw, ok := c.(*net.UnixConn); ok {
			must(t, cw.CloseWrite())
		}
		io.Copy(io.Discard, c)
		c.Close()
	}
	connect(t, s).alive()
}

func TestOptionsAreAnsweredAsTheProtocolSays(t *testing.T) {
	s := start(t, sim.Options{Backend: filled(mib), Export: "x"})
	c := greet(t, s)
	const ack, invalid, unknown, unsupported = 1, 1<<31 | 3, 1<<31 | 6, 1<<31 | 1
	named := func(b []byte) []byte { return append([]byte{0, 0, 0, 1, 'x'}, b[4:]...) }
	for _, tc := range []struct {
		name   string
		option uint32
		data   []byte
		parts  int
		last   uint32
	}{
		{"TLS", 5, nil, 1, unsupported},
		{"an unknown option", 999, []byte("x"), 1, unsupported},
		{"list with data", 3, []byte("x"), 1, invalid},
		{"list", 3, nil, 2, ack},
		{"contexts before structured replies", 10, named(query("base:allocation")), 1, invalid},
		{"structured replies with data", 8, []byte("x"), 1, invalid},
		{"structured replies", 8, nil, 1, ack},
		{"list contexts", 9, named(query()), 2, ack},
		{"list contexts by their family", 9, named(query("base:")), 2, ack},
		{"list other contexts", 9, named(query("qemu:")), 1, ack},
		{"set none", 10, named(query()), 1, ack},
		{"set another export's", 10, query("base:allocation"), 1, unknown},
		{"info on another export", 6, []byte{0, 0, 0, 0, 0, 0}, 1, unknown},
		{"go to another export", 7, []byte{0, 0, 0, 1, 'y', 0, 0}, 1, unknown},
		{"info with a wrong length", 6, []byte{0, 0, 0, 1, 'x', 0, 1}, 1, invalid},
		{"info with everything", 6, []byte{0, 0, 0, 1, 'x', 0, 3, 0, 1, 0, 2, 0, 3}, 5, ack},
		{"go", 7, []byte{0, 0, 0, 1, 'x', 0, 0}, 2, ack},
	} {
		got := c.option(tc.option, tc.data)
		if len(got) != tc.parts || got[len(got)-1].kind != tc.last {
			t.Errorf("%s: %v", tc.name, got)
		}
	}
	c.alive()
	if p := c.ask(0, status, 0, 512); p.errno != 22 {
		t.Errorf("extents that were not agreed on: %+v", p)
	}
	c.send(0, disconnect, 1, 0, 0)
	c.ended()
	c = greet(t, s)
	c.option(2, nil)
	c.ended()
}

func TestPendingAnswersAreSentAfterADisconnect(t *testing.T) {
	s := serverWithFaults(t, "late=100ms")
	c := connect(t, s)
	c.send(0, write, 1, 0, 1, 7)
	c.send(0, disconnect, 2, 0, 0)
	if cw, ok := c.c.(*net.UnixConn); ok { // as libnbd does
		must(t, cw.CloseWrite())
	}
	c.part(0).want(t, "cookie 1 simple true errno 0x0 flags 0 kind 0x0, 0 bytes")
	c.ended()
}

func TestTheServerIsControlledOverHTTP(t *testing.T) {
	control := filepath.Join(filepath.Dir(socket(t)), "control")
	m := sim.NewVolatileMemory(mib)
	start(t, sim.Options{Backend: m, Control: control})
	if info, err := os.Stat(control); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	var d net.Dialer
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return d.DialContext(ctx, "unix", control)
		},
	}}
	ask := func(method, path, body string) (int, sim.State, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, "http://sim"+path, strings.NewReader(body))
		must(t, err)
		res, err := client.Do(req)
		must(t, err)
		text, err := io.ReadAll(res.Body)
		must(t, err)
		res.Body.Close()
		var st sim.State
		if res.StatusCode == http.StatusOK {
			must(t, json.Unmarshal(text, &st))
		}
		return res.StatusCode, st, string(text)
	}
	code, st, text := ask("POST", "/rehearsal/fault", `{"faults":["error=EIO,op=write,every=3","garbage"]}`)
	if code != 200 || len(st.Faults) != 2 || st.Faults[0].Errno != 5 {
		t.Errorf("%d %s", code, text)
	}
	for _, body := range []string{"", "{", `{"faults":["unknown"]}`, `{"fault":[]}`, `{} {}`, `{"faults":["late"]}`} {
		if code, _, text := ask("POST", "/rehearsal/fault", body); code != 400 || !strings.Contains(text, `"invalid"`) {
			t.Errorf("%s: %d %s", body, code, text)
		}
	}
	if _, st, text := ask("GET", "/rehearsal/state", ""); len(st.Faults) != 2 || st.Size != mib ||
		!strings.HasPrefix(st.URI, "nbd+unix:///?socket=") {
		t.Errorf("%s", text)
	}
	if _, st, _ := ask("DELETE", "/rehearsal/fault", ""); len(st.Faults) != 0 {
		t.Errorf("%v are left", st.Faults)
	}
	put(m, 0, []byte{1})
	if _, st, _ := ask("POST", "/rehearsal/crash", ""); st.Crashes != 1 || get(m, 0, 1)[0] != 0 {
		t.Errorf("%d crashes", st.Crashes)
	}
	if code, _, _ := ask("POST", "/rehearsal/drop", ""); code != 200 {
		t.Errorf("drop: %d", code)
	}
	if code, _, _ := ask("GET", "/other", ""); code != 404 {
		t.Errorf("another path: %d", code)
	}
}

func TestDroppedConnectionsCanComeBack(t *testing.T) {
	s := serverWithFaults(t, "freeze,count=1")
	c := connect(t, s)
	c.send(0, read, 1, 0, 1)
	await(t, "the request is read", func() bool { return s.State().Read == 1 })
	s.Drop()
	c.ended()
	connect(t, s).alive()
	must(t, s.Close())
	must(t, s.Close())
}
