package app_test

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vmferry/vmferry/app"
	"github.com/vmferry/vmferry/job"
)

func TestWhatCanBeKnownAtTheStartIsRefusedAtTheStart(t *testing.T) {
	s := newSite(t, 1)
	file := filepath.Join(s.dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	long := filepath.Join(s.dir, strings.Repeat("x", 90))
	for name, tc := range map[string]struct {
		change func(*app.Config)
		words  []string
	}{
		"sockets below the state directory": {
			func(c *app.Config) { c.StateDir = long }, []string{"state_dir", "at most 107"},
		},
		"the socket of the service": {
			func(c *app.Config) { c.Listen = "unix:" + long + "/vmferry.sock" }, []string{"listen", "107"},
		},
		"a root that is a file": {func(c *app.Config) { c.Targets.Roots = []string{file} }, []string{file, "folder"}},
		"devices that do not exist": {
			func(c *app.Config) { c.Targets.Roots = []string{"/dev/vmferry-none"} }, []string{"/dev/vmferry-none"},
		},
		"VDDK that does not exist": {
			func(c *app.Config) { c.Source.VDDKLibDir = "/opt/none" }, []string{"source.vddk_libdir", "/opt/none"},
		},
		"no thumbprint": {
			func(c *app.Config) { c.VCenter.Thumbprint = "AB:CD" }, []string{"vcenter.thumbprint"},
		},
		"no authorities": {
			func(c *app.Config) { c.VCenter.Thumbprint, c.VCenter.CAFile = "", "/etc/none.pem" },
			[]string{"vcenter.ca_file"},
		},
		"no authorities for Redis": {
			func(c *app.Config) { c.Redis.URL, c.Redis.CAFile = "rediss://127.0.0.1:1/0", "/etc/none.pem" },
			[]string{"redis.ca_file"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := s.cfg
			tc.change(&cfg)
			d, err := app.Start(t.Context(), cfg, slog.New(slog.DiscardHandler), "test")
			if err == nil {
				stop(t, d)
				t.Fatal("it has started")
			}
			got := err.Error() + " " + job.NextOf(err)
			for _, w := range tc.words {
				if !strings.Contains(got, w) {
					t.Errorf("%q does not say %s", got, w)
				}
			}
		})
	}
}

func TestAFolderThatTheUnitMayNotWriteToIsNamedWithTheLineForTheUnit(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("vmferry-test", dir, "tmpfs", unix.MS_RDONLY, ""); err != nil {
		t.Skipf("cannot mount here: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, 0) })
	cfg := app.DefaultConfig()
	cfg.Listen, cfg.StateDir = "127.0.0.1:0", t.TempDir()
	cfg.Targets.Roots = []string{filepath.Join(dir, "images")}
	_, err := app.Start(t.Context(), cfg, slog.New(slog.DiscardHandler), "test")
	if err == nil || !strings.Contains(err.Error(), "read-only file system") {
		t.Errorf("got %v", err)
	}
	t.Setenv("INVOCATION_ID", "1")
	t.Setenv("NOTIFY_SOCKET", "/run/none")
	_, err = app.Start(t.Context(), cfg, slog.New(slog.DiscardHandler), "test")
	if err == nil || !strings.Contains(job.NextOf(err), "ReadWritePaths="+cfg.Targets.Roots[0]) {
		t.Errorf("got %v, next %q", err, job.NextOf(err))
	}
}

func TestDoctorTriesWhatTheDaemonWillDoInRedisAndAsksADaemonBeforeItLogsIn(t *testing.T) {
	need(t, "redis-server")
	s := newSite(t, 1)
	s.cfg.Redis.URL = "unix://" + redisServer(t, s.dir)
	if err := os.WriteFile(s.cfg.VCenter.PasswordFile, []byte("wrong\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	d, c := start(t, s.cfg)
	becomes(t, c, "wrong_password")
	cfg := s.cfg
	cfg.Listen = d.Addr().String()
	got := map[string]app.Check{}
	for _, k := range app.Doctor(t.Context(), cfg) {
		got[k.Name] = k
	}
	if k := got["redis"]; k.State != app.CheckOK || !strings.Contains(k.Message, "written and removed") {
		t.Errorf("redis: %+v", k)
	}
	if k := got["vcenter"]; k.State != app.CheckFailed || !strings.Contains(k.Next, s.cfg.VCenter.PasswordFile) {
		t.Errorf("vcenter: %+v", k)
	}
	if n := s.vcenter.Logins(); n != 1 {
		t.Errorf("there were %d logins", n)
	}
	if k := got["paths"]; k.State != app.CheckOK {
		t.Errorf("paths: %+v", k)
	}
}
