package nbd_test

import (
	"fmt"
	"math/bits"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/nbd"
	"github.com/vmferry/vmferry/nbd/sim"
	"github.com/vmferry/vmferry/volumes/copytest"
)

// engines are all engines; they must make the same copies.
func engines() []nbd.Engine { return []nbd.Engine{nbd.EngineAuto, nbd.EngineLibnbd} }

// limited are the block sizes of a server with limits.
func limited() sim.BlockSizes { return sim.BlockSizes{Min: 512, Preferred: 4096, Max: 1 << 20} }

// without is a server that lacks some capabilities. A server that reports no block sizes has no limits.
func without(c sim.Capabilities) sim.Options {
	opt := sim.Options{Without: c}
	if c&sim.CanBlockSize == 0 {
		opt.BlockSizes = limited()
	}
	return opt
}

// subsets are all subsets of some capabilities.
func subsets(of ...sim.Capabilities) []sim.Capabilities {
	all := []sim.Capabilities{0}
	for _, c := range of {
		for _, s := range slices.Clip(all) {
			all = append(all, s|c)
		}
	}
	return all
}

// copied copies and requires success, within a bounded time.
func copied(tb testing.TB, task nbd.Task) nbd.Result {
	tb.Helper()
	r, err := copyOnce(tb, task)
	check(tb, err)
	if r.Done() != r.ToTransfer {
		tb.Fatalf("%d + %d bytes are done of %d", r.Transferred, r.Skipped, r.ToTransfer)
	}
	return r
}

func lacking(c sim.Capabilities) string {
	if c == 0 {
		return "nothing is missing"
	}
	return "without " + c.String()
}

// TestEverySetOfCapabilitiesGivesTheSameBytes pairs each target with a source that lacks what the target has, so each
// side meets every set. Without make crash, only sets run from which one capability is missing, or all but one.
func TestEverySetOfCapabilitiesGivesTheSameBytes(t *testing.T) {
	t.Parallel()
	want := smallDisk()
	full := holding(t, want)
	sets := subsets(sim.CanStructured, sim.CanExtents, sim.CanZero, sim.CanFastZero, sim.CanTrim, sim.CanFUA,
		sim.CanMultiConn, sim.CanBlockSize)
	everything := sets[len(sets)-1]
	for _, set := range sets {
		if missing := bits.OnesCount16(uint16(set)); !thorough() && missing > 1 &&
			missing < bits.OnesCount16(uint16(everything))-1 {
			continue
		}
		t.Run(lacking(set), func(t *testing.T) {
			t.Parallel()
			for _, e := range engines() {
				src, dst := rehearse(t, full, without(everything&^set)),
					rehearse(t, rubbish(t, len(want)), without(set))
				copied(t, nbd.Task{Source: src.URI(), Target: copytest.Onto(dst.URI()), Engine: e})
				holds(t, dst.disk, want)
				blameless(t, src, dst)
			}
		})
	}
}

// TestHolesAreTheSameWithAndWithoutBlockStatus copies a disk that is large enough for requests for block status.
func TestHolesAreTheSameWithAndWithoutBlockStatus(t *testing.T) {
	t.Parallel()
	want := sparseDisk()
	full := holding(t, want)
	for _, set := range subsets(sim.CanStructured, sim.CanExtents, sim.CanZero, sim.CanMultiConn) {
		t.Run(lacking(set), func(t *testing.T) {
			t.Parallel()
			for _, e := range engines() {
				src, dst := rehearse(t, full, without(set)), rehearse(t, rubbish(t, len(want)), without(set))
				copied(t, nbd.Task{Source: src.URI(), Target: copytest.Onto(dst.URI()), Engine: e})
				holds(t, dst.disk, want)
				blameless(t, src, dst)
				if asked, can := src.State().Commands[sim.Status] > 0,
					set&(sim.CanExtents|sim.CanStructured) == 0; asked != can {
					t.Errorf("%q: block status was requested: %v, offered: %v", e, asked, can)
				}
				if zeroed := dst.State().Zeroed > 0; zeroed != (set&sim.CanZero == 0) {
					t.Errorf("%q: zeros were requested: %v", e, zeroed)
				}
			}
		})
	}
}

// sameDisk compares disks that are too large to be read as a whole.
func sameDisk(tb testing.TB, got, want *sim.Memory) {
	tb.Helper()
	if got.Size() < want.Size() {
		tb.Fatalf("target has %d bytes, want %d", got.Size(), want.Size())
	}
	here, err := got.Extents(0, want.Size())
	check(tb, err)
	there, err := want.Extents(0, want.Size())
	check(tb, err)
	for _, e := range append(here, there...).Merge(0) {
		a, b := make([]byte, e.Length), make([]byte, e.Length)
		_, err := got.ReadAt(a, e.Offset)
		check(tb, err)
		_, err = want.ReadAt(b, e.Offset)
		check(tb, err)
		same(tb, a, b)
	}
}

// touch writes a byte at each of the places that lie on the disk.
func touch(tb testing.TB, m *sim.Memory, b byte, places ...int64) {
	tb.Helper()
	for _, at := range places {
		if at >= 0 && at < m.Size() {
			_, err := m.WriteAt([]byte{b}, at)
			check(tb, err)
		}
	}
}

const gib = 1 << 30

func TestDisksOfEverySizeAreCopiedToTheLastByte(t *testing.T) {
	t.Parallel()
	for _, size := range []int64{1, 511, 512, 513, 4095, 4097, mib - 1, mib + 1, 8*gib - 512, 8 * gib, 8*gib + 1} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			t.Parallel()
			for _, e := range engines() {
				for _, set := range []sim.Capabilities{0, sim.CanStructured, sim.CanExtents, sim.CanMultiConn} {
					if size > gib && set&(sim.CanStructured|sim.CanExtents) != 0 {
						continue // the whole disk would travel
					}
					from, to := sim.NewMemory(size), sim.NewMemory(size)
					touch(t, from, 7, 0, 510, 4094, mib/2, size/2, size-70*kib, size-1)
					touch(t, to, 0xAA, 1, size/3, size/2+1, size-2, size-1)
					src, dst := rehearse(t, from, sim.Options{Without: set}), rehearse(t, to, sim.Options{Without: set})
					r := copied(t, nbd.Task{Source: src.URI(), Target: copytest.Onto(dst.URI()), Engine: e})
					if r.Capacity != size {
						t.Errorf("the capacity is %d bytes", r.Capacity)
					}
					sameDisk(t, to, from)
					blameless(t, src, dst)
				}
			}
		})
	}
}

func TestALonelyByteIsFoundAndItsSurroundingsCostNothing(t *testing.T) {
	t.Parallel()
	const every = 64 * mib
	for _, tc := range []struct {
		name string
		size int64
		set  sim.Capabilities
	}{
		{"with block status", 8*gib + 512, 0},
		{"without block status", gib / 4, sim.CanExtents},
	} {
		for _, blank := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, target is zero %v", tc.name, blank), func(t *testing.T) {
				t.Parallel()
				for _, e := range engines() {
					from, to := sim.NewMemory(tc.size), sim.NewMemory(tc.size)
					for at := int64(0); at < tc.size; at += every {
						touch(t, from, 1, at+(at/every*7919*512+at/every)%every)
					}
					if !blank {
						touch(t, to, 0xAA, 3*mib, 100*mib, tc.size/2, tc.size-1)
					}
					src, dst := rehearse(t, from, sim.Options{Without: tc.set}), rehearse(t, to, sim.Options{})
					copied(t, nbd.Task{
						Source: src.URI(), Target: copytest.Onto(dst.URI()), Engine: e,
						TargetIsZero: blank,
					})
					sameDisk(t, to, from)
					blameless(t, src, dst)
					pages, err := from.Extents(0, tc.size)
					check(t, err)
					st := dst.State()
					if most := int64(len(pages)) * 4 * mib; st.Written > most {
						t.Errorf("%q: %d bytes were written for %d bytes that are not zero", e, st.Written, len(pages))
					}
					if blank && st.Zeroed > 0 {
						t.Errorf("%q: %d bytes of zeros were made where there were zeros", e, st.Zeroed)
					}
				}
			})
		}
	}
}

// changing is a server that is different after a reconnect.
type changing struct {
	name          string
	before, after string // faults
	sides         string
	kinds         []job.Kind // none: the copy must succeed
}

func changes() []changing {
	out := make([]changing, 0, 32)
	for _, lost := range []string{
		"structured", "extents", "zero", "fast-zero", "trim+fua", "multi-conn", "flush",
		"block-size", "go+no-zeroes+structured", "df",
	} {
		out = append(out,
			changing{name: "no more " + lost, after: "lose=" + lost},
			changing{name: "later also " + lost, before: "lose=" + lost},
		)
	}
	return append(out,
		changing{name: "a larger block", after: "block-size=512/4096/33554432"},
		changing{name: "smaller requests", after: "block-size=512/512/65536"},
		changing{name: "larger requests", before: "block-size=512/512/65536"},
		changing{name: "another size", after: "size=512", kinds: kinds(job.Conflict, job.Invalid)},
		changing{
			name: "a size that is larger", after: fmt.Sprintf("size=%d", 64*mib), sides: "source",
			kinds: kinds(job.Conflict, job.Invalid),
		},
		changing{name: "a target that is larger", after: fmt.Sprintf("size=%d", 64*mib), sides: "target"},
		changing{name: "read-only", after: "flags=2", sides: "target", kinds: kinds(job.Permission)},
		changing{name: "read-only", after: "flags=2", sides: "source"},
	)
}

func TestAServerCanComeBackAsAnother(t *testing.T) {
	long(t)
	t.Parallel()
	small, large := holding(t, smallDisk()), holding(t, sparseDisk())
	for _, c := range changes() {
		want, full := smallDisk(), small
		if strings.Contains(c.name, "structured") || strings.Contains(c.name, "extents") {
			want, full = sparseDisk(), large
		}
		for _, side := range []string{"source", "target"} {
			if c.sides != "" && c.sides != side {
				continue
			}
			t.Run(c.name+"/"+side, func(t *testing.T) {
				t.Parallel()
				for _, e := range engines() {
					c.meet(t, full, want, side, e)
				}
			})
		}
	}
}

// meet lets one side drop its connections in the middle of a copy and come back as another.
func (c changing) meet(t *testing.T, full *sim.Memory, want []byte, side string, e nbd.Engine) {
	t.Helper()
	src, dst := rehearse(t, full, sim.Options{}), rehearse(t, rubbish(t, len(want)), sim.Options{})
	other, slow := src, "late=4ms,op=read"
	if side == target {
		other = dst
		order(t, src.Server, slow)
		slow = "late=4ms,op=write"
	}
	faults := func(what string) []string {
		if what == "" {
			return []string{slow}
		}
		return []string{what, slow}
	}
	order(t, other.Server, faults(c.before)...)
	task := nbd.Task{
		Source: src.URI(), Target: copytest.Onto(dst.URI()), Engine: e, Deadline: longDeadline, Reconnect: longDeadline,
		RequestSize: 64 * kib,
		Checkpoint:  filepath.Join(t.TempDir(), "checkpoint"), CheckpointEvery: 20 * time.Millisecond,
	}
	var m nbd.Meter
	ended := make(chan error, 1)
	var r nbd.Result
	ctx := bounded(t)
	go func() {
		var err error
		r, err = copytest.Copy(ctx, task, &m)
		ended <- err
	}()
	await(t, "the copy is under way", func() bool { return len(ended) > 0 || m.Counters().Done() > 0 })
	order(t, other.Server, faults(c.after)...)
	other.Drop()
	err := <-ended
	if r.Reconnects == 0 && err == nil {
		t.Logf("%q: the copy ended before the change", e)
	}
	h := hostile{kinds: c.kinds, works: r.Reconnects == 0}
	h.judge(t, r, err)
	if err == nil {
		holds(t, dst.disk, want)
	}
	if t.Failed() {
		t.Logf("%q: %d bytes of %d, %d reconnects: %v", e, r.Done(), r.ToTransfer, r.Reconnects, err)
	}
}

// long skips a test that takes too long for every change; make crash sets ROUNDS.
func long(t *testing.T) {
	t.Helper()
	if !thorough() {
		t.Skip("takes minutes; make crash runs it")
	}
}

func thorough() bool { return os.Getenv("ROUNDS") != "" }
