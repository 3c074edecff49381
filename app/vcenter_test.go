package app_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vmferry/vmferry/app"
	"github.com/vmferry/vmferry/http/rest"
	"github.com/vmferry/vmferry/job"
)

// logged is a log that can be read while it is written.
type logged struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// startLogged starts a daemon whose log is kept.
func startLogged(tb testing.TB, cfg app.Config) (*rest.Client, *logged) {
	tb.Helper()
	var log logged
	d, err := app.Start(tb.Context(), cfg, slog.New(slog.NewTextHandler(&log, nil)), "test")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { stop(tb, d) })
	return client(tb, d.URL()), &log
}

// becomes waits until the daemon says that the vCenter is in that state.
func becomes(tb testing.TB, c *rest.Client, want rest.VCenterState) rest.VCenter {
	tb.Helper()
	for began := time.Now(); ; <-time.After(50 * time.Millisecond) {
		s, err := c.System(tb.Context())
		if err != nil {
			tb.Fatal(err)
		}
		if s.VCenterState.State == want {
			return s.VCenterState
		}
		if time.Since(began) > 2*time.Minute {
			tb.Fatalf("the vCenter is %+v, want %s", s.VCenterState, want)
		}
	}
}

func preflight(ctx context.Context, c *rest.Client) error {
	p, err := c.Preflight(ctx, job.Spec{VM: "web"})
	if err == nil && !p.OK {
		err = errors.New("not ready")
	}
	return err
}

func TestAWrongPasswordMakesOneLoginAndIsToldOnce(t *testing.T) {
	s := newSite(t, 1)
	if err := os.WriteFile(s.cfg.VCenter.PasswordFile, []byte("wrong\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, log := startLogged(t, s.cfg)
	v := becomes(t, c, rest.VCenterWrongPassword)
	if v.Message == "" || !strings.Contains(v.Next, s.cfg.VCenter.PasswordFile) || v.Since.IsZero() {
		t.Errorf("the vCenter is %+v", v)
	}
	for range 3 {
		if err := preflight(t.Context(), c); job.KindOf(err) != job.Auth {
			t.Errorf("preflight: %v", err)
		}
		if _, _, err := c.Submit(t.Context(), job.Spec{VM: "web"}, rest.SubmitOptions{}); job.KindOf(err) != job.Auth {
			t.Errorf("submission: %v", err)
		}
	}
	if n := s.vcenter.Logins(); n != 1 {
		t.Errorf("there were %d logins", n)
	}
	if n := strings.Count(log.String(), `level=WARN msg="the vCenter cannot be used"`); n != 1 {
		t.Errorf("it is told %d times:\n%s", n, log)
	}
	if err := os.WriteFile(s.cfg.VCenter.PasswordFile, []byte("\ufeffrehearsal\r\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	becomes(t, c, rest.VCenterOK)
	if err := preflight(t.Context(), c); err != nil {
		t.Error(err)
	}
	if n := s.vcenter.Logins(); n != 2 {
		t.Errorf("there were %d logins", n)
	}
}

func TestAVCenterThatIsNotTrustedOrGoneOrNotThereIsToldAsItIs(t *testing.T) {
	t.Parallel()
	s := newSite(t, 1)
	untrusted := s.cfg
	untrusted.VCenter.Thumbprint = strings.Repeat("AA:", 31) + "AA"
	untrusted.StateDir += "2"
	untrusted.Targets.Roots = []string{s.dir}
	c, _ := startLogged(t, untrusted)
	if v := becomes(t, c, rest.VCenterWrongCertificate); !strings.Contains(v.Next, s.vcenter.Thumbprint()) {
		t.Errorf("the vCenter is %+v", v)
	}
	c, log := startLogged(t, s.cfg)
	becomes(t, c, rest.VCenterOK)
	if r, err := c.System(t.Context()); err != nil || !r.Ready || r.Reason != "" {
		t.Errorf("the daemon is %+v, %v", r, err)
	}
	if err := s.vcenter.Close(); err != nil {
		t.Fatal(err)
	}
	becomes(t, c, rest.VCenterUnreachable)
	if r, err := c.System(t.Context()); err != nil || !r.Ready || r.Reason == "" {
		t.Errorf("jobs can be accepted and must wait, but the daemon is %+v, %v", r, err)
	}
	if err := preflight(t.Context(), c); job.KindOf(err) != job.Unavailable {
		t.Errorf("preflight: %v", err)
	}
	if n := strings.Count(log.String(), "the vCenter cannot be used"); n != 1 {
		t.Errorf("it is told %d times:\n%s", n, log)
	}
	cfg := app.DefaultConfig()
	cfg.Listen, cfg.StateDir = "127.0.0.1:0", s.cfg.StateDir+"3"
	cfg.Targets.Roots = []string{s.dir}
	c, _ = startLogged(t, cfg)
	if r, err := c.System(t.Context()); err != nil || r.Ready || !strings.Contains(r.Reason, "no vCenter") ||
		r.VCenterState.State != rest.VCenterNotConfigured {
		t.Errorf("the daemon is %+v, %v", r, err)
	}
}
