package app_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"go.yaml.in/yaml/v3"

	"github.com/vmferry/vmferry/app"
	"github.com/vmferry/vmferry/http/rest"
	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
	"github.com/vmferry/vmferry/vsphere/sim"
)

// site is a rehearsal vCenter with one VM of two disks, and the configuration of a daemon for it.
type site struct {
	vcenter *sim.VCenter
	images  map[job.DiskID]string
	dir     string
	cfg     app.Config
	file    string       // the configuration as YAML
	url     string       // of the daemon in daemonProcess
	said    bytes.Buffer // its standard error; to be read after its end
}

func need(tb testing.TB, programs ...string) {
	tb.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			if os.Getenv("CI") == "true" {
				tb.Fatalf("%s is not installed", p)
			}
			tb.Skipf("%s is not installed", p)
		}
	}
}

func newSite(tb testing.TB, denseMiB int, more ...sim.VM) *site {
	tb.Helper()
	need(tb, "nbdkit")                 // the daemon does not start without
	dir, err := os.MkdirTemp("", "vf") //nolint:usetesting // short: sockets are below it, and their paths are limited
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = os.RemoveAll(dir) })
	s := &site{dir: dir, images: map[job.DiskID]string{
		"disk-2000": filepath.Join(dir, "a.raw"),
		"disk-2001": filepath.Join(dir, "b.raw"),
	}}
	image(tb, s.images["disk-2000"], 64<<20, 3<<20)
	image(tb, s.images["disk-2001"], int64(denseMiB)<<20, int64(denseMiB)<<20)
	s.vcenter, err = sim.Start(tb.Context(), sim.Options{
		Password: job.NewSecret("rehearsal"), InPlace: true,
		VMs: append([]sim.VM{{Name: "web", Disks: []string{s.images["disk-2000"], s.images["disk-2001"]}}}, more...),
	})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := s.vcenter.Close(); err != nil {
			tb.Error(err)
		}
	})
	s.configure(tb)
	return s
}

// image makes a disk whose first bytes cannot be compressed and whose rest is a hole.
func image(tb testing.TB, path string, size, dense int64) {
	tb.Helper()
	f, err := os.Create(path)
	if err != nil {
		tb.Fatal(err)
	}
	_, err = io.CopyN(f, rand.NewChaCha8([32]byte{byte(size >> 20)}), dense)
	if err != nil || f.Truncate(size) != nil || f.Close() != nil {
		tb.Fatal("cannot make an image", err)
	}
}

func (s *site) configure(tb testing.TB) {
	tb.Helper()
	password := filepath.Join(s.dir, "password")
	if err := os.WriteFile(password, []byte("rehearsal\n"), 0o600); err != nil {
		tb.Fatal(err)
	}
	text, err := yaml.Marshal(map[string]any{
		"listen": "127.0.0.1:0", "state_dir": filepath.Join(s.dir, "s"),
		"vcenter": map[string]any{
			"url": s.vcenter.URL(), "user": s.vcenter.User(), "password_file": password,
			"thumbprint": s.vcenter.Thumbprint(),
		},
	})
	if err != nil {
		tb.Fatal(err)
	}
	s.file = filepath.Join(s.dir, "vmferry.yaml")
	if err := os.WriteFile(s.file, text, 0o600); err != nil {
		tb.Fatal(err)
	}
	if s.cfg, _, err = app.Load(app.Sources{File: s.file}); err != nil {
		tb.Fatal(err)
	}
}

// start starts a daemon in the process of the test.
func start(tb testing.TB, cfg app.Config) (*app.Daemon, *rest.Client) {
	tb.Helper()
	d, err := app.Start(tb.Context(), cfg, slog.New(slog.NewTextHandler(testWriter{tb}, nil)), "test")
	if err != nil {
		tb.Fatal(err)
	}
	c := client(tb, d.URL())
	tb.Cleanup(func() { stop(tb, d) })
	return d, c
}

func stop(tb testing.TB, d *app.Daemon) {
	tb.Helper()
	if err := d.Stop(context.WithoutCancel(tb.Context())); err != nil {
		tb.Error(err)
	}
}

func client(tb testing.TB, url string) *rest.Client {
	tb.Helper()
	c, err := rest.NewClient(url)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(c.Close)
	return c
}

// testWriter writes a log into the log of the test.
type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

// until watches a job until done is true, and checks the rules for all reports meanwhile.
func until(tb testing.TB, c *rest.Client, id job.ID, done func(report.Report) bool) report.Report {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), 3*time.Minute+outage())
	defer cancel()
	enough := io.EOF
	var last report.Report
	err := c.Watch(ctx, "", func(r report.Report) error {
		if r.OverallPercent < last.OverallPercent || r.Round == last.Round &&
			r.BytesTransferred+r.BytesSkipped < last.BytesTransferred+last.BytesSkipped {
			tb.Errorf("numbers decreased: from %.2f%% and %d bytes to %.2f%% and %d", last.OverallPercent,
				last.BytesTransferred, r.OverallPercent, r.BytesTransferred)
		}
		last = r
		if done(r) {
			return enough
		}
		return nil
	}, id)
	if !errors.Is(err, enough) {
		tb.Fatalf("watching job %s ended with %v; last seen: %s, %s, %+v", id, err, last.Status, last.Phase, last.Error)
	}
	return last
}

func terminal(r report.Report) bool { return r.Status.Terminal() }

func submit(tb testing.TB, c *rest.Client, spec job.Spec) job.ID {
	tb.Helper()
	spec.VM = "web"
	spec.Options.Quiesce = true
	r, _, err := c.Submit(tb.Context(), spec, rest.SubmitOptions{})
	if err != nil {
		tb.Fatal(err)
	}
	return r.JobID
}

// equal compares images and targets by hash, and checks that no snapshot is left.
func (s *site) equal(tb testing.TB, r report.Report) {
	tb.Helper()
	if r.Status != job.StatusCompleted || r.OverallPercent != 100 {
		tb.Fatalf("job %s is %s at %.2f%%: %+v", r.JobID, r.Status, r.OverallPercent, r.Error)
	}
	for _, d := range r.Disks {
		if got, want := hash(tb, d.Target), hash(tb, s.images[d.DiskID]); got != want {
			tb.Errorf("%s: target has %s, source %s", d.DiskID, got, want)
		}
	}
	left, err := s.vcenter.Snapshots("web")
	if err != nil || len(left) > 0 {
		tb.Errorf("snapshots left: %v, %v", left, err)
	}
}

func hash(tb testing.TB, path string) string {
	tb.Helper()
	f, err := os.Open(path)
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		tb.Fatal(err)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// redisServer starts a real redis-server and returns its socket.
func redisServer(tb testing.TB, dir string) string {
	tb.Helper()
	socket := filepath.Join(dir, "redis.sock")
	cmd := exec.CommandContext(tb.Context(), "redis-server", "--port", "0", "--unixsocket", socket, "--save", "",
		"--dir", dir)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	out, err := cmd.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() && !strings.Contains(lines.Text(), "ready to accept connections at") {
	}
	drained := make(chan struct{})
	go func() { defer close(drained); _, _ = io.Copy(io.Discard, out) }()
	tb.Cleanup(func() { <-drained; _ = cmd.Wait() })
	return socket
}

func TestAVMMovesThroughAKilledReaderAndACutover(t *testing.T) {
	need(t, "nbdkit", "redis-server")
	s := newSite(t, 96)
	s.cfg.Redis.URL = "unix://" + redisServer(t, s.dir)
	_, c := start(t, s.cfg)
	id := submit(t, c, job.Spec{Options: job.Options{Cutover: job.CutoverManual, Bandwidth: 24 << 20}})
	killed := false
	r := until(t, c, id, func(r report.Report) bool {
		for _, d := range r.Disks {
			if !killed && d.DiskID == "disk-2001" && d.Status == job.DiskRunning && d.Percent != nil &&
				*d.Percent > 30 && d.SourcePID > 0 {
				killed = syscall.Kill(d.SourcePID, syscall.SIGKILL) == nil
			}
		}
		return r.Status.Terminal() || r.Status == job.WaitingCutover
	})
	if !killed || r.Status != job.WaitingCutover {
		t.Fatalf("killed: %t; the job is %s: %+v", killed, r.Status, r.Error)
	}
	if got := r.Disks[1].Restarts; got != 1 {
		t.Errorf("disk-2001 was restarted %d times, want 1", got)
	}
	if got := r.BytesResent; got > 64<<20 {
		t.Errorf("%d bytes were sent again", got)
	}
	s.write(t)
	if err := c.Command(t.Context(), id, job.CutoverNow); err != nil {
		t.Fatal(err)
	}
	r = until(t, c, id, terminal)
	s.equal(t, r)
	if got := r.Rounds[1]; got.Mode != job.Incremental || got.BytesToTransfer > 1<<20 {
		t.Errorf("the second round was %s and had %d bytes to move", got.Mode, got.BytesToTransfer)
	}
	inRedis(t, s.cfg.Redis.URL, r)
}

// write writes data and zeros as the guest would.
func (s *site) write(tb testing.TB) {
	tb.Helper()
	for disk, off := range map[job.DiskID]int64{"disk-2000": 1 << 20, "disk-2001": 40 << 20} {
		for _, p := range [][]byte{bytes.Repeat([]byte{7}, 100000), make([]byte, 65536)} {
			if err := s.vcenter.GuestWrite("web", disk, off, p); err != nil {
				tb.Fatal(err)
			}
			off += 256 << 10
		}
	}
}

// inRedis checks that Redis has the same last report as the REST service.
func inRedis(tb testing.TB, url string, r report.Report) {
	tb.Helper()
	opt, err := redis.ParseURL(url)
	if err != nil {
		tb.Fatal(err)
	}
	store := redis.NewClient(opt)
	defer func() { _ = store.Close() }()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	ctx, cancel := context.WithTimeout(tb.Context(), 10*time.Second)
	defer cancel()
	for {
		got, err := store.HMGet(ctx, "vmferry:v1:{"+string(r.JobID)+"}:snap", "status", "epoch", "seq").Result()
		if err == nil && slices.Equal(got, []any{
			"completed", strings.Split(r.Version().String(), "-")[0],
			strings.Split(r.Version().String(), "-")[1],
		}) {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			tb.Fatalf("Redis has %v (%v), want completed at %s", got, err, r.Version())
		}
	}
}

// daemonProcess starts a daemon that can be killed.
func (s *site) daemonProcess(tb testing.TB) (*exec.Cmd, *rest.Client) {
	tb.Helper()
	self, err := os.Executable()
	if err != nil {
		tb.Fatal(err)
	}
	cmd := exec.CommandContext(tb.Context(), self, "-test.run=^$")
	cmd.Env = append(os.Environ(), asDaemon+"="+s.file)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Stderr = io.MultiWriter(testWriter{tb}, &s.said)
	out, err := cmd.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		tb.Fatalf("the daemon did not start: %v", err)
	}
	s.url = strings.TrimSpace(line)
	return cmd, client(tb, s.url)
}

func TestAKilledDaemonGoesOnWhereItWas(t *testing.T) {
	need(t, "nbdkit")
	s := newSite(t, 96)
	cmd, c := s.daemonProcess(t)
	id := submit(t, c, job.Spec{Options: job.Options{Bandwidth: 8 << 20}})
	var seen []report.Report
	r := until(t, c, id, func(r report.Report) bool {
		seen = append(seen, r)
		return terminal(r) || len(r.Disks) == 2 && r.Disks[1].Percent != nil && *r.Disks[1].Percent > 40
	})
	if terminal(r) {
		t.Fatalf("the job ended too early: %s %+v", r.Status, r.Error)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // says that it was killed
	leftover := filepath.Join(s.cfg.StateDir, "run", "leftover")
	if err := os.WriteFile(leftover, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, c = start(t, s.cfg)
	if _, err := os.Stat(leftover); err == nil {
		t.Error("the file of the killed daemon is still there")
	}
	again, err := c.Job(t.Context(), id)
	kept := report.Report{} // was shown 2 s before the kill: numbers may take that long until they are stored
	for _, old := range seen {
		if r.ObservedAt.Sub(old.ObservedAt) >= 2*time.Second {
			kept = old
		}
	}
	if err != nil || kept.OverallPercent < 5 || again.OverallPercent < kept.OverallPercent ||
		!r.Version().Less(again.Version()) {
		t.Errorf("after the restart: %.2f%% %s (%v); before it: %.2f%% %s, and 2 s earlier %.2f%%",
			again.OverallPercent, again.Version(), err, r.OverallPercent, r.Version(), kept.OverallPercent)
	}
	if err := c.Limit(t.Context(), id, 0); err != nil {
		t.Error(err)
	}
	r = until(t, c, id, terminal)
	s.equal(t, r)
	if r.BytesResent > 64<<20 {
		t.Errorf("%d bytes were sent again", r.BytesResent)
	}
}

func TestADaemonWhoseActorJobsPanicsEndsWithAReasonAndTheNextGoesOn(t *testing.T) {
	need(t, "nbdkit")
	small := filepath.Join(t.TempDir(), "small.raw")
	image(t, small, 1<<20, 1<<20)
	s := newSite(t, 96, sim.VM{Name: "panic", Disks: []string{small}})
	cmd, c := s.daemonProcess(t)
	id := submit(t, c, job.Spec{Options: job.Options{Bandwidth: 8 << 20}})
	r := until(t, c, id, func(r report.Report) bool {
		return terminal(r) || len(r.Disks) == 2 && r.Disks[1].BytesDurable > 8<<20
	})
	if terminal(r) {
		t.Fatalf("the job ended too early: %s %+v", r.Status, r.Error)
	}
	// The answer is lost with the daemon.
	_, _, err := c.Submit(t.Context(), job.Spec{VM: "panic"}, rest.SubmitOptions{})
	if kind := job.KindOf(err); kind != job.Unavailable {
		t.Fatalf("the daemon answered: %v", err)
	}
	err = cmd.Wait()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Fatalf("the daemon ended with %v", err)
	}
	text := s.said.String()
	for _, want := range []string{
		`"msg":"an actor panicked; the daemon ends`, `"actor":"jobs"`, `"reason":"rehearsed"`, "jobs.go",
		"run the daemon: the actor jobs panicked: rehearsed",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("standard error does not say %q", want)
		}
	}
	_, c = start(t, s.cfg)
	if err := c.Limit(t.Context(), id, 0); err != nil {
		t.Error(err)
	}
	r = until(t, c, id, terminal)
	s.equal(t, r)
	if r.BytesResent > 0 {
		t.Errorf("%d bytes were sent again: the copies did not record what was durable", r.BytesResent)
	}
}

func TestTwoDaemonsLiveInOneProcessAndShareNoStateDirectory(t *testing.T) {
	one, two := app.DefaultConfig(), app.DefaultConfig()
	for _, cfg := range []*app.Config{&one, &two} {
		cfg.Listen, cfg.StateDir = "127.0.0.1:0", t.TempDir()
		cfg.Targets.Roots = []string{filepath.Join(cfg.StateDir, "targets")}
	}
	_, c1 := start(t, one)
	d2, c2 := start(t, two)
	for _, c := range []*rest.Client{c1, c2} {
		if _, err := c.System(t.Context()); err != nil {
			t.Error(err)
		}
	}
	_, err := app.Start(t.Context(), two, slog.New(slog.DiscardHandler), "test")
	if job.KindOf(err) != job.Conflict {
		t.Errorf("a second daemon on one state directory: %v", err)
	}
	busy := one
	busy.StateDir, busy.Listen = t.TempDir(), d2.Addr().String()
	if _, err := app.Start(t.Context(), busy, slog.New(slog.DiscardHandler),
		"test"); job.KindOf(err) != job.Unavailable {
		t.Errorf("a daemon on a port that is taken: %v", err)
	}
	busy.Listen = "127.0.0.1:0"
	start(t, busy) // the failed start has released the state directory
}

func TestWithoutAVCenterJobsAreRefusedWithTheKeysToSet(t *testing.T) {
	cfg := app.DefaultConfig()
	cfg.Listen, cfg.StateDir, cfg.Targets.Roots = "127.0.0.1:0", t.TempDir(), []string{"/srv"}
	_, c := start(t, cfg)
	_, _, err := c.Submit(t.Context(), job.Spec{VM: "web"}, rest.SubmitOptions{})
	if job.KindOf(err) != job.Invalid || !strings.Contains(job.NextOf(err), "vcenter.url") {
		t.Errorf("got %v, next %q", err, job.NextOf(err))
	}
	if all, err := c.Jobs(t.Context(), rest.ListOptions{}); err != nil || len(all) != 0 {
		t.Errorf("there are jobs: %v, %v", all, err)
	}
}

func TestAVCenterThatIsDownIsTriedAgainAndAWrongPasswordIsNot(t *testing.T) {
	s := newSite(t, 1)
	password := s.cfg.VCenter.PasswordFile
	down := s.cfg
	down.VCenter.URL, down.StateDir = "https://127.0.0.1:1", filepath.Join(s.dir, "s2")
	_, c := start(t, down)
	id := submit(t, c, job.Spec{})
	r := until(t, c, id, func(r report.Report) bool {
		return terminal(r) || slices.Contains(r.Health, report.Retrying)
	})
	if terminal(r) || r.Error == nil || r.Error.Code != job.Unavailable {
		t.Errorf("the job is %s: %+v", r.Status, r.Error)
	}
	if err := os.WriteFile(password, []byte("wrong\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, c = start(t, s.cfg)
	_, _, err := c.Submit(t.Context(), job.Spec{VM: "web"}, rest.SubmitOptions{})
	if job.KindOf(err) != job.Auth || !strings.Contains(err.Error()+job.NextOf(err), s.vcenter.User()) {
		t.Errorf("a wrong password: %v", err)
	}
}

func TestTheDaemonsLimitHoldsForEveryJob(t *testing.T) {
	s := newSite(t, 1)
	s.cfg.Limits.BandwidthPerJob = 1 << 20
	_, c := start(t, s.cfg)
	_, _, err := c.Submit(t.Context(), job.Spec{VM: "web", Options: job.Options{Bandwidth: 2 << 20}},
		rest.SubmitOptions{})
	if job.KindOf(err) != job.Invalid || !strings.Contains(job.NextOf(err), "limits.bandwidth_per_job") {
		t.Errorf("got %v, next %q", err, job.NextOf(err))
	}
}

func TestADeprecatedKeyIsLogged(t *testing.T) {
	cfg, _, err := app.Load(app.Sources{Flags: map[string]string{
		"listen":    "127.0.0.1:0",
		"state_dir": filepath.Join(t.TempDir(), "state"), "limits.bandwidth": "1MiB",
	}})
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	d, err := app.Start(t.Context(), cfg, slog.New(slog.NewTextHandler(&log, nil)), "test")
	if err != nil {
		t.Fatal(err)
	}
	stop(t, d)
	const want = `level=WARN msg="this configuration key is deprecated" key=limits.bandwidth ` +
		`use=limits.bandwidth_per_job`
	if !strings.Contains(log.String(), want) {
		t.Errorf("the log is %q, want %q in it", log.String(), want)
	}
}
