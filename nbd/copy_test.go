package nbd_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/nbd"
	"github.com/vmferry/vmferry/volumes/copytest"
)

func TestEverySizeAndShapeArrivesUnchanged(t *testing.T) {
	if testing.Short() {
		t.Skip("long: make it runs it")
	}
	sizes := []int{1, 511, 512, 513, 4095, 4096, mib + 1, 3*mib - 1, 20*mib + 512}
	shapes := map[string]shape{"dense": dense, "zeros": zeroes, "mixed": mixed}
	for name, s := range shapes {
		for _, n := range sizes {
			t.Run(fmt.Sprintf("%s %d", name, n), func(t *testing.T) {
				want := disk(n, s)
				src := image(t, want)
				server := kit(t, "-r", "file", src)
				for _, from := range []string{src, server.uri} {
					to := dirty(t, n+3)
					mustCopy(t, nbd.Task{Source: from, Target: copytest.Onto(to), Capacity: int64(n)})
					got := content(t, to)
					same(t, got, want)
					if !bytes.Equal(got[n:], []byte{0xAA, 0xAA, 0xAA}) {
						t.Errorf("bytes past the disk were touched: %x", got[n:])
					}
				}
			})
		}
	}
}

func TestEveryKindOfServerWillDo(t *testing.T) {
	if testing.Short() {
		t.Skip("long: make it runs it")
	}
	const n = 24*mib + 512
	want := disk(n, mixed)
	src := image(t, want)
	sources := map[string][]string{
		"plain":                 {"file", src},
		"no extents":            {"--filter=noextents", "file", src},
		"no structured replies": {"--no-sr", "file", src},
		"no multi-conn":         {"--filter=multi-conn", "file", src, "multi-conn-mode=disable"},
		"one connection only":   {"--filter=limit", "file", src, "limit=1"},
		"blocks of 4 KiB": {
			"--filter=blocksize-policy", "--filter=truncate", "file", src, "round-up=4096",
			"blocksize-minimum=4096", "blocksize-preferred=4096", "blocksize-maximum=65536",
			"blocksize-error-policy=error",
		},
		"qemu": nil,
	}
	for name, args := range sources {
		t.Run("from "+name, func(t *testing.T) {
			to := dirty(t, n+3584)
			mustCopy(t, nbd.Task{Source: serverOf(t, src, append([]string{"-r"}, args...)), Target: copytest.Onto(to)})
			same(t, content(t, to), want)
		})
	}
	targets := map[string][]string{
		"plain":                 {"file"},
		"no zero":               {"--filter=nozero", "file"},
		"no flush":              {"--filter=fua", "file", "fuamode=discard"},
		"zero that fails":       {"--filter=error", "file", "error-zero=EINVAL", "error-zero-rate=100%"},
		"no structured replies": {"--no-sr", "file"},
		"no multi-conn":         {"--filter=multi-conn", "file", "multi-conn-mode=disable"},
		"qemu":                  nil,
	}
	for name, args := range targets {
		for _, from := range []string{"file", "nbdkit"} {
			t.Run("from "+from+" to "+name, func(t *testing.T) {
				source := src
				if from == "nbdkit" {
					source = kit(t, "-r", "file", src).uri
				}
				to := dirty(t, n)
				serving := slices.Clone(args)
				if len(args) > 0 {
					serving = append(serving, "file="+to)
				}
				mustCopy(t, nbd.Task{Source: source, Target: copytest.Onto(serverOf(t, to, serving))})
				same(t, content(t, to), want)
			})
		}
	}
}

// serverOf starts an nbdkit, or qemu-nbd over the file if no plugin is named.
func serverOf(t *testing.T, file string, args []string) string {
	t.Helper()
	if !slices.Contains(args, "file") {
		return qemu(t, file, args...).uri
	}
	return kit(t, args...).uri
}

func TestATargetKnownToBeZeroGetsDataOnly(t *testing.T) {
	want := disk(30*mib, mixed)
	src := kit(t, "-r", "file", image(t, want))
	to := blank(t, 30*mib)
	r := mustCopy(t, nbd.Task{Source: src.uri, Target: copytest.Onto(to), TargetIsZero: true})
	same(t, content(t, to), want)
	if r.Skipped == 0 || r.Transferred == 0 {
		t.Errorf("transferred %d, skipped %d", r.Transferred, r.Skipped)
	}
}

func TestZerosBecomeHoles(t *testing.T) {
	const n = 64 * mib
	want := make([]byte, n)
	dense(want[10*mib : 11*mib])
	to := dirty(t, n)
	mustCopy(t, nbd.Task{Source: kit(t, "-r", "file", image(t, want)).uri, Target: copytest.Onto(to)})
	same(t, content(t, to), want)
	if used := blocks(t, to); used > 2*mib {
		t.Errorf("the target uses %d bytes for 1 MiB of data", used)
	}
}

func TestOnlyTheNamedRangesAreReadAndWritten(t *testing.T) {
	const n = 16 * mib
	want := disk(n, dense)
	clear(want[5*mib : 6*mib])
	only := job.Extents{
		{Offset: 65536, Length: 65536},
		{Offset: 3*mib + 512, Length: 3 * mib},
		{Offset: n - 1, Length: 1},
	}
	for _, kind := range []string{"file", "nbd"} {
		t.Run("to "+kind, func(t *testing.T) {
			to := dirty(t, n)
			target := to
			if kind == "nbd" {
				target = kit(t, "file", to).uri
			}
			expect := bytes.Repeat([]byte{0xAA}, n)
			for _, e := range only {
				copy(expect[e.Offset:e.End()], want[e.Offset:e.End()])
			}
			log := filepath.Join(t.TempDir(), "log")
			src := kit(t, "-r", "--filter=log", "file", image(t, want), "logfile="+log)
			r := mustCopy(t, nbd.Task{Source: src.uri, Target: copytest.Onto(target), Only: only, TargetIsZero: true})
			same(t, content(t, to), expect)
			if r.ToTransfer != only.Sum() {
				t.Errorf("%d bytes to transfer, want %d", r.ToTransfer, only.Sum())
			}
			if read := readBytes(t, log); read != only.Sum() {
				t.Errorf("%d bytes were read, want %d", read, only.Sum())
			}
		})
	}
}

func TestNothingChangedMeansNothingIsCopied(t *testing.T) {
	to := dirty(t, mib)
	r := mustCopy(t, nbd.Task{Source: image(t, disk(mib, dense)), Target: copytest.Onto(to), Incremental: true})
	if r.ToTransfer != 0 || r.Requests > 1 {
		t.Errorf("%d bytes to transfer in %d requests", r.ToTransfer, r.Requests)
	}
	same(t, content(t, to), bytes.Repeat([]byte{0xAA}, mib))
}

func TestWhatIsNotAllocatedIsZeroedUnlessItIsZero(t *testing.T) {
	const n = 8 * mib
	want := make([]byte, n)
	allocated := job.Extents{{Offset: mib, Length: mib}, {Offset: 5 * mib, Length: 2 * mib}}
	for _, e := range allocated {
		dense(want[e.Offset:e.End()])
	}
	src := image(t, want)
	to := dirty(t, n)
	r := mustCopy(t, nbd.Task{Source: src, Target: copytest.Onto(to), Allocated: allocated})
	same(t, content(t, to), want)
	if r.ToTransfer != allocated.Sum() || r.Transferred != allocated.Sum() {
		t.Errorf("%d of %d bytes transferred, want %d", r.Transferred, r.ToTransfer, allocated.Sum())
	}
	to = blank(t, n)
	r = mustCopy(t, nbd.Task{Source: src, Target: copytest.Onto(to), Allocated: allocated, TargetIsZero: true})
	same(t, content(t, to), want)
	if r.Requests > 20 {
		t.Errorf("%d requests for 3 MiB", r.Requests)
	}
	to = dirty(t, n)
	mustCopy(t, nbd.Task{Source: image(t, make([]byte, n)), Target: copytest.Onto(to), Allocated: job.Extents{}})
	same(t, content(t, to), make([]byte, n))
}

func TestOddRequestSizesAndManyThreadsChangeNothing(t *testing.T) {
	if testing.Short() {
		t.Skip("long: make it runs it")
	}
	want := disk(9*mib+77, mixed)
	src := kit(t, "-r", "file", image(t, want))
	for _, task := range []nbd.Task{
		{RequestSize: 512, Requests: 1, Connections: 1},
		{RequestSize: 68 * kib, Requests: 3, Connections: 3},
		{RequestSize: 4 * mib, Requests: 64, Connections: 8},
	} {
		to := dirty(t, len(want))
		task.Source, task.Target = src.uri, copytest.Onto(kit(t, "file", to).uri)
		r := mustCopy(t, task)
		same(t, content(t, to), want)
		if r.Threads != task.Connections {
			t.Errorf("%d threads, want %d", r.Threads, task.Connections)
		}
	}
}

func TestANullTargetTakesEverything(t *testing.T) {
	r := mustCopy(t, nbd.Task{
		Source: kit(t, "-r", "file", image(t, disk(5*mib, dense))).uri,
		Target: copytest.Onto("null:"),
	})
	if r.Transferred != 5*mib {
		t.Errorf("transferred %d", r.Transferred)
	}
}

func TestBadInputIsRefusedBeforeAnythingIsWritten(t *testing.T) {
	want := disk(mib, dense)
	src := image(t, want)
	empty := filepath.Join(t.TempDir(), "empty")
	check(t, os.WriteFile(empty, nil, 0o600))
	fifo := t.TempDir()
	tests := []struct {
		name string
		task nbd.Task
		kind job.Kind
	}{
		{"smaller target", nbd.Task{Source: src, Target: copytest.Onto(dirty(t, mib-1))}, job.Invalid},
		{"smaller NBD target", nbd.Task{Source: src, Target: copytest.Onto(kit(t, "memory", "512K").uri)}, job.Invalid},
		{
			"read-only target",
			nbd.Task{Source: src, Target: copytest.Onto(kit(t, "-r", "memory", "1M").uri)},
			job.Permission,
		},
		{
			"source of another size",
			nbd.Task{Source: src, Target: copytest.Onto(dirty(t, mib)), Capacity: mib + 1},
			job.Invalid,
		},
		{
			"source larger than the disk",
			nbd.Task{Source: src, Target: copytest.Onto(dirty(t, mib)), Capacity: mib / 2},
			job.Invalid,
		},
		{"empty source", nbd.Task{Source: empty, Target: copytest.Onto(dirty(t, mib))}, job.Invalid},
		{"range beyond the end", nbd.Task{
			Source: src, Target: copytest.Onto(dirty(t, mib)),
			Only: job.Extents{{Offset: mib - 1, Length: 2}},
		}, job.Invalid},
		{"no target", nbd.Task{Source: src, Target: copytest.Onto(filepath.Join(t.TempDir(), "none"))}, job.NotFound},
		{"a folder", nbd.Task{Source: src, Target: copytest.Onto(fifo)}, job.Invalid},
		{"the same", nbd.Task{Source: src, Target: copytest.Onto(src)}, job.Invalid},
		{"scheme", nbd.Task{Source: "nbd+ssh://host/", Target: copytest.Onto(dirty(t, mib))}, job.Invalid},
		{
			"no server",
			nbd.Task{Source: "nbd+unix:///?socket=/nowhere/s", Target: copytest.Onto(dirty(t, mib))},
			job.Unavailable,
		},
		{
			"odd request size",
			nbd.Task{Source: src, Target: copytest.Onto(dirty(t, mib)), RequestSize: 1000},
			job.Invalid,
		},
		{
			"key in a local file",
			nbd.Task{
				Source: "nbds://localhost/?tls-psk-file=/etc/passwd",
				Target: copytest.Onto(dirty(t, mib)),
			},
			job.Permission,
		},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			var before []byte
			if b, err := os.ReadFile(tc.task.Target.Name()); err == nil {
				before = b
			}
			_, err := copytest.Copy(t.Context(), tc.task, &nbd.Meter{})
			wantKind(t, err, tc.kind)
			if before != nil && !bytes.Equal(before, content(t, tc.task.Target.Name())) {
				t.Error("the target was touched")
			}
		})
	}
}

func TestASourceRoundedUpToSectorsIsTheSameDisk(t *testing.T) {
	want := disk(mib+100, dense)
	src := kit(t, "-r", "--filter=truncate", "file", image(t, want), "round-up=512")
	to := dirty(t, len(want))
	mustCopy(t, nbd.Task{Source: src.uri, Target: copytest.Onto(to), Capacity: int64(len(want))})
	if d := cmp.Diff(len(content(t, to)), len(want)); d != "" {
		t.Error(d)
	}
	same(t, content(t, to), want)
}

// A copy to a far target must keep much in flight, although the source is near.
func TestAFarTargetHasMuchInFlight(t *testing.T) {
	if testing.Short() {
		t.Skip("long: make it runs it")
	}
	const n, near = 96 * mib, 3 * mib
	src := image(t, disk(n, dense))
	log := filepath.Join(t.TempDir(), "log")
	server := kit(t, "--filter=log", "--filter=delay", "memory", strconv.Itoa(n), "logfile="+log, "wdelay=100ms")
	mustCopy(t, nbd.Task{Source: src, Target: copytest.Onto(server.uri)})
	if most := mostWritten(t, log); most <= 2*near {
		t.Errorf("never more than %d bytes were in flight to the target", most)
	}
}
