package nbd_test

import (
	"encoding/hex"
	"path/filepath"
	"testing"
	"time"

	"lukechampine.com/blake3"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/nbd"
	"github.com/vmferry/vmferry/nbd/sim"
	"github.com/vmferry/vmferry/volumes/copytest"
)

// scattered is a disk with little data in many places.
func scattered(tb testing.TB) *sim.Memory {
	tb.Helper()
	m := sim.NewMemory(300*mib + 512)
	page := disk(8*kib, dense)
	for at := int64(40 * kib); at+int64(len(page)) < m.Size(); at += 600 * kib {
		_, err := m.WriteAt(page, at)
		check(tb, err)
	}
	touch(tb, m, 7, m.Size()-1)
	return m
}

// overlay puts wrong bytes into each hole.
func overlay(tb testing.TB, m *sim.Memory) *sim.Memory {
	tb.Helper()
	for at := int64(0); at < m.Size(); at += 100 * kib {
		touch(tb, m, 0xAA, at, at+1)
	}
	check(tb, m.Flush())
	return m
}

// A target that says it zeroes fast is asked to zero many holes at once. The copy is right also if the target fails.
func TestManyHolesAreZeroedAtOnce(t *testing.T) {
	t.Parallel()
	from := scattered(t)
	plain := sim.NewMemory(from.Size())
	receipt := copied(t, nbd.Task{
		Source: rehearse(t, from, sim.Options{}).URI(),
		Target: copytest.Onto(rehearse(t, plain, sim.Options{Without: sim.CanFastZero}).URI()), Receipt: true,
	}).BLAKE3
	const few = 60 // requests to zero, for eight times as many holes
	for _, tc := range []struct {
		name   string
		set    sim.Capabilities
		faults []string
		only   bool // the copy is restricted to a list of ranges
		few    bool // holes are zeroed together
		many   bool // each hole gets a request
	}{
		{name: "fast", few: true},
		{name: "slow", set: sim.CanFastZero, many: true},
		{name: "an incremental round", only: true, many: true},
		{name: "not fast after all", faults: []string{"error=ENOTSUP,op=zero,count=1"}, many: true},
		{name: "the second one fails", faults: []string{"error=EIO,op=zero,at=130M,count=1"}, many: true},
		{name: "one fails again and again", faults: []string{"error=EIO,op=zero,at=200M+1,count=9"}, many: true},
		{name: "late", faults: []string{"late=30ms,op=zero"}, few: true},
		{name: "the connection is lost", faults: []string{"close,op=zero,after=1,count=1"}, few: true},
		{name: "the connection is lost over the data", faults: []string{"close,op=write,after=200,count=1"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			bothEngines(t, func(t *testing.T, e nbd.Engine) {
				t.Helper()
				to := overlay(t, sim.NewMemory(from.Size()))
				src, dst := rehearse(t, from, sim.Options{}),
					rehearse(t, to, sim.Options{Without: tc.set}, tc.faults...)
				task := nbd.Task{Source: src.URI(), Target: copytest.Onto(dst.URI()), Engine: e, Receipt: !tc.only}
				if tc.only {
					task.Only, task.Incremental = job.Whole(from.Size()), true
				}
				r := copied(t, task)
				sameDisk(t, to, from)
				blameless(t, src, dst)
				if r.Transferred > 40*mib {
					t.Errorf("%d bytes travelled", r.Transferred)
				}
				if !tc.only && r.BLAKE3 != receipt {
					t.Errorf("the receipt is %s, want %s", r.BLAKE3, receipt)
				}
				if n := dst.State().Commands[sim.Zero]; tc.few && n > few || tc.many && n <= few {
					t.Errorf("%d requests to zero", n)
				}
			})
		})
	}
}

// A copy over an old file makes its holes empty, and loses no byte of its data.
func TestTheHolesOfAFileAreMadeAtOnce(t *testing.T) {
	if testing.Short() {
		t.Skip("long: make it runs it")
	}
	t.Parallel()
	from := scattered(t)
	src := rehearse(t, from, sim.Options{})
	path := dirty(t, int(from.Size()))
	r := copied(t, nbd.Task{Source: src.URI(), Target: copytest.Onto(path), Receipt: true})
	got := content(t, path)
	holds(t, from, got)
	sum := blake3.Sum256(got)
	if want := hex.EncodeToString(sum[:]); r.BLAKE3 != want {
		t.Errorf("the receipt is %s, want %s", r.BLAKE3, want)
	}
	if used := blocks(t, path); used > 80*mib {
		t.Errorf("it takes %d bytes of the disk", used)
	}
}

// A copy repeats what a crash of the target undoes of a bulk zero, and of the data written on it.
func TestABulkZeroSurvivesCrashes(t *testing.T) {
	t.Parallel()
	from := scattered(t)
	bothEngines(t, func(t *testing.T, e nbd.Engine) {
		t.Helper()
		to := overlay(t, sim.NewVolatileMemory(from.Size()))
		src, dst := rehearse(t, from, sim.Options{}, "late=2ms,op=read"), rehearse(t, to, sim.Options{})
		task := nbd.Task{
			Source: src.URI(), Target: copytest.Onto(dst.URI()), Deadline: longDeadline, Reconnect: longDeadline,
			RequestSize: 64 * kib, Requests: 4, Engine: e,
			Checkpoint: filepath.Join(t.TempDir(), "checkpoint"), Identity: "x", CheckpointEvery: 20 * time.Millisecond,
		}
		crashes := crashed(t, task, dst, func(c job.Counters) int64 { return c.Transferred / (4 * mib) })
		sameDisk(t, to, from)
		blameless(t, src, dst)
		if crashes < 3 {
			t.Errorf("the copy ended after %d crashes", crashes)
		}
	})
}
