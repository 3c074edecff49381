package cert_test

import (
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/link/cert"
)

var quiet = slog.New(slog.DiscardHandler)

func authority(tb testing.TB) (*cert.Authority, string) {
	tb.Helper()
	dir := filepath.Join(tb.TempDir(), "ca")
	a, err := cert.CreateAuthority(dir, time.Hour)
	if err != nil {
		tb.Fatal(err)
	}
	return a, dir
}

func TestTheFilesOfANodeHaveTheirModes(t *testing.T) {
	a, dir := authority(t)
	if err := a.Node("oma", cert.OMA, dir, 2*time.Hour); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Token("vma-1", cert.VMA, time.Hour, time.Hour); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Revoke("oma"); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]fs.FileMode{
		"": 0o700, "ca.pem": 0o644, "ca.key": 0o600, "node.pem": 0o644, "node.key": 0o600, "issued": 0o600,
		"tokens": 0o700, "revoked.pem": 0o644,
	} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.Mode().Perm() != want {
			t.Errorf("%q has mode %v, want %v: %v", name, info.Mode().Perm(), want, err)
		}
	}
	if _, err := cert.CreateAuthority(dir, time.Hour); job.KindOf(err) != job.Conflict {
		t.Errorf("a second authority in one folder: %v", err)
	}
	for _, name := range []string{"", "a b", "../x", "-x", "x.example.org"} {
		if err := a.Node(name, cert.VMA, dir, time.Hour); job.KindOf(err) != job.Invalid {
			t.Errorf("a node named %q: %v", name, err)
		}
	}
}

func TestACertificateDoesNotOutliveItsAuthority(t *testing.T) {
	a, dir := authority(t) // for an hour
	if err := a.Node("vma-1", cert.VMA, dir, 24*time.Hour); err != nil {
		t.Fatal(err)
	}
	n, err := cert.Open(dir, quiet)
	if err != nil {
		t.Fatal(err)
	}
	if left := time.Until(n.Self().NotAfter); left > time.Hour || left < 50*time.Minute {
		t.Errorf("it lasts %v", left)
	}
}

func TestAKeyThatOthersCanReadIsRefused(t *testing.T) {
	a, dir := authority(t)
	if err := a.Node("vma-1", cert.VMA, dir, time.Hour); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(dir, "node.key"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := cert.Open(dir, quiet); job.KindOf(err) != job.Invalid || job.NextOf(err) == "" {
		t.Errorf("a key with mode 0644: %v", err)
	}
}

func TestFilesOfNoUseLeaveTheLastGoodOnesInForce(t *testing.T) {
	a, dir := authority(t)
	_, otherDir := authority(t)
	other, _ := cert.OpenAuthority(otherDir)
	if err := a.Node("vma-1", cert.VMA, dir, time.Hour); err != nil {
		t.Fatal(err)
	}
	if err := a.Node("vma-2", cert.VMA, t.TempDir(), time.Hour); err != nil {
		t.Fatal(err)
	}
	n, err := cert.Open(dir, quiet)
	if err != nil {
		t.Fatal(err)
	}
	serial := n.Self().Serial
	pair := func(name string) []byte {
		b, _ := os.ReadFile(filepath.Join(dir, name))
		return b
	}
	key, crt := pair("node.key"), pair("node.pem")
	write := func(name string, b []byte, mode fs.FileMode) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path+".new", b, mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	for name, change := range map[string]func(){
		"an empty certificate":   func() { write("node.pem", nil, 0o644) },
		"another key":            func() { write("node.key", pair("ca.key"), 0o600) },
		"another node":           func() { _ = a.Node("vma-9", cert.VMA, dir, time.Hour) },
		"no list, but noise":     func() { write("revoked.pem", []byte("noise"), 0o644) },
		"a list of someone else": func() { _, _ = other.Revoke("x"); revokeBy(t, other, otherDir, dir) },
	} {
		change()
		if n.Reload() || n.Self().Serial != serial || n.Self().Name != "vma-1" {
			t.Errorf("%s is in force: %+v", name, n.Self())
		}
		write("node.pem", crt, 0o644)
		write("node.key", key, 0o600)
		_ = os.Remove(filepath.Join(dir, "revoked.pem"))
	}
	if _, err := a.Revoke("vma-2"); err != nil {
		t.Fatal(err)
	}
	if !n.Reload() {
		t.Error("a new list is not read")
	}
	_ = os.Remove(filepath.Join(dir, "revoked.pem"))
	if n.Reload() {
		t.Error("a list that was removed is forgotten")
	}
}

// revokeBy puts a list that another authority has signed into a folder.
func revokeBy(t *testing.T, other *cert.Authority, from, to string) {
	t.Helper()
	if err := other.Node("x", cert.VMA, t.TempDir(), time.Hour); err != nil {
		t.Fatal(err)
	}
	if _, err := other.Revoke("x"); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(from, "revoked.pem"))
	if err == nil {
		err = os.WriteFile(filepath.Join(to, "revoked.pem"), b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestRevokingNamesWhatWasNeverIssued(t *testing.T) {
	a, dir := authority(t)
	if _, err := a.Revoke("vma-1"); job.KindOf(err) != job.NotFound {
		t.Errorf("a node without certificates: %v", err)
	}
	for range 2 {
		if err := a.Node("vma-1", cert.VMA, dir, time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	for i, want := range []int{2, 0} {
		if n, err := a.Revoke("VMA-1"); n != want || err != nil {
			t.Errorf("time %d: %d certificates, want %d: %v", i, n, want, err)
		}
	}
}
