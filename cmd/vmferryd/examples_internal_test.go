package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/vmferry/vmferry/child"
	"github.com/vmferry/vmferry/http/rest"
	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
	"github.com/vmferry/vmferry/vsphere/sim"
)

// The story of the examples takes 20 s; a busy machine may need minutes.
const exampleTime = 10 * time.Minute

// follower is one of the programs in examples, as it runs.
type follower struct {
	name    string
	overs   bool // it follows the event stream, not Redis
	skips   bool // it does not show pauses that began and ended while it was not connected
	process *exec.Cmd

	mu      sync.Mutex
	lines   []string // of standard output
	said    []string // of standard error
	changed chan struct{}
}

// TestEachExampleFollowsAllJobsThroughAllRestarts runs all of them, and takes the daemon away by force as well.
func TestEachExampleFollowsAllJobsThroughAllRestarts(t *testing.T) {
	if testing.Short() {
		t.Skip("long: make it runs it")
	}
	s := exampleStory(t, "follow_sse.py", "follow_sse.js", "follow_sse.sh", "follow_sse", "follow_redis.py",
		"follow_redis.js", "follow_redis.sh", "follow_redis")
	s.silence()
	s.end()
}

// examples is a site with the daemon, Redis and the programs that follow its jobs.
type examples struct {
	*testing.T
	ctx     context.Context
	dir     string
	self    string
	config  string
	more    string // of the configuration
	vcenter *sim.VCenter
	daemon  *child.Process
	api     *rest.Client
	url     string
	port    int
	redis   *child.Process
	store   *redis.Client
	server  child.Command
	proxy   *httptest.Server
	places  sync.Map // last event ids that followers have sent

	followers []*follower
	ids       map[string]job.ID // by VM
}

// exampleStory begins with jobs that move and one that has ended, starts the programs, and takes Redis, the daemon and
// all connections away.
func exampleStory(t *testing.T, programs ...string) *examples {
	t.Helper()
	s := newExamples(t, programs)
	s.submit("c", job.CutoverAuto, 0)
	s.until("c", "ended", func(r report.Report) bool { return r.Status == job.StatusCompleted })
	s.submit("a", job.CutoverAuto, 512<<10)
	s.until("a", "moving", moving)
	for _, name := range programs {
		s.followers = append(s.followers, s.follow(name))
	}
	s.shown("c", "completed")
	s.shown("a", "running")

	s.submit("b", job.CutoverManual, 512<<10)
	s.until("b", "moving", moving)
	s.command("a", job.Pause)
	s.shown("a", "paused")
	s.command("a", job.Resume)
	s.shownAfter("a", "paused", "running")

	s.missed()
	for _, vm := range []string{"d", "e"} {
		s.submit(vm, job.CutoverAuto, 0)
		s.until(vm, "ended", func(r report.Report) bool { return r.Status == job.StatusCompleted })
		s.shown(vm, "completed")
	}
	s.emptyRedis()
	s.restart()
	return s
}

// moving says that bytes arrive.
func moving(r report.Report) bool { return r.Status == job.Running && r.BytesTransferred > 0 }

// newExamples starts a vCenter of some VMs, Redis and a daemon, for the named programs.
func newExamples(t *testing.T, names []string) *examples {
	t.Helper()
	s := newPlace(t)
	for _, name := range names { // skips before anything is started
		s.argv(name)
	}
	vms := map[string]int64{"a": 128 << 20, "b": 128 << 20, "c": 1 << 20, "d": 1 << 20, "e": 1 << 20}
	s.start(vms)
	s.configure(strings.TrimPrefix(s.url, "http://")) // the next one has the same address
	s.between()
	return s
}

// newPlace makes the folder of all that a test starts.
func newPlace(t *testing.T) *examples {
	t.Helper()
	needs(t, "nbdkit", "redis-server")
	ctx, cancel := context.WithTimeout(t.Context(), exampleTime)
	t.Cleanup(cancel)
	dir, err := os.MkdirTemp("", "vf") //nolint:usetesting // short, as sockets need
	fatal(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return &examples{T: t, ctx: ctx, dir: dir, ids: map[string]job.ID{}, self: filepath.Join(programs(t), "vmferry")}
}

// start starts a vCenter of VMs with one disk each, by their sizes, Redis and the daemon.
func (s *examples) start(sizes map[string]int64) {
	s.Helper()
	var vms []sim.VM
	for name, size := range sizes {
		file := filepath.Join(s.dir, fmt.Sprintf("%d.raw", len(vms)))
		fatal(s.T, noise(file, size, 1))
		vms = append(vms, sim.VM{Name: name, Disks: []string{file}})
	}
	var err error
	s.vcenter, err = sim.Start(s.ctx, sim.Options{Password: job.NewSecret("rehearsal"), InPlace: true, VMs: vms})
	fatal(s.T, err)
	s.Cleanup(func() { _ = s.vcenter.Close() })

	s.port = freePort(s.T)
	socket := filepath.Join(s.dir, "redis.sock")
	s.server = program(s.dir, "redis", "redis-server", "--port", strconv.Itoa(s.port), "--unixsocket", socket,
		"--save", "", "--dir", s.dir)
	s.server.Socket = socket
	s.redis, err = child.Start(s.ctx, s.server)
	fatal(s.T, err)
	s.Cleanup(func() { _ = s.redis.End(syscall.SIGKILL) })
	s.store = redis.NewClient(&redis.Options{Addr: "127.0.0.1:" + strconv.Itoa(s.port)})
	s.Cleanup(func() { _ = s.store.Close() })
	s.configure("127.0.0.1:0")
	s.serve()
}

// needs skips the test where a program is missing.
func needs(t *testing.T, programs ...string) {
	t.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			missingTool(t, p)
		}
	}
}

// missingTool skips the test; in CI it fails.
func missingTool(t *testing.T, what string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf("%s is not installed", what)
	}
	t.Skipf("%s is not installed", what)
}

func fatal(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	fatal(t, err)
	defer l.Close()
	a, _ := l.Addr().(*net.TCPAddr)
	return a.Port
}

func (s *examples) configure(listen string) {
	s.Helper()
	password := filepath.Join(s.dir, "password")
	fatal(s.T, os.WriteFile(password, []byte("rehearsal\n"), 0o600))
	s.config = filepath.Join(s.dir, "vmferry.yaml")
	fatal(s.T, os.WriteFile(s.config, fmt.Appendf(nil, `listen: %s
state_dir: %s/s
vcenter: {url: %q, user: %q, password_file: %s, thumbprint: %q}
redis: {url: "redis://127.0.0.1:%d/0"}
%s`, listen, s.dir, s.vcenter.URL(), s.vcenter.User(), password, s.vcenter.Thumbprint(), s.port,
		s.more), 0o600))
}

func (s *examples) serve() {
	s.Helper()
	var ready serving
	c := program(s.dir, "daemon", s.self, "serve", "--config", s.config, "-o", "json")
	c.Answer = &ready
	var err error
	if s.daemon, err = child.Start(s.ctx, c); err != nil {
		said, _ := os.ReadFile(filepath.Join(s.dir, "daemon.log"))
		s.Fatalf("%v\n%s", err, said)
	}
	d := s.daemon
	s.Cleanup(func() { _ = d.End(syscall.SIGKILL) })
	s.url = ready.URL
	s.api, err = rest.NewClient(s.url)
	fatal(s.T, err)
}

// between puts a proxy between the daemon and those who follow its events, which can cut all connections.
func (s *examples) between() {
	s.Helper()
	target, err := url.Parse(s.url)
	fatal(s.T, err)
	s.proxy = httptest.NewServer(&httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			if r.In.Header.Get("Authorization") != "Bearer vmf_of_a_viewer" {
				s.Errorf("a follower sends the token %q", r.In.Header.Get("Authorization"))
			}
			r.Out.Header.Del("Authorization") // the daemon asks for none here
			s.places.Store(r.In.Header.Get("Last-Event-ID"), true)
		},
		FlushInterval: -1,
		ErrorLog:      log.New(io.Discard, "", 0), // a cut connection is no news
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) {
			panic(http.ErrAbortHandler) // as if nothing listened
		},
	})
	s.Cleanup(func() {
		s.proxy.CloseClientConnections()
		s.proxy.Close()
	})
}

// argv is how a reader starts an example.
func (s *examples) argv(name string) []string {
	s.Helper()
	file, err := filepath.Abs(filepath.Join("..", "..", "examples", name))
	fatal(s.T, err)
	switch filepath.Ext(name) {
	case ".py":
		return []string{s.python(name), file}
	case ".js":
		needs(s.T, "node")
		if strings.Contains(name, "redis") {
			c := exec.CommandContext(s.ctx, "node", "-e", "require('redis')")
			c.Env = s.environment()
			if c.Run() != nil {
				missingTool(s.T, "node-redis")
			}
		}
		return []string{"node", file}
	case ".sh":
		needs(s.T, "bash", "jq", "curl", "redis-cli")
		return []string{"bash", file}
	default:
		needs(s.T, "go")
		built := filepath.Join(s.dir, name)
		c := exec.CommandContext(s.ctx, "go", "build", "-o", built, file)
		if out, err := c.CombinedOutput(); err != nil {
			s.Fatalf("go build %s: %v\n%s", file, err, out)
		}
		return []string{built}
	}
}

// python is an interpreter that has what the example imports.
func (s *examples) python(name string) string {
	s.Helper()
	module := "json"
	if strings.Contains(name, "redis") {
		module = "redis"
	}
	for _, p := range []string{"python3", "/usr/bin/python3"} {
		if exec.CommandContext(s.ctx, p, "-c", "import "+module).Run() == nil {
			return p
		}
	}
	missingTool(s.T, "python3 with "+module)
	return ""
}

func (s *examples) environment() []string {
	env := append(child.Environment(), fmt.Sprintf("REDIS_URL=redis://127.0.0.1:%d/0", s.port),
		"NODE_PATH=/usr/share/nodejs") // of Debian's node-redis
	if s.proxy != nil {
		env = append(env, "VMFERRY_SERVER="+s.proxy.URL, "VMFERRY_TOKEN_FILE="+s.token())
	}
	return env
}

// token is a file with a token.
func (s *examples) token() string {
	s.Helper()
	file := filepath.Join(s.dir, "token")
	fatal(s.T, os.WriteFile(file, []byte("vmf_of_a_viewer\n"), 0o600))
	return file
}

// follow starts an example.
func (s *examples) follow(name string) *follower {
	s.Helper()
	argv := s.argv(name)
	f := &follower{
		name: name, overs: strings.Contains(name, "sse"), skips: name == "follow_redis.sh",
		process: exec.CommandContext(s.ctx, argv[0], argv[1:]...), changed: make(chan struct{}),
	}
	ownGroup(f.process)
	f.process.Env = s.environment()
	out, err := f.process.StdoutPipe()
	fatal(s.T, err)
	said, err := f.process.StderrPipe()
	fatal(s.T, err)
	fatal(s.T, f.process.Start())
	var read sync.WaitGroup
	read.Go(func() { f.read(out, &f.lines) })
	read.Go(func() { f.read(said, &f.said) })
	s.Cleanup(func() {
		_ = syscall.Kill(-f.process.Process.Pid, syscall.SIGKILL)
		read.Wait()
		_ = f.process.Wait()
		if s.Failed() {
			s.Logf("%s said on standard error:\n%s", name, strings.Join(f.said, "\n"))
		}
	})
	return f
}

// read takes lines until the program ends.
func (f *follower) read(from io.Reader, into *[]string) {
	lines := bufio.NewScanner(from)
	for lines.Scan() {
		f.mu.Lock()
		*into = append(*into, lines.Text())
		close(f.changed)
		f.changed = make(chan struct{})
		f.mu.Unlock()
	}
}

func (f *follower) seen() (lines, said []string, changed <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.lines), slices.Clone(f.said), f.changed
}

// await waits until a follower has written what is wanted.
func (s *examples) await(f *follower, why string, want func(lines, said []string) bool) {
	s.Helper()
	for {
		lines, said, changed := f.seen()
		if want(lines, said) {
			return
		}
		select {
		case <-changed:
		case <-s.ctx.Done():
			s.Fatalf("%s: %s; its last lines:\n%s\nstandard error:\n%s", f.name, why,
				strings.Join(lines[max(0, len(lines)-12):], "\n"), strings.Join(said, "\n"))
		}
	}
}

// shown waits until each follower has shown a job with a status, or "deleted".
func (s *examples) shown(vm, status string) {
	s.Helper()
	s.shownAfter(vm, "", status)
}

// shownAfter is shown after another status was shown.
func (s *examples) shownAfter(vm, before, status string) {
	s.Helper()
	for _, f := range s.followers {
		s.await(f, fmt.Sprintf("%s %s is not shown", vm, status), func(lines, _ []string) bool {
			all := statuses(lines, s.ids[vm])
			at := slices.Index(all, before)
			return (before == "" || at >= 0) && slices.Contains(all[at+1:], status)
		})
	}
}

// statuses are those that a follower has shown of a job, each as long as it lasted.
func statuses(lines []string, id job.ID) []string {
	var all []string
	for _, line := range lines {
		if words := strings.Fields(line); words[0] == string(id) && words[1] != "entered" {
			all = append(all, words[1])
		}
	}
	return slices.Compact(all)
}

func (s *examples) submit(vm string, cutover job.Cutover, bandwidth int64) {
	s.Helper()
	r, _, err := s.api.Submit(s.ctx, job.Spec{
		VM: vm, Options: job.Options{Cutover: cutover, Bandwidth: bandwidth, Verify: job.VerifyNone},
	}, rest.SubmitOptions{})
	fatal(s.T, err)
	s.ids[vm] = r.JobID
}

func (s *examples) command(vm string, v job.Verb) {
	s.Helper()
	fatal(s.T, s.api.Command(s.ctx, s.ids[vm], v))
}

// until waits until the API shows a job as wanted.
func (s *examples) until(vm, why string, want func(report.Report) bool) report.Report {
	s.Helper()
	var last report.Report
	err := s.api.Watch(s.ctx, "", func(r report.Report) error {
		if last = r; want(r) {
			return io.EOF
		}
		if r.Status.Terminal() {
			return fmt.Errorf("%s: the job ended %s: %+v", why, r.Status, r.Error)
		}
		return nil
	}, s.ids[vm])
	if !errors.Is(err, io.EOF) {
		s.Fatalf("%s is not %s: %v", vm, why, err)
	}
	return last
}

// further waits until bytes have arrived since now.
func (s *examples) further(vm string) {
	s.Helper()
	now, err := s.api.Job(s.ctx, s.ids[vm])
	fatal(s.T, err)
	s.until(vm, "moving on", func(r report.Report) bool { return r.BytesTransferred > now.BytesTransferred })
}

// signal sends a signal to all followers and what they have started.
func (s *examples) signal(sig syscall.Signal) {
	s.Helper()
	for _, f := range s.followers {
		fatal(s.T, syscall.Kill(-f.process.Process.Pid, sig))
	}
}

// missed lets things happen while no follower runs or is connected.
func (s *examples) missed() {
	s.Helper()
	s.signal(syscall.SIGSTOP)
	s.proxy.CloseClientConnections()
	for _, kind := range []string{"pubsub", "normal"} {
		fatal(s.T, s.store.Do(s.ctx, "CLIENT", "KILL", "TYPE", kind).Err())
	}
	s.command("b", job.Pause)
	s.until("b", "paused", func(r report.Report) bool { return r.Status == job.Paused })
	s.command("b", job.Resume)
	s.until("b", "running", func(r report.Report) bool { return r.Status == job.Running })
	s.command("c", job.Delete)
	s.places.Clear()
	s.signal(syscall.SIGCONT)
	s.shown("c", "deleted")
	for _, f := range s.followers {
		s.await(f, "what was missed is not shown", func(lines, _ []string) bool {
			all := statuses(lines, s.ids["b"])
			return f.skips || slices.Contains(all, "paused") && all[len(all)-1] == "running"
		})
	}
	if _, from0 := s.places.Load(""); from0 {
		s.Error("a follower did not say which event it has seen last")
	}
}

// emptyRedis takes Redis away, with all that is in it, and deletes a job meanwhile.
func (s *examples) emptyRedis() {
	s.Helper()
	_ = s.redis.End(syscall.SIGKILL)
	s.command("d", job.Delete)
	s.further("a")
	var err error
	s.redis, err = child.Start(s.ctx, s.server)
	fatal(s.T, err)
	again := s.redis
	s.Cleanup(func() { _ = again.End(syscall.SIGKILL) })
	s.shown("d", "deleted")
	for _, f := range s.followers {
		s.await(f, "it is not live again", func(_, said []string) bool {
			return len(said) > 0 && said[len(said)-1] == "live"
		})
	}
	s.further("a")
}

// restart ends the daemon in the middle of moving jobs, and starts the next. While no follower runs a job is deleted.
func (s *examples) restart() {
	s.Helper()
	s.signal(syscall.SIGSTOP)
	s.proxy.CloseClientConnections()
	s.command("e", job.Delete)
	s.api.Close()
	fatal(s.T, s.daemon.End(syscall.SIGTERM))
	marks := map[*follower]int{}
	s.signal(syscall.SIGCONT)
	for _, f := range s.followers {
		if f.overs {
			s.await(f, "it does not say that its numbers are old", func(_, said []string) bool {
				return strings.HasPrefix(said[len(said)-1], "stale: ")
			})
		}
		lines, _, _ := f.seen()
		marks[f] = len(lines)
	}
	s.serve()
	s.further("a")
	s.shown("e", "deleted")
	for _, f := range s.followers {
		s.await(f, "nothing comes after the restart", func(lines, said []string) bool {
			return said[len(said)-1] == "live" && slices.ContainsFunc(lines[marks[f]:], func(line string) bool {
				return strings.HasPrefix(line, string(s.ids["a"])+" running transfer")
			})
		})
	}
}

// silence lets the daemon hang for a while.
func (s *examples) silence() {
	s.Helper()
	fatal(s.T, syscall.Kill(s.daemon.PID(), syscall.SIGSTOP))
	for _, f := range s.followers {
		s.await(f, "it takes old numbers for new", func(_, said []string) bool {
			return strings.HasPrefix(said[len(said)-1], "stale: ")
		})
	}
	fatal(s.T, syscall.Kill(s.daemon.PID(), syscall.SIGCONT))
	for _, f := range s.followers {
		s.await(f, "it is not live again", func(_, said []string) bool { return said[len(said)-1] == "live" })
	}
}

// end lets all jobs end and compares what each follower has shown with what the API says.
func (s *examples) end() {
	s.Helper()
	for _, vm := range []string{"a", "b"} {
		fatal(s.T, s.api.Limit(s.ctx, s.ids[vm], 0))
	}
	s.until("b", "in step", func(r report.Report) bool { return r.Status == job.WaitingCutover })
	s.shown("b", "waiting_cutover")
	s.command("b", job.CutoverNow)
	for _, vm := range []string{"a", "b"} {
		s.until(vm, "completed", func(r report.Report) bool { return r.Status == job.StatusCompleted })
		s.shown(vm, "completed")
	}
	for _, f := range s.followers {
		lines, _, _ := f.seen()
		for _, vm := range []string{"a", "b"} {
			r, err := s.api.Job(s.ctx, s.ids[vm])
			fatal(s.T, err)
			s.compare(f, vm, lines, r)
		}
		for vm, want := range map[string][]string{
			"a": {"running", "paused", "running", "completed"},
			"b": {"running", "paused", "running", "waiting_cutover", "completed"},
			"c": {"completed", "deleted"},
			"d": {"completed", "deleted"},
			"e": {"completed", "deleted"},
		} {
			got := statuses(lines, s.ids[vm])
			if vm == "b" && f.skips {
				want = slices.Delete(want, 1, 3) // the pause that it missed
			}
			left := want
			for _, status := range got {
				if len(left) > 0 && status == left[0] {
					left = left[1:]
				}
			}
			if len(left) > 0 || got[len(got)-1] != want[len(want)-1] {
				s.Errorf("%s shows %s as %v, want %v", f.name, vm, got, want)
			}
			if at := slices.Index(got, "deleted"); at >= 0 && (at < len(got)-1 || want[len(want)-1] != "deleted") {
				s.Errorf("%s says of %s: %v", f.name, vm, got)
			}
		}
	}
}

// compare checks what a follower has shown of a job that the API has.
func (s *examples) compare(f *follower, vm string, lines []string, r report.Report) {
	s.Helper()
	var entered, want []string
	for _, p := range r.Phases {
		want = append(want, fmt.Sprint(p.Name, " ", p.Round))
	}
	type numbers struct {
		round, bytes int64
		percent      float64
	}
	var last numbers
	var newest []string
	for _, line := range lines {
		words := strings.Fields(line)
		switch {
		case words[0] != string(r.JobID):
		case words[1] == "entered":
			entered = append(entered, strings.Join(words[2:], " "))
		case len(words) != 6:
			s.Errorf("%s says %q", f.name, line)
		default:
			var now numbers
			_, err := fmt.Sscan(strings.Join(words[3:], " "), &now.round, &now.bytes, &now.percent)
			if err != nil || now.round < last.round || now.percent < last.percent ||
				now.round == last.round && now.bytes < last.bytes {
				s.Errorf("%s: after %+v comes %q (%v)", f.name, last, line, err)
			}
			last, newest = now, words
		}
	}
	if !slices.Equal(entered, want) {
		s.Errorf("%s: %s entered\n%v, the API says\n%v", f.name, vm, entered, want)
	}
	if end := (numbers{int64(r.Round), r.BytesTransferred, r.OverallPercent}); last != end ||
		newest[1] != string(r.Status) || newest[2] != string(r.Phase) {
		s.Errorf("%s: %s ends as %v, the API says %s %s %+v", f.name, vm, newest, r.Status, r.Phase, end)
	}
}
