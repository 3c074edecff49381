package sim_test

import (
	"bytes"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/nbd/sim"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	kib = 1 << 10
	mib = 1 << 20
)

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

func wantKind(tb testing.TB, err error, want job.Kind) {
	tb.Helper()
	if job.KindOf(err) != want {
		tb.Fatalf("error is of kind %q, want %q: %v", job.KindOf(err), want, err)
	}
}

// need skips the test if a program is not installed. In CI it fails the test instead.
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

// socket is a path that is short enough for a unix socket.
func socket(tb testing.TB) string {
	tb.Helper()
	dir, err := os.MkdirTemp("", "sim") //nolint:usetesting // the path of a socket must be short
	must(tb, err)
	tb.Cleanup(func() { must(tb, os.RemoveAll(dir)) })
	return filepath.Join(dir, "s")
}

func start(tb testing.TB, opt sim.Options) *sim.Server {
	tb.Helper()
	if opt.Listen == "" {
		opt.Listen = socket(tb)
	}
	s, err := sim.Start(tb.Context(), opt)
	must(tb, err)
	tb.Cleanup(func() { must(tb, s.Close()) })
	return s
}

// serverWithFaults starts a server with a disk of 1 MiB of 0x55 and these faults.
func serverWithFaults(tb testing.TB, faults ...string) *sim.Server {
	tb.Helper()
	s := start(tb, sim.Options{Backend: filled(mib)})
	setFaults(tb, s, faults...)
	return s
}

func setFaults(tb testing.TB, s *sim.Server, faults ...string) {
	tb.Helper()
	var all []sim.Fault
	for _, text := range faults {
		f, err := sim.ParseFault(text)
		must(tb, err)
		all = append(all, f)
	}
	must(tb, s.SetFaults(all...))
}

func filled(n int64) *sim.Memory {
	m := sim.NewMemory(n)
	put(m, 0, bytes.Repeat([]byte{0x55}, int(n)))
	return m
}

func put(b sim.Backend, off int64, p []byte) {
	if _, err := b.WriteAt(p, off); err != nil {
		panic(err)
	}
}

func get(b sim.Backend, off, n int64) []byte {
	p := make([]byte, n)
	if _, err := b.ReadAt(p, off); err != nil {
		panic(err)
	}
	return p
}

// mixed is a disk with data, zeros and holes.
func mixed(n int) []byte {
	r := rand.NewChaCha8([32]byte{byte(n), byte(n >> 8)})
	random := rand.New(r)
	b := make([]byte, n)
	for at := 0; at < n; {
		step := min(n-at, 1+random.IntN(300*kib))
		if random.IntN(2) == 0 {
			r.Read(b[at : at+step])
		}
		at += step
	}
	return b
}

// await checks every 2 ms until so is true, for 30 s at most.
func await(tb testing.TB, what string, so func() bool) {
	tb.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); <-tick.C {
		if so() {
			return
		}
	}
	tb.Fatalf("never true: %s", what)
}
