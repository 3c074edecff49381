package sim_test

import (
	"fmt"
	"math/rand/v2"
	"regexp"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/vsphere/sim"
)

// collect asks for page after page, and checks that each ends later and lists areas within its bounds only.
func collect(t *testing.T, f *sim.Frozen, since string, capacity int64, most int,
	gaps bool,
) (all job.Extents, empty int) {
	t.Helper()
	for off := int64(0); off < capacity; {
		areas, end, ok := f.Page(since, off, most, gaps)
		if !ok {
			t.Fatalf("%s is not known", since)
		}
		if end <= off || end > capacity || len(areas) > most {
			t.Fatalf("a page from %d to %d with %d areas, at most %d", off, end, len(areas), most)
		}
		if len(areas) == 0 {
			empty++
		}
		for _, a := range areas {
			if a.Offset < off || a.End() > end {
				t.Fatalf("area %v in a page from %d to %d", a, off, end)
			}
		}
		all = append(all, areas...)
		off = end
	}
	return all.Merge(0), empty
}

func TestPagesTogetherAreExactlyTheBlocksWrittenSince(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for round := range 60 {
		capacity := int64(1+random.IntN(300))*sim.BlockSize - int64(random.IntN(2))*512
		d := sim.NewTracked(capacity)
		type instant struct {
			id     string
			writes job.Extents // after it
		}
		instants := []instant{}
		var everything job.Extents
		for range 1 + random.IntN(4) {
			for range random.IntN(12) {
				from := random.Int64N(capacity)
				to := min(capacity, from+1+random.Int64N(3*sim.BlockSize))
				d.Write(from, to)
				everything = append(everything, job.Extent{Offset: from, Length: to - from})
				for i := range instants {
					instants[i].writes = append(instants[i].writes, job.Extent{Offset: from, Length: to - from})
				}
			}
			instants = append(instants, instant{id: d.Freeze().ChangeID()})
		}
		last := d.Freeze()
		check := func(since string, writes job.Extents) {
			want := writes.Merge(0).Align(sim.BlockSize, capacity)
			for _, most := range []int{1, 2, 5, 2000} {
				for _, gaps := range []bool{false, true} {
					got, empty := collect(t, last, since, capacity, most, gaps)
					if diff := cmp.Diff(want, got); diff != "" && len(want)+len(got) > 0 {
						t.Fatalf("round %d, since %s, pages of %d, gaps %v (-want +got):\n%s", round, since, most, gaps,
							diff)
					}
					if gaps && empty == 0 && want.Sum() < capacity {
						t.Fatalf("round %d: no page was empty", round)
					}
				}
			}
		}
		check("*", everything)
		for _, i := range instants {
			check(i.id, i.writes)
		}
	}
}

func TestChangeIDsLookLikeThoseOfAVCenterAndOthersAreRefused(t *testing.T) {
	d := sim.NewTracked(10 * sim.BlockSize)
	first, second := d.Freeze(), d.Freeze()
	pattern := regexp.MustCompile(`^52( [0-9a-f]{2}){7}-[0-9a-f]{2}( [0-9a-f]{2}){7}/[12]$`)
	for _, f := range []*sim.Frozen{first, second} {
		if !pattern.MatchString(f.ChangeID()) {
			t.Errorf("change ID %q", f.ChangeID())
		}
	}
	epoch := first.ChangeID()[:len(first.ChangeID())-2]
	for _, bad := range []string{
		"", "52/1", epoch, epoch + "/", epoch + "/-1", epoch + "/9", epoch + "/x",
		sim.NewTracked(1).Freeze().ChangeID(),
	} {
		if _, _, ok := second.Page(bad, 0, 1, false); ok {
			t.Errorf("%q was accepted", bad)
		}
	}
	if _, _, ok := first.Page(second.ChangeID(), 0, 1, false); ok {
		t.Error("a change ID from after the snapshot was accepted")
	}
}

func ExampleFault() {
	f := sim.Fault{Kind: sim.FaultTask, Op: "CreateSnapshot_Task", Fault: "NoDiskSpace", Count: 2}
	fmt.Println(f.Kind, f.Op, f.Fault, f.Count)
	// Output: task CreateSnapshot_Task NoDiskSpace 2
}
