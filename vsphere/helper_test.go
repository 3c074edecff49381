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
func image(tb testing.TB, size int64, at ...int64) string {
	tb.Helper()
	f, err := os.Create(filepath.Join(tb.TempDir(), "disk.raw"))
	must(tb, err)
	must(tb, f.Truncate(size))
	source := rand.NewChaCha8([32]byte{byte(size / mib), byte(len(at))})
	for _, off := range at {
		p := make([]byte, min(200*kib, size-off))
		_, _ = source.Read(p)
		_, err := f.WriteAt(p, off)
		must(tb, err)
	}
	must(tb, f.Close())
	return f.Name()
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// vcenter starts a rehearsal vCenter. Without VMs in opt it has one VM, web, with two disks.
func vcenter(tb testing.TB, opt sim.Options) *sim.VCenter {
	tb.Helper()
	if len(opt.VMs) == 0 {
		opt.VMs = []sim.VM{web(tb)}
	}
	opt.Password = job.NewSecret(password)
	v, err := sim.Start(tb.Context(), opt)
	must(tb, err)
	tb.Cleanup(func() { must(tb, v.Close()) })
	return v
}

func web(tb testing.TB) sim.VM {
	tb.Helper()
	return sim.VM{Name: "web", Disks: []string{
		image(tb, 24*mib, 0, 3*mib+4096, 20*mib), image(tb, 10*mib+512, 5*mib, 10*mib),
	}}
}

func passwordFile(tb testing.TB, text string, mode os.FileMode) string {
	tb.Helper()
	name := filepath.Join(tb.TempDir(), "password")
	must(tb, os.WriteFile(name, []byte(text), 0o600))
	must(tb, os.Chmod(name, mode))
	return name
}

func config(tb testing.TB, v *sim.VCenter) vsphere.Config {
	tb.Helper()
	return vsphere.Config{
		URL: v.URL(), User: v.User(), PasswordFile: passwordFile(tb, password+"\n", 0o600), Thumbprint: v.Thumbprint(),
	}
}

func connect(tb testing.TB, cfg vsphere.Config) *vsphere.Client {
	tb.Helper()
	c, err := vsphere.Connect(tb.Context(), cfg)
	must(tb, err)
	tb.Cleanup(func() { must(tb, c.Close(context.WithoutCancel(tb.Context()))) })
	return c
}

func inspect(tb testing.TB, c *vsphere.Client, name string) job.VM {
	tb.Helper()
	vm, err := c.Inspect(tb.Context(), name)
	must(tb, err)
	return vm
}

// tracked is a client and a VM whose changes are tracked.
func tracked(tb testing.TB, v *sim.VCenter) (*vsphere.Client, job.VM) {
	tb.Helper()
	c := connect(tb, config(tb, v))
	_, err := c.EnsureCBT(tb.Context(), inspect(tb, c, "web"))
	must(tb, err)
	return c, inspect(tb, c, "web")
}

func snapshot(tb testing.TB, c *vsphere.Client, vm job.VM, name string) job.VMSnapshot {
	tb.Helper()
	s, err := c.Snapshot(tb.Context(), vm, named(name), false)
	must(tb, err)
	return s
}

// named is a snapshot that a job names, before it is taken.
func named(name string) job.SnapshotRef { return job.SnapshotRef{Name: name, Mark: "mark." + name} }

// held is a snapshot that named has named, and that was taken.
func held(s job.VMSnapshot) job.SnapshotRef {
	ref := named(s.Name)
	ref.Ref = s.Ref
	return ref
}

func snapshotNames(tb testing.TB, v *sim.VCenter) []string {
	tb.Helper()
	list, err := v.Snapshots("web")
	must(tb, err)
	out := []string{}
	for _, s := range list {
		out = append(out, s.Name)
	}
	return out
}

func digest(tb testing.TB, r io.Reader) string {
	tb.Helper()
	h := sha256.New()
	_, err := io.Copy(h, r)
	must(tb, err)
	return hex.EncodeToString(h.Sum(nil))
}

func fileDigest(tb testing.TB, name string) string {
	tb.Helper()
	f, err := os.Open(name)
	must(tb, err)
	defer f.Close()
	return digest(tb, f)
}

func imageDigest(tb testing.TB, v *sim.VCenter, snapshot string, disk job.DiskID) string {
	tb.Helper()
	r, err := v.FrozenReader("web", snapshot, disk)
	must(tb, err)
	return digest(tb, io.NewSectionReader(r, 0, r.Size()))
}

// wantKind checks an error's kind, and that its text and next step hold the words.
func wantKind(tb testing.TB, err error, kind job.Kind, words ...string) {
	tb.Helper()
	if job.KindOf(err) != kind {
		tb.Errorf("kind %q, want %q: %v", job.KindOf(err), kind, err)
	}
	if err == nil {
		return
	}
	text := err.Error() + "\n" + job.NextOf(err)
	for _, w := range words {
		if !strings.Contains(text, w) {
			tb.Errorf("%q is missing in %q", w, text)
		}
	}
	if strings.Contains(text, password) {
		tb.Errorf("the password is in %q", text)
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
