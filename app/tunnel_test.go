package app_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vmferry/vmferry/app"
	"github.com/vmferry/vmferry/http/rest"
	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
	"github.com/vmferry/vmferry/store/history"
)

// sshSite is an sshd at the OMA's side, with the files of deploy/, and the key of one VMA. They run as an unprivileged
// user, also where the test runs as root.
type sshSite struct {
	t         *testing.T
	dir, user string
	as        *syscall.SysProcAttr
	sshd, ssh string
	port      int // of the sshd
}

func newSSHSite(t *testing.T, oma int) *sshSite {
	t.Helper()
	t.Setenv("PATH", os.Getenv("PATH")+":/usr/sbin:/sbin")
	need(t, "sshd", "ssh", "ssh-keygen")
	s := &sshSite{t: t, port: freePort(t)}
	s.sshd, _ = exec.LookPath("sshd")
	s.ssh, _ = exec.LookPath("ssh")
	var err error
	if s.dir, err = os.MkdirTemp("", "vf"); err != nil { //nolint:usetesting // another user must reach it
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(s.dir) })
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	s.user = me.Username
	if os.Geteuid() == 0 { // sshd as root wants its own user and folder; as another user it wants neither
		other, err := user.LookupId("65534")
		if err != nil {
			t.Skip(err)
		}
		var uid, gid uint32
		if _, err := fmt.Sscan(other.Uid+" "+other.Gid, &uid, &gid); err != nil {
			t.Fatal(err)
		}
		s.user = other.Username
		s.as = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: gid}}
		if err := os.Chown(s.dir, int(uid), int(gid)); err != nil {
			t.Fatal(err)
		}
	}
	for _, key := range []string{"host", "vma"} {
		s.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(s.dir, key))
	}
	public, err := os.ReadFile(filepath.Join(s.dir, "vma.pub"))
	if err != nil {
		t.Fatal(err)
	}
	keys := strings.NewReplacer("9081", fmt.Sprint(oma), "ssh-ed25519 AAAA vma-1", strings.TrimSpace(string(public))).
		Replace(deployed(t, "tunnel-authorized-keys"))
	s.file("keys", keys)
	s.file("config", fmt.Sprintf("Port %d\nListenAddress 127.0.0.1\nHostKey %s/host\nPidFile none\nUsePAM yes\n"+
		"StrictModes no\nLogLevel ERROR\n%s", s.port, s.dir, strings.NewReplacer("Match User vmferry-tunnel",
		"Match User "+s.user, "/etc/ssh/vmferry-tunnel-keys", s.dir+"/keys").
		Replace(deployed(t, "sshd-vmferry-tunnel.conf"))))
	return s
}

func deployed(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile("../deploy/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func (s *sshSite) file(name, text string) {
	s.t.Helper()
	if err := os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o644); err != nil {
		s.t.Fatal(err)
	}
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().(*net.TCPAddr).Port
}

func (s *sshSite) command(name string, args ...string) (*exec.Cmd, *bytes.Buffer) {
	c := exec.CommandContext(s.t.Context(), name, args...)
	c.SysProcAttr, c.Dir = s.as, s.dir
	c.WaitDelay = 5 * time.Second
	out := &bytes.Buffer{}
	c.Stdout, c.Stderr = out, out
	return c, out
}

func (s *sshSite) run(name string, args ...string) {
	s.t.Helper()
	c, out := s.command(name, args...)
	if err := c.Run(); err != nil {
		s.t.Fatalf("%s: %v: %s", name, err, out)
	}
}

// serve runs the sshd until the returned function is called.
func (s *sshSite) serve() (end func()) {
	s.t.Helper()
	c, out := s.command(s.sshd, "-D", "-e", "-f", s.dir+"/config")
	if err := c.Start(); err != nil {
		s.t.Fatal(err)
	}
	reach(s.t, s.port, out)
	return s.ender(c)
}

func (s *sshSite) ender(c *exec.Cmd) func() {
	return func() {
		_ = c.Process.Kill()
		_ = c.Wait()
	}
}

// reach waits until something listens at a port.
func reach(t *testing.T, port int, out *bytes.Buffer) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		c, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", port), time.Second)
		if err == nil {
			_ = c.Close()
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("nothing listens at port %d: %s", port, out)
		}
	}
}

// options are those of the unit in deploy/, with the key and the host of this site.
func (s *sshSite) options() []string {
	return []string{
		"-NT", "-i", s.dir + "/vma", "-p", fmt.Sprint(s.port), "-F", "none", "-o", "BatchMode=yes",
		"-o", "ExitOnForwardFailure=yes", "-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=2",
		"-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=" + s.dir + "/known", "-o", "LogLevel=ERROR",
	}
}

func (s *sshSite) tunnel(oma, vma int) (end func()) {
	s.t.Helper()
	c, out := s.command(s.ssh, append(s.options(), "-R", fmt.Sprintf("127.0.0.1:%d:127.0.0.1:%d", oma, vma),
		s.user+"@127.0.0.1")...)
	if err := c.Start(); err != nil {
		s.t.Fatal(err)
	}
	reach(s.t, oma, out)
	return s.ender(c)
}

// TestATunnelledVMAMovesTheRowOfItsOMA lets a copy tool post to a VMA that its OMA reaches through ssh only, and
// cuts the tunnel.
func TestATunnelledVMAMovesTheRowOfItsOMA(t *testing.T) {
	if testing.Short() {
		t.Skip("a tunnel is cut for as long as it takes an OMA to believe it")
	}
	oma := freePort(t)
	s := newSSHSite(t, oma)
	t.Cleanup(s.serve())
	cfg := omaConfig(t)
	cfg.Role, cfg.TunnelListen = app.VMA, "127.0.0.1:0"
	vma, tool := start(t, cfg)
	far := vma.TunnelAddr().(*net.TCPAddr).Port
	cut := s.tunnel(oma, far)

	id := job.ID("job-20250925-134230.513-8034ee")
	post := func(done int64, status string) {
		t.Helper()
		total := int64(1000)
		if err := tool.Progress(t.Context(), id, rest.ProgressUpdate{
			Stage: "Transfer", Status: status, BytesTransferred: &done, TotalBytes: &total,
		}); err != nil {
			t.Fatal(err)
		}
	}
	target := omaConfig(t, app.Node{Name: "vma-1", URL: fmt.Sprintf("http://127.0.0.1:%d", oma), Kind: "legacy"})
	target.SQL.Driver = history.SQLite
	_, c := start(t, target)
	row := func(want string) {
		t.Helper()
		rowSays(t, target, "SELECT status, progress_percent, bytes_transferred FROM replication_jobs WHERE id = '"+
			string(id)+"'", want)
	}
	if _, err := c.WatchJob(t.Context(), "vma-1", id); err != nil {
		t.Fatal(err)
	}
	for _, done := range []int64{100, 400} {
		post(done, "in_progress")
		shows(t, c, id, "the row does not move", func(r report.Report) bool { return r.BytesTransferred == done })
	}
	row("running|39.6|400")
	cut()
	r := shows(t, c, id, "not unreachable", func(r report.Report) bool { return r.Status == job.Unreachable })
	if r.Watched.Since == nil || r.Watched.Reason == "" || r.BytesTransferred != 400 {
		t.Errorf("an unreachable job shows %d bytes and %+v", r.BytesTransferred, r.Watched)
	}
	row("unreachable|39.6|400")
	post(700, "in_progress")
	defer s.tunnel(oma, far)()
	r = shows(t, c, id, "not right again", func(r report.Report) bool { return r.BytesTransferred == 700 })
	if r.Status != job.Running || r.Watched.Since != nil {
		t.Errorf("back again it is %s, %+v", r.Status, r.Watched)
	}
	post(1000, "completed")
	r = shows(t, c, id, "not completed", terminal)
	if r.Status != job.StatusCompleted || r.OverallPercent != 100 {
		t.Errorf("it ends %s at %v", r.Status, r.OverallPercent)
	}
	row("completed|100|1000")
}

// rowSays waits until a query of the history of a daemon has an answer.
func rowSays(t *testing.T, cfg app.Config, query, want string) {
	t.Helper()
	need(t, "sqlite3")
	end := time.Now().Add(time.Minute)
	for {
		got, err := ask(t, "sqlite3", "-readonly", filepath.Join(cfg.StateDir, "history.db"), query)
		if err == nil && got == want {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("the row says %q, %v; want %q", got, err, want)
		}
	}
}

func TestTheKeyOfATunnelOpensOnePortAndNothingElse(t *testing.T) {
	oma := freePort(t)
	s := newSSHSite(t, oma)
	t.Cleanup(s.serve())
	service, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = service.Close() }()
	served := make(chan struct{}, 100)
	go func() {
		for {
			c, err := service.Accept()
			if err != nil {
				return
			}
			served <- struct{}{}
			_ = c.Close()
		}
	}()
	at := s.user + "@127.0.0.1"
	refused := func(why string, args ...string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		c := exec.CommandContext(ctx, s.ssh, args...)
		c.SysProcAttr, c.Dir, c.WaitDelay = s.as, s.dir, time.Second
		out, err := c.CombinedOutput()
		if err == nil || ctx.Err() != nil || bytes.Contains(out, []byte("it ran")) {
			t.Errorf("%s: %v, %v: %s", why, err, ctx.Err(), out)
		}
	}
	refused("another port", append(s.options(), "-R", fmt.Sprintf("127.0.0.1:%d:127.0.0.1:1", freePort(t)), at)...)
	refused("the port at all addresses", append(s.options(), "-R", fmt.Sprintf("0.0.0.0:%d:127.0.0.1:1", oma), at)...)
	command := append(s.options(), at, "echo it ran")
	command[0] = "-T"
	refused("a command", command...)
	to := service.Addr().(*net.TCPAddr).Port
	command = append(s.options(), "-W", fmt.Sprintf("127.0.0.1:%d", to), at)
	refused("a way to a service of the OMA", command[1:]...)
	socket := filepath.Join(s.dir, "service.sock")
	refused("a way to a socket of the OMA", append(s.options(), "-R", socket+":127.0.0.1:1", at)...)
	if len(served) > 0 {
		t.Error("a connection came through to a service of the OMA")
	}
	end := s.tunnel(oma, to)
	defer end()
	c, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", oma), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	select {
	case <-served:
	case <-time.After(20 * time.Second):
		t.Error("the port that is permitted leads nowhere")
	}
}
