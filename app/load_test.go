package app_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vmferry/vmferry/app"
	"github.com/vmferry/vmferry/job"
)

// sample writes a sample with its placeholders filled in, and returns its text and path.
func sample(t *testing.T, file string) (text, path string) {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	secret, open := filepath.Join(dir, "secret"), filepath.Join(dir, "open")
	for name, mode := range map[string]os.FileMode{secret: 0o600, open: 0o644} {
		if err := os.WriteFile(name, []byte("rehearsal\n"), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(name, mode); err != nil {
			t.Fatal(err)
		}
	}
	text = strings.NewReplacer("${SECRET}", secret, "${OPEN}", open).Replace(string(raw))
	path = filepath.Join(dir, filepath.Base(file))
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return text, path
}

func samples(t *testing.T, pattern string) []string {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		t.Fatalf("no samples at %s: %v", pattern, err)
	}
	return files
}

func TestGoodSamplesLoad(t *testing.T) {
	for _, file := range samples(t, "testdata/good/*.yaml") {
		t.Run(filepath.Base(file), func(t *testing.T) {
			_, path := sample(t, file)
			if _, _, err := app.Load(app.Sources{File: path}); err != nil {
				t.Errorf("%v (%s)", err, job.NextOf(err))
			}
		})
	}
}

func TestBadSamplesAreRefusedWithWhatTheirFirstLineSays(t *testing.T) {
	for _, file := range samples(t, "testdata/bad/*.yaml") {
		t.Run(filepath.Base(file), func(t *testing.T) {
			text, path := sample(t, file)
			first, _, _ := strings.Cut(text, "\n")
			want := strings.Split(strings.TrimPrefix(first, "# want: "), " | ")
			_, _, err := app.Load(app.Sources{File: path})
			if err == nil {
				t.Fatal("it was accepted")
			}
			if k := job.KindOf(err); k != job.Invalid {
				t.Errorf("kind %q", k)
			}
			got := err.Error() + " " + job.NextOf(err)
			for _, w := range want {
				if !strings.Contains(got, w) {
					t.Errorf("got %q, want %q in it", got, w)
				}
			}
			if job.NextOf(err) == "" {
				t.Errorf("%q has no next step", err)
			}
		})
	}
}

func TestTheFullSampleMeansWhatItSays(t *testing.T) {
	_, path := sample(t, "testdata/good/full.yaml")
	got, _, err := app.Load(app.Sources{File: path})
	if err != nil {
		t.Fatal(err)
	}
	secret := filepath.Join(filepath.Dir(path), "secret")
	want := app.Config{
		Role: app.VMA, Listen: "127.0.0.1:9000", StateDir: "/var/lib/vmferry",
		VCenter: app.VCenter{URL: "https://vcenter.example.org/sdk", User: "ferry@vsphere.local", PasswordFile: secret,
			Thumbprint: "AB:CD", CAFile: "/etc/ssl/vcenter.pem"},
		Source: app.Source{Transport: "vddk", VDDKLibDir: "/opt/vmware-vix-disklib-distrib", VDDKPlugin: "vddk",
			VDDKConfig: "/etc/vmferry/vddk.conf"},
		Targets: app.Targets{Roots: []string{"/var/lib/vmferry/targets", "/dev/vmferry"},
			URIs: []string{"nbds://storage.example.org/", "nbd+unix:///?socket=/run/exports/"}},
		Redis:  app.Redis{URL: "redis://127.0.0.1:6379/0", PasswordFile: secret},
		Limits: limits(4, 3<<29),
		Report: app.Report{Interval: 500 * time.Millisecond, Percent: 0.5},
		Log:    app.Log{Level: "debug", Format: "json"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// limits are the standard ones but for two.
func limits(jobs int, bandwidth app.Size) app.Limits {
	l := app.DefaultConfig().Limits
	l.Jobs, l.Bandwidth = jobs, bandwidth
	return l
}

func TestEverythingHasADefault(t *testing.T) {
	got, ignored, err := app.Load(app.Sources{Environ: []string{"HOME=/root", "VMFERRY_STATE_DIR=/srv/ferry"}})
	if err != nil {
		t.Fatal(err)
	}
	want := app.DefaultConfig()
	want.Listen, want.StateDir = "127.0.0.1:8081", "/srv/ferry"
	want.Targets.Roots = []string{"/srv/ferry/targets"}
	if diff := cmp.Diff(want, got); diff != "" || len(ignored) > 0 {
		t.Error(diff, ignored)
	}
}

func TestTheEnvironmentOverridesTheFileAndFlagsOverrideBoth(t *testing.T) {
	path := filepath.Join(t.TempDir(), "vmferry.yaml")
	if err := os.WriteFile(path, []byte("listen: 127.0.0.1:1\nstate_dir: /a\nlimits: {jobs: 1, bandwidth: 1MiB}\n"),
		0o600); err != nil {
		t.Fatal(err)
	}
	got, ignored, err := app.Load(app.Sources{
		File: path,
		Environ: []string{
			"VMFERRY_LISTEN=127.0.0.1:2", "VMFERRY_STATE_DIR=/b", "VMFERRY_LIMITS_JOBS=2",
			"VMFERRY_LIMITS_BANDWIDTH=2MiB", "VMFERRY_REPORT_INTERVAL=1s",
			"VMFERRY_TARGETS_ROOTS=/x, /y", "VMFERRY_SERVER=http://127.0.0.1:9", "VMFERRY_CONFIG=/z",
			"VMFERRY_LIMIT_JOBS=3", "VMFERRY_REPORT_PERCENT=5",
		},
		Flags: map[string]string{"state_dir": "/c", "log.level": "debug"},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := app.DefaultConfig()
	want.Listen, want.StateDir, want.Limits = "127.0.0.1:2", "/c", limits(2, 2<<20)
	want.Report, want.Targets.Roots, want.Log.Level = app.Report{Interval: time.Second, Percent: 5},
		[]string{"/x", "/y"}, "debug"
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"VMFERRY_LIMIT_JOBS"}, ignored); diff != "" {
		t.Error(diff)
	}
}

func TestBadVariablesAndFlagsAreRefused(t *testing.T) {
	for name, src := range map[string]app.Sources{
		"a variable that is no number": {Environ: []string{"VMFERRY_LIMITS_JOBS=many"}},
		"an empty number":              {Environ: []string{"VMFERRY_LIMITS_JOBS="}},
		"a flag that is unknown":       {Flags: map[string]string{"statedir": "/x"}},
		"a flag of the wrong type":     {Flags: map[string]string{"report.interval": "2"}},
		"a file that is not there":     {File: "/nonexistent/vmferry.yaml"},
		"a file that is a folder":      {File: t.TempDir()},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := app.Load(src)
			if err == nil || job.NextOf(err) == "" {
				t.Errorf("got %v, next %q", err, job.NextOf(err))
			}
		})
	}
}
