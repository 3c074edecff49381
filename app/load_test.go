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

// sample writes a sample with values for its placeholders, and returns its text and path.
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
	text = strings.NewReplacer("${SECRET}", secret, "${OPEN}", open, "${TLS}", dir,
		"${CERT}", filepath.Join(dir, "cert.pem"), "${KEY}", filepath.Join(dir, "key.pem")).Replace(string(raw))
	if strings.Contains(string(raw), "${KEY}") {
		certificate(t, dir, 1)
	}
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

func TestBadSamplesAreRefusedWithTheTextsOfTheirFirstLine(t *testing.T) {
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

func TestTheFullSampleIsReadCompletely(t *testing.T) {
	_, path := sample(t, "testdata/good/full.yaml")
	got, _, err := app.Load(app.Sources{File: path})
	if err != nil {
		t.Fatal(err)
	}
	beside := func(name string) string { return filepath.Join(filepath.Dir(path), name) }
	secret := beside("secret")
	want := app.Config{
		Role: app.VMA, Listen: "127.0.0.1:9000", StateDir: "/var/lib/vmferry",
		VCenter: app.VCenter{
			URL: "https://vcenter.example.org/sdk", User: "ferry@vsphere.local", PasswordFile: secret,
			Thumbprint: "AB:CD", CAFile: "/etc/ssl/vcenter.pem",
		},
		Source: app.Source{
			Transport: "vddk", VDDKLibDir: "/opt/vmware-vix-disklib-distrib", VDDKPlugin: "vddk",
			VDDKConfig: "/etc/vmferry/vddk.conf", TLSUnverified: true,
		},
		Targets: app.Targets{
			Roots: []string{"/var/lib/vmferry/targets", "/dev/vmferry"},
			URIs:  []string{"nbds://storage.example.org/", "nbd+unix:///?socket=/run/exports/"},

			TLSCertificates: filepath.Dir(path), TLSUnverified: true,
		},
		Redis:  app.Redis{URL: "redis://127.0.0.1:6379/0", PasswordFile: secret},
		SQL:    app.SQL{Driver: "mariadb", DSNFile: secret, Alter: true},
		Report: app.Report{Interval: 500 * time.Millisecond, Percent: 0.5, ExternalKeep: 24 * time.Hour},
		Log:    app.Log{Level: "debug", Format: "json"},
		TLS:    app.TLS{Listen: "0.0.0.0:8443", CertFile: beside("cert.pem"), KeyFile: beside("key.pem")},
		Auth: app.Auth{
			Required: true, Hosts: []string{"vma.example.org"}, Session: 8 * time.Hour, RequestsPerSecond: 20,
		},
		Webhooks: []app.Webhook{
			{URL: "http://10.0.0.7:9000/vmferry?room=7", Events: []string{"failed", "completed"}, SecretFile: secret},
			{URL: "https://tickets.example.org/", SecretFile: secret},
		},
	}
	want.Limits = limits(4, 3<<29)
	want.Limits.ExternalJobs = 500
	want.Limits.Patience, want.Limits.LastRoundPatience = 12*time.Hour, 90*time.Second
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// limits are the standard limits, except for two.
func limits(jobs int, bandwidth app.Size) app.Limits {
	l := app.DefaultConfig().Limits
	l.Jobs, l.BandwidthPerJob = jobs, bandwidth
	return l
}

func TestEverythingHasADefault(t *testing.T) {
	got, ignored, err := app.Load(app.Sources{Environ: []string{"HOME=/root", "VMFERRY_STATE_DIR=/srv/ferry"}})
	if err != nil {
		t.Fatal(err)
	}
	want := app.DefaultConfig()
	want.Listen, want.StateDir = "127.0.0.1:8081", "/srv/ferry"
	want.Targets.Roots, want.SQL.Driver = []string{"/srv/ferry/targets"}, "sqlite"
	if diff := cmp.Diff(want, got); diff != "" || len(ignored) > 0 {
		t.Error(diff, ignored)
	}
}

func TestTheEnvironmentOverridesTheFileAndFlagsOverrideBoth(t *testing.T) {
	path := write(t, "listen: 127.0.0.1:1\nstate_dir: /a\nlimits: {jobs: 1, bandwidth_per_job: 1MiB}\n")
	got, ignored, err := app.Load(app.Sources{
		File: path,
		Environ: []string{
			"VMFERRY_LISTEN=127.0.0.1:2", "VMFERRY_STATE_DIR=/b", "VMFERRY_LIMITS_JOBS=2",
			"VMFERRY_LIMITS_BANDWIDTH_PER_JOB=2MiB", "VMFERRY_REPORT_INTERVAL=1s",
			"VMFERRY_TARGETS_ROOTS=/x, /y", "VMFERRY_SERVER=http://127.0.0.1:9", "VMFERRY_CONFIG=/z",
			"VMFERRY_LIMIT_JOBS=3", "VMFERRY_REPORT_PERCENT=5", "VMFERRY_AUTH_REQUIRED=true",
			"VMFERRY_AUTH_HOSTS=a.example, b.example", "VMFERRY_TOKEN_FILE=/t", "VMFERRY_CA_FILE=/c",
		},
		Flags: map[string]string{"state_dir": "/c", "log.level": "debug"},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := app.DefaultConfig()
	want.Listen, want.StateDir, want.Limits = "127.0.0.1:2", "/c", limits(2, 2<<20)
	want.Report.Interval, want.Report.Percent = time.Second, 5
	want.Targets.Roots, want.Log.Level = []string{"/x", "/y"}, "debug"
	want.Auth.Required, want.Auth.Hosts = true, []string{"a.example", "b.example"}
	want.SQL.Driver = "sqlite" // of the role all
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

// write writes a configuration and returns its path.
func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "vmferry.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestTheOldKeyOfTheBandwidthIsReadAndDeprecated(t *testing.T) {
	old := "limits: {bandwidth: 1MiB}\n"
	env := []string{"VMFERRY_LIMITS_BANDWIDTH=2MiB"}
	flag := map[string]string{"limits.bandwidth": "3MiB"}
	for name, tc := range map[string]struct {
		src  app.Sources
		want app.Size
	}{
		"file":          {app.Sources{File: write(t, old)}, 1 << 20},
		"zero":          {app.Sources{File: write(t, "limits: {bandwidth: 0}\n")}, 0},
		"variable":      {app.Sources{Environ: env}, 2 << 20},
		"file and both": {app.Sources{File: write(t, old), Environ: env, Flags: flag}, 3 << 20},
	} {
		t.Run(name, func(t *testing.T) {
			got, ignored, err := app.Load(tc.src)
			if err != nil || len(ignored) > 0 {
				t.Fatal(err, ignored)
			}
			if got.Limits.BandwidthPerJob != tc.want || got.Limits.Bandwidth != 0 {
				t.Errorf("got %d per job, %d under the old key, want %d and 0", got.Limits.BandwidthPerJob,
					got.Limits.Bandwidth, tc.want)
			}
			want := []app.Deprecation{{Old: "limits.bandwidth", New: "limits.bandwidth_per_job"}}
			if diff := cmp.Diff(want, got.Deprecated); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestTheOldAndTheNewKeyOfTheBandwidthExcludeEachOther(t *testing.T) {
	for name, src := range map[string]app.Sources{
		"in the file": {File: write(t, "limits: {bandwidth: 1MiB, bandwidth_per_job: 1MiB}\n")},
		"file and variable": {
			File:    write(t, "limits: {bandwidth_per_job: 1MiB}\n"),
			Environ: []string{"VMFERRY_LIMITS_BANDWIDTH=1MiB"},
		},
		"variable and flag": {
			Environ: []string{"VMFERRY_LIMITS_BANDWIDTH_PER_JOB=1MiB"},
			Flags:   map[string]string{"limits.bandwidth": "1MiB"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := app.Load(src)
			if job.KindOf(err) != job.Invalid ||
				!strings.Contains(err.Error(), "limits.bandwidth: this is the old name of limits.bandwidth_per_job") ||
				!strings.Contains(job.NextOf(err), "VMFERRY_LIMITS_BANDWIDTH") {
				t.Errorf("got %v, next %q", err, job.NextOf(err))
			}
		})
	}
}

func TestAnEmptyOldKeyIsNotSet(t *testing.T) {
	got, _, err := app.Load(app.Sources{File: write(t, "limits:\n  bandwidth:\n  bandwidth_per_job: 1MiB\n")})
	if err != nil || got.Limits.BandwidthPerJob != 1<<20 || len(got.Deprecated) > 0 {
		t.Errorf("got %d, deprecated %v, %v", got.Limits.BandwidthPerJob, got.Deprecated, err)
	}
}

func TestRemovedSectionsAreNamedAsSuchByFlagsToo(t *testing.T) {
	for _, key := range []string{"remote.tls.ca_file", "remote.listen"} {
		_, _, err := app.Load(app.Sources{Flags: map[string]string{key: "/x"}})
		if job.KindOf(err) != job.Invalid || !strings.Contains(err.Error(), "this version has no section") ||
			!strings.HasPrefix(job.NextOf(err), "Leave out the section") {
			t.Errorf("%s: got %v, next %q", key, err, job.NextOf(err))
		}
	}
}
