package vsphere_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/vsphere"
	"github.com/vmferry/vmferry/vsphere/sim"
)

const (
	mib      = 1 << 20
	kib      = 1 << 10
	password = "rehearsal secret"
)

// image makes a raw image: random bytes at some places, holes elsewhere.
func image(t testing.TB, size int64, at ...int64) string {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "disk.raw"))
	must(t, err)
	must(t, f.Truncate(size))
	source := rand.NewChaCha8([32]byte{byte(size / mib), byte(len(at))})
	for _, off := range at {
		p := make([]byte, min(200*kib, size-off))
		_, _ = source.Read(p)
		_, err := f.WriteAt(p, off)
		must(t, err)
	}
	must(t, f.Close())
	return f.Name()
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// vcenter starts a rehearsal vCenter with VMs; a test that gives none gets one, web, with two disks.
func vcenter(t testing.TB, opt sim.Options) *sim.VCenter {
	t.Helper()
	if len(opt.VMs) == 0 {
		opt.VMs = []sim.VM{web(t)}
	}
	opt.Password = job.NewSecret(password)
	v, err := sim.Start(t.Context(), opt)
	must(t, err)
	t.Cleanup(func() { must(t, v.Close()) })
	return v
}

func web(t testing.TB) sim.VM {
	t.Helper()
	return sim.VM{Name: "web", Disks: []string{image(t, 24*mib, 0, 3*mib+4096, 20*mib), image(t, 10*mib+512, 5*mib, 10*mib)}}
}

func passwordFile(t testing.TB, text string, mode os.FileMode) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "password")
	must(t, os.WriteFile(name, []byte(text), 0o600))
	must(t, os.Chmod(name, mode))
	return name
}

func config(t testing.TB, v *sim.VCenter) vsphere.Config {
	t.Helper()
	return vsphere.Config{URL: v.URL(), User: v.User(), PasswordFile: passwordFile(t, password+"\n", 0o600), Thumbprint: v.Thumbprint()}
}

func connect(t testing.TB, cfg vsphere.Config) *vsphere.Client {
	t.Helper()
	c, err := vsphere.Connect(t.Context(), cfg)
	must(t, err)
	t.Cleanup(func() { must(t, c.Close(context.WithoutCancel(t.Context()))) })
	return c
}

func inspect(t testing.TB, c *vsphere.Client, name string) job.VM {
	t.Helper()
	vm, err := c.Inspect(t.Context(), name)
	must(t, err)
	return vm
}

// tracked is a client and a VM whose changes are tracked.
func tracked(t testing.TB, v *sim.VCenter) (*vsphere.Client, job.VM) {
	t.Helper()
	c := connect(t, config(t, v))
	_, err := c.EnsureCBT(t.Context(), inspect(t, c, "web"))
	must(t, err)
	return c, inspect(t, c, "web")
}

func snapshot(t testing.TB, c *vsphere.Client, vm job.VM, name string) job.VMSnapshot {
	t.Helper()
	s, err := c.Snapshot(t.Context(), vm, name, false)
	must(t, err)
	return s
}

func names(t testing.TB, v *sim.VCenter) []string {
	t.Helper()
	list, err := v.Snapshots("web")
	must(t, err)
	out := []string{}
	for _, s := range list {
		out = append(out, s.Name)
	}
	return out
}

func digest(t testing.TB, r io.Reader) string {
	t.Helper()
	h := sha256.New()
	_, err := io.Copy(h, r)
	must(t, err)
	return hex.EncodeToString(h.Sum(nil))
}

func fileDigest(t testing.TB, name string) string {
	t.Helper()
	f, err := os.Open(name)
	must(t, err)
	defer f.Close()
	return digest(t, f)
}

func imageDigest(t testing.TB, v *sim.VCenter, snapshot string, disk job.DiskID) string {
	t.Helper()
	r, err := v.FrozenReader("web", snapshot, disk)
	must(t, err)
	return digest(t, io.NewSectionReader(r, 0, r.Size()))
}

// wantKind checks an error's kind, and that its text and next step hold the words.
func wantKind(t testing.TB, err error, kind job.Kind, words ...string) {
	t.Helper()
	if job.KindOf(err) != kind {
		t.Errorf("kind %q, want %q: %v", job.KindOf(err), kind, err)
	}
	if err == nil {
		return
	}
	text := err.Error() + "\n" + job.NextOf(err)
	for _, w := range words {
		if !strings.Contains(text, w) {
			t.Errorf("%q is missing in %q", w, text)
		}
	}
	if strings.Contains(text, password) {
		t.Errorf("the password stands in %q", text)
	}
}

// logged collects a log's text.
type logged struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func (l *logged) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }
