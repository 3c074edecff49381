package app_test

import (
	"context"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vmferry/vmferry/http/rest"
	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
)

// line is a connection to a server that a test cuts, and lets hang.
type line struct {
	tb      testing.TB
	address string // where it listens
	server  string

	mu       sync.Mutex
	listener net.Listener // nil while it is cut
	conns    []net.Conn
	gate     sync.RWMutex // write-locked while nothing passes
}

func newLine(tb testing.TB, server string) *line {
	tb.Helper()
	l := &line{tb: tb, server: server, address: "127.0.0.1:0"}
	l.mend()
	l.address = l.listener.Addr().String()
	tb.Cleanup(l.cut)
	return l
}

// mend lets new connections pass.
func (l *line) mend() {
	l.tb.Helper()
	listener, err := new(net.ListenConfig).Listen(context.WithoutCancel(l.tb.Context()), "tcp", l.address)
	if err != nil {
		l.tb.Fatal(err)
	}
	l.mu.Lock()
	l.listener = listener
	l.mu.Unlock()
	go func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return
			}
			far, err := new(net.Dialer).DialContext(context.WithoutCancel(l.tb.Context()), "tcp", l.server)
			if err != nil {
				_ = near.Close()
				continue
			}
			l.mu.Lock()
			l.conns = append(l.conns, near, far)
			l.mu.Unlock()
			go l.pass(near, far)
			go l.pass(far, near)
		}
	}()
}

func (l *line) pass(to, from net.Conn) {
	defer func() { _ = to.Close(); _ = from.Close() }()
	p := make([]byte, 64<<10)
	for {
		n, err := from.Read(p)
		l.gate.RLock()
		_, werr := to.Write(p[:n])
		l.gate.RUnlock()
		if err != nil || werr != nil {
			return
		}
	}
}

// cut ends all connections and refuses new ones.
func (l *line) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.listener == nil {
		return
	}
	_ = l.listener.Close()
	l.listener = nil
	for _, c := range l.conns {
		_ = c.Close()
	}
	l.conns = nil
}

// outage is how long something is away: two minutes in the long run.
func outage() time.Duration {
	if os.Getenv("VMFERRY_LONG") != "" {
		return 2 * time.Minute
	}
	return 3 * time.Second
}

// waits lets a job wait for a peer, and checks that its report says so all the time.
func waits(tb testing.TB, c *rest.Client, id job.ID, peer job.Peer) {
	tb.Helper()
	var since time.Time
	until(tb, c, id, func(r report.Report) bool {
		switch w := r.Wait; {
		case terminal(r):
			tb.Fatalf("the job is %s: %+v", r.Status, r.Error)
		case since.IsZero() && w != nil && w.For == string(peer):
			since = r.ObservedAt
		case since.IsZero():
		case w == nil || !slices.Contains(r.Health, report.Unavailable) ||
			!strings.Contains(r.Operation, "waits for "+peer.Name()+" since "):
			tb.Fatalf("it waits, and says %+v, %v: %s", w, r.Health, r.Operation)
		}
		return !since.IsZero() && r.ObservedAt.Sub(since) >= outage()
	})
}

// waiting lets a job go on by itself until it waits for its cut-over.
func waiting(tb testing.TB, c *rest.Client, id job.ID, round int) {
	tb.Helper()
	r := until(tb, c, id, func(r report.Report) bool {
		return terminal(r) || r.Round == round && r.Status == job.WaitingCutover
	})
	if r.Status != job.WaitingCutover || r.Wait != nil {
		tb.Fatalf("the job is %s: %+v, %+v", r.Status, r.Error, r.Wait)
	}
}

func halfWay(r report.Report) bool {
	return terminal(r) || len(r.Disks) == 2 && r.Disks[1].Status == job.DiskRunning && r.Disks[1].BytesDurable > 0
}

func command(tb testing.TB, c *rest.Client, id job.ID, v job.Verb) {
	tb.Helper()
	if err := c.Command(tb.Context(), id, v); err != nil {
		tb.Fatal(err)
	}
}

// overALine puts a line between the daemon and its vCenter.
func (s *site) overALine(tb testing.TB) *line {
	tb.Helper()
	u, err := url.Parse(s.cfg.VCenter.URL)
	if err != nil {
		tb.Fatal(err)
	}
	l := newLine(tb, u.Host)
	u.Host = l.address
	s.cfg.VCenter.URL = u.String()
	return l
}

func TestAVCenterThatIsAwayIsWaitedForInEveryRound(t *testing.T) {
	if testing.Short() {
		t.Skip("long: make it runs it")
	}
	need(t, "nbdkit")
	s := newSite(t, 96)
	l := s.overALine(t)
	_, c := start(t, s.cfg)
	id := submit(t, c, job.Spec{Options: job.Options{
		Cutover: job.CutoverManual, Bandwidth: 16 << 20, Verify: job.VerifyFull,
	}})
	if r := until(t, c, id, halfWay); terminal(r) {
		t.Fatalf("the job is %s: %+v", r.Status, r.Error)
	}
	l.cut() // disks are read through the vCenter as well
	waits(t, c, id, job.PeerVCenter)
	l.mend()
	waiting(t, c, id, 1)
	s.write(t)
	l.cut()
	command(t, c, id, job.Sync)
	waits(t, c, id, job.PeerVCenter)
	l.mend()
	waiting(t, c, id, 2)
	// A vCenter that does not answer at all shows long before its calls end.
	s.write(t)
	l.gate.Lock()
	command(t, c, id, job.CutoverNow)
	waits(t, c, id, job.PeerVCenter)
	l.gate.Unlock()
	s.equal(t, until(t, c, id, terminal))
}

func TestASourceThatIsAwayIsWaitedForInEveryRound(t *testing.T) {
	if testing.Short() {
		t.Skip("long: make it runs it")
	}
	need(t, "nbdkit")
	s := newSite(t, 96)
	dir, socket := filepath.Join(s.dir, "x"), filepath.Join(s.dir, "n")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for disk, image := range s.images {
		if err := os.Link(image, filepath.Join(dir, string(disk))); err != nil {
			t.Fatal(err)
		}
	}
	s.cfg.Source.Transport, s.cfg.Source.NBDURI = "nbd", "nbd+unix:///{disk}?socket="+socket
	end := serve(t, socket, dir)
	_, c := start(t, s.cfg)
	id := submit(t, c, job.Spec{Options: job.Options{
		Cutover: job.CutoverManual, Bandwidth: 16 << 20, Verify: job.VerifyFull,
	}})
	if r := until(t, c, id, halfWay); terminal(r) {
		t.Fatalf("the job is %s: %+v", r.Status, r.Error)
	}
	end()
	waits(t, c, id, job.PeerSource)
	end = serve(t, socket, dir)
	waiting(t, c, id, 1)
	for _, verb := range []job.Verb{job.Sync, job.CutoverNow} {
		s.write(t)
		end()
		command(t, c, id, verb)
		waits(t, c, id, job.PeerSource)
		end = serve(t, socket, dir)
		if verb == job.Sync {
			waiting(t, c, id, 2)
		}
	}
	s.equal(t, until(t, c, id, terminal))
}

// serve starts an nbdkit for the files of a folder, and returns when it listens. end kills it.
func serve(tb testing.TB, socket, dir string) (end func()) {
	tb.Helper()
	pid := socket + ".pid"
	_ = os.Remove(socket) // a killed one leaves both
	_ = os.Remove(pid)
	cmd := exec.CommandContext(context.WithoutCancel(tb.Context()), "nbdkit", "--exit-with-parent", "-f", "-r",
		"-P", pid, "-U", socket, "file", "dir="+dir)
	cmd.Stderr = io.Discard
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	end = sync.OnceFunc(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	tb.Cleanup(end)
	for began := time.Now(); ; <-time.After(10 * time.Millisecond) {
		if _, err := os.Stat(pid); err == nil {
			return end
		}
		if time.Since(began) > time.Minute {
			tb.Fatal("nbdkit does not listen")
		}
	}
}

func TestAVCenterThatStaysAwayFailsAJobAndARetryGoesOn(t *testing.T) {
	need(t, "nbdkit")
	s := newSite(t, 24)
	l := s.overALine(t)
	_, c := start(t, s.cfg)
	l.cut()
	id := submit(t, c, job.Spec{Options: job.Options{Patience: 2 * time.Second}})
	r := until(t, c, id, terminal)
	if r.Status != job.StatusFailed || r.Error == nil || r.Error.Code != job.Unavailable ||
		!strings.Contains(r.Error.Message, "waited for the vCenter since 20") ||
		!strings.Contains(r.Error.Message, "limits.patience") ||
		!strings.Contains(r.Error.Next, "vmferry retry "+string(id)) {
		t.Fatalf("the job is %s: %+v", r.Status, r.Error)
	}
	l.mend()
	command(t, c, id, job.Retry)
	s.equal(t, until(t, c, id, func(r report.Report) bool { return r.Status == job.StatusCompleted }))
}
