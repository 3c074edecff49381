package nbd_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/time/rate"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/nbd"
	"github.com/vmferry/vmferry/volumes/copytest"
)

// rounds is a disk that changes between the rounds of a copy that never gets done, until the last one.
type rounds struct {
	t       *testing.T
	random  *rand.Rand
	now     []byte
	base    []byte      // what the target held before; nil for anything
	since   job.Extents // changed since base
	between job.Extents // changed since the last round
	task    nbd.Task
	round   int
}

// guestWrites changes random places of the disk. What is told of them is wider, as change tracking tells it.
func (r *rounds) guestWrites() {
	grain := []int64{512, 4 * kib, 64 * kib, 256 * kib}[r.random.IntN(4)]
	r.between = nil
	for range r.random.IntN(12) {
		n := min(1+r.random.IntN(200*kib), len(r.now))
		off := r.random.IntN(len(r.now) - n + 1)
		part := r.now[off : off+n]
		if r.random.IntN(3) == 0 {
			clear(part)
		} else {
			for i := range part {
				part[i] = byte(r.random.Uint32())
			}
		}
		r.between = append(r.between, job.Extent{Offset: int64(off), Length: int64(n)})
	}
	r.between = r.between.Merge(0).Align(grain, int64(len(r.now)))
	r.since = append(r.since, r.between...).Merge(0)
}

// next begins a round: its task names another checkpoint, the disk as it is now, and what the round moves.
func (r *rounds) next() nbd.Inherited {
	r.round++
	before := r.task
	r.task.Source, r.task.Identity = image(r.t, r.now), fmt.Sprint("round ", r.round)
	r.task.Checkpoint = filepath.Join(r.t.TempDir(), "checkpoint")
	r.task.Only, r.task.Incremental, r.task.Allocated = nil, false, nil
	switch {
	case r.base != nil:
		r.task.Only, r.task.Incremental = r.since, true
	case r.random.IntN(2) == 0:
		r.task.Allocated = allocated(r.now, 256*kib)
	}
	if before.Checkpoint == "" {
		return nbd.Inherited{}
	}
	r.task.TargetIsZero = false
	kept, err := nbd.Inherit(r.task, before.Checkpoint, before.Identity, r.between)
	if err != nil && job.KindOf(err) != job.NotFound {
		r.t.Fatal(err)
	}
	return kept
}

// allocated are the ranges that do not hold zeros alone.
func allocated(b []byte, grain int) (x job.Extents) {
	for at := 0; at < len(b); at += grain {
		part := b[at:min(len(b), at+grain)]
		for _, c := range part {
			if c != 0 {
				x = append(x, job.Extent{Offset: int64(at), Length: int64(len(part))})
				break
			}
		}
	}
	return x.Merge(0)
}

func TestACopyThatBeginsWithAPartOfAnEarlierOneMakesTheSameBytes(t *testing.T) {
	t.Parallel()
	for seed := range uint64(40) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			random := rand.New(rand.NewPCG(seed, 1))
			size := 3*mib + 512*random.IntN(8*kib)
			r := &rounds{t: t, random: random, now: disk(size, mixed)}
			path := blank(t, int64(size))
			r.task = nbd.Task{
				Target: copytest.Onto(path), Capacity: int64(size), KeepCheckpoint: true, RequestSize: 64 * kib,
				CheckpointBytes: 128 * kib, TargetIsZero: true, NoDigest: random.IntN(4) == 0,
			}
			switch random.IntN(3) {
			case 0:
				path = dirty(t, size)
				r.task.Target, r.task.TargetIsZero = copytest.Onto(path), false
			case 1: // the target holds an earlier round that was committed
				r.base = append([]byte{}, r.now...)
				check(t, os.WriteFile(path, r.base, 0o600))
				r.task.TargetIsZero = false
				r.guestWrites()
			}
			for range 1 + random.IntN(4) {
				kept := r.next()
				ctx, cancel := context.WithCancel(t.Context())
				r.task.Limiters = []*rate.Limiter{rate.NewLimiter(40*mib, 64*kib)}
				stop := int64(random.IntN(size))
				got, err := while(t, ctx, r.task, func(c job.Counters) bool { return c.Done() >= stop }, cancel)
				cancel()
				if k := job.KindOf(err); err != nil && k != job.Cancelled {
					t.Fatal(err)
				}
				if got.Capacity > 0 && got.Resumed != kept.Transferred+kept.Skipped {
					t.Errorf("%d bytes resumed, %+v were kept", got.Resumed, kept)
				}
				r.guestWrites()
			}
			kept := r.next()
			r.task.Limiters = nil
			got := mustCopy(t, r.task)
			same(t, content(t, path), r.now)
			if got.Resumed != kept.Transferred+kept.Skipped || got.Transferred-got.ResumedTransferred < 0 {
				t.Errorf("%+v, kept %+v", got, kept)
			}
		})
	}
}

// TestWhatWasKeptIsLookedAt: cells that were taken over as a whole are read again before the copy goes on.
func TestWhatWasKeptIsLookedAt(t *testing.T) {
	task, next := tornDown(t)
	changed := job.Extents{{Offset: 3*mib + 5, Length: 100}}
	kept, err := nbd.Inherit(next, task.Checkpoint, task.Identity, changed)
	check(t, err)
	if kept.Transferred < mib {
		t.Fatalf("only %+v were kept", kept)
	}
	path := task.Target.Name()
	good := content(t, path)
	lost := append([]byte{}, good...)
	clear(lost[:mib])
	check(t, os.WriteFile(path, lost, 0o600))
	record := content(t, next.Checkpoint)
	_, err = copytest.Copy(t.Context(), next, &nbd.Meter{})
	wantKind(t, err, job.Corrupt)

	check(t, os.WriteFile(path, good, 0o600))
	check(t, os.WriteFile(next.Checkpoint, record, 0o600))
	want := content(t, next.Source)
	want[3*mib+50] ^= 0xFF
	next.Source = image(t, want)
	r := mustCopy(t, next)
	same(t, content(t, path), want)
	if r.Digests != nil || r.ResumedTransferred != kept.Transferred {
		t.Errorf("%d bytes were resumed, digests %v", r.ResumedTransferred, r.Digests)
	}
	if _, err := nbd.RecordedDigests(next); job.KindOf(err) != job.Conflict {
		t.Errorf("digests of which a part was taken over are believed: %v", err)
	}
}

// tornDown is a copy that was cut off, and one of the next round of the same disk.
func tornDown(t *testing.T) (task, next nbd.Task) {
	t.Helper()
	want := disk(12*mib, dense)
	task = resumable(t, dirty(t, len(want)))
	task.Source, task.Identity, task.Capacity = image(t, want), "a round", int64(len(want))
	task.Limiters = []*rate.Limiter{rate.NewLimiter(40*mib, 64*kib)}
	task.KeepCheckpoint = true
	ctx, cancel := context.WithCancel(t.Context())
	_, err := while(t, ctx, task, durable(6*mib), cancel)
	if err != nil {
		wantKind(t, err, job.Cancelled)
	}
	next = task
	next.Checkpoint, next.Identity = filepath.Join(t.TempDir(), "next"), "the next round"
	return task, next
}

func TestNothingIsKeptOfWhatDoesNotFit(t *testing.T) {
	task, next := tornDown(t)
	good := content(t, task.Checkpoint)
	for name, tc := range map[string]struct {
		kind   job.Kind
		change func(next *nbd.Task, identity *string, changed *job.Extents)
	}{
		"no record": {job.NotFound, func(*nbd.Task, *string, *job.Extents) {
			check(t, os.Remove(task.Checkpoint))
		}},
		"a damaged record": {job.Corrupt, func(*nbd.Task, *string, *job.Extents) {
			bad := append([]byte{}, good...)
			bad[len(bad)/2] ^= 1
			check(t, os.WriteFile(task.Checkpoint, bad, 0o600))
		}},
		"a record that was cut short": {job.Corrupt, func(*nbd.Task, *string, *job.Extents) {
			check(t, os.WriteFile(task.Checkpoint, good[:len(good)-3], 0o600))
		}},
		"another round": {job.Conflict, func(_ *nbd.Task, identity *string, _ *job.Extents) {
			*identity = "another"
		}},
		"a disk that grew": {job.Conflict, func(next *nbd.Task, _ *string, _ *job.Extents) { next.Capacity += mib }},
		"changes beyond the disk": {job.Invalid, func(_ *nbd.Task, _ *string, changed *job.Extents) {
			*changed = job.Extents{{Offset: 12 * mib, Length: 1}}
		}},
		"the same file": {job.Invalid, func(next *nbd.Task, _ *string, _ *job.Extents) {
			next.Checkpoint = task.Checkpoint
		}},
	} {
		t.Run(name, func(t *testing.T) {
			check(t, os.WriteFile(task.Checkpoint, good, 0o600))
			next, identity, changed := next, task.Identity, job.Extents{}
			tc.change(&next, &identity, &changed)
			if next.Checkpoint != task.Checkpoint {
				check(t, os.WriteFile(next.Checkpoint, []byte("of an earlier try"), 0o600))
			}
			kept, err := nbd.Inherit(next, task.Checkpoint, identity, changed)
			wantKind(t, err, tc.kind)
			if kept != (nbd.Inherited{}) {
				t.Errorf("%+v were kept", kept)
			}
			if _, err := os.Stat(next.Checkpoint); err == nil && next.Checkpoint != task.Checkpoint {
				t.Error("the next round has a record")
			}
		})
	}
	check(t, os.WriteFile(task.Checkpoint, good, 0o600))
	kept, err := nbd.Inherit(next, task.Checkpoint, task.Identity, job.Whole(12*mib))
	check(t, err)
	if _, err := os.Stat(next.Checkpoint); err == nil || kept != (nbd.Inherited{}) {
		t.Errorf("all has changed, and %+v were kept", kept)
	}
}

// TestWhatIsKeptEndsWhereWholeBlocksDo, also for a server that takes only larger ones than the earlier copy used.
func TestWhatIsKeptEndsWhereWholeBlocksDo(t *testing.T) {
	task, next := tornDown(t)
	path := task.Target.Name()
	next.Target = copytest.Onto(kit(t, "--filter=blocksize-policy", "file", path, "blocksize-minimum=64K",
		"blocksize-preferred=64K",
		"blocksize-error-policy=error").uri)
	next.Limiters = nil
	kept, err := nbd.Inherit(next, task.Checkpoint, task.Identity,
		job.Extents{{Offset: mib + 512, Length: 512}, {Offset: 2*mib - 1, Length: 2}})
	check(t, err)
	r := mustCopy(t, next)
	same(t, content(t, path), content(t, next.Source))
	if kept.Transferred < 4*mib || r.ResumedTransferred != kept.Transferred {
		t.Errorf("%+v were kept, %d bytes resumed", kept, r.ResumedTransferred)
	}
}
