package vsphere_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/nbd/kit"
	"github.com/vmferry/vmferry/vsphere"
	"github.com/vmferry/vmferry/vsphere/sim"
)

// need skips the test if a program is missing. In CI it fails the test instead.
func need(tb testing.TB, programs ...string) {
	tb.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err == nil {
			continue
		}
		if os.Getenv("CI") == "true" {
			tb.Fatalf("%s is not installed", p)
		}
		tb.Skipf("%s is not installed", p)
	}
}

// serve starts nbdkit for an export.
func serve(tb testing.TB, e job.Export) *kit.Server {
	tb.Helper()
	dir, err := os.MkdirTemp("", "vf") //nolint:usetesting // the path of a socket must be short
	must(tb, err)
	tb.Cleanup(func() { must(tb, os.RemoveAll(dir)) })
	s, err := kit.Serve(tb.Context(), e, filepath.Join(dir, "n"), nil)
	must(tb, err)
	tb.Cleanup(func() { must(tb, s.Stop(tb.Context())) })
	return s
}

func nbdcopy(tb testing.TB, uri string) (target string, took time.Duration) {
	tb.Helper()
	target = filepath.Join(tb.TempDir(), "target")
	began := time.Now()
	cmd := exec.CommandContext(tb.Context(), "nbdcopy", "--request-size=2097152", uri, target)
	if out, err := cmd.CombinedOutput(); err != nil {
		tb.Fatalf("nbdcopy: %v: %s", err, out)
	}
	return target, time.Since(began)
}

func TestNbdkitReadsWhatTheSnapshotFroze(t *testing.T) {
	need(t, "nbdkit", "nbdcopy")
	v := vcenter(t, sim.Options{})
	ca := filepath.Join(t.TempDir(), "ca.pem")
	must(t, os.WriteFile(ca, v.Certificate(), 0o600))
	for _, tc := range []struct {
		name   string
		change func(*vsphere.Config)
	}{
		{"pinned by SHA-256", func(*vsphere.Config) {}},
		{"pinned by SHA-1, under another name", func(c *vsphere.Config) { c.Thumbprint = v.ThumbprintSHA1() }},
		{"by authorities", func(c *vsphere.Config) { c.Thumbprint, c.CAFile = "", ca }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cfg := config(t, v)
			tc.change(&cfg)
			c := connect(t, cfg)
			vm := inspect(t, c, "web")
			s := snapshot(t, c, vm, "vmferry-job-1")
			want := imageDigest(t, v, "", "disk-2001")
			must(t, v.GuestScribble("web", "disk-2001", 0, 10*mib, 1))
			e, err := c.Export(t.Context(), vm, s, "disk-2001")
			must(t, err)
			target, _ := nbdcopy(t, serve(t, e).URI())
			if got := fileDigest(t, target); got != want {
				t.Errorf("digest %s, want %s", got, want)
			}
			must(t, c.RemoveSnapshot(t.Context(), vm, held(s)))
		})
	}
}

func TestNbdkitRefusesAServerWithAnotherCertificate(t *testing.T) {
	need(t, "nbdkit", "nbdinfo")
	v, other := vcenter(t, sim.Options{}), vcenter(t, sim.Options{})
	c := connect(t, config(t, v))
	vm := inspect(t, c, "web")
	s := snapshot(t, c, vm, "vmferry-job-1")
	e, err := c.Export(t.Context(), vm, s, "disk-2000")
	must(t, err)
	ca := filepath.Join(t.TempDir(), "other.pem")
	must(t, os.WriteFile(ca, other.Certificate(), 0o600))
	for i := range e.Params {
		if e.Params[i].Key == "cainfo" {
			e.Params[i].Value = ca
		}
	}
	e.Filters = nil // trying again does not help
	cmd := exec.CommandContext(t.Context(), "nbdinfo", "--size", serve(t, e).URI())
	if out, err := cmd.CombinedOutput(); err == nil {
		t.Errorf("nbdkit read from a server that it should not trust: %s", out)
	}
}

// BenchmarkNbdkitOverHTTPS measures how fast the rehearsal vCenter serves a dense disk.
func BenchmarkNbdkitOverHTTPS(b *testing.B) {
	need(b, "nbdkit", "nbdcopy")
	var at []int64
	for off := int64(0); off < 256*mib; off += 200 * kib {
		at = append(at, off)
	}
	v := vcenter(b, sim.Options{VMs: []sim.VM{{Name: "web", Disks: []string{image(b, 256*mib, at...)}}}})
	c := connect(b, config(b, v))
	vm := inspect(b, c, "web")
	s := snapshot(b, c, vm, "vmferry-job-1")
	e, err := c.Export(b.Context(), vm, s, "disk-2000")
	must(b, err)
	uri := serve(b, e).URI()
	b.SetBytes(256 * mib)
	for b.Loop() {
		nbdcopy(b, uri)
	}
}
