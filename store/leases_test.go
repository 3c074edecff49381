package store_test

import (
	"context"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/store"
	"github.com/vmferry/vmferry/volumes/copytest"
)

func lease(volume string, epoch int64) job.Lease {
	return job.Lease{
		Volume: volume, Epoch: epoch, State: job.LeaseOpen, Served: true, Granter: "run-1", Granted: noon(),
		Holder:     job.LeaseHolder{Kind: job.HolderTransfer, Node: "vma-1", Job: "job-1", Disk: "disk-2000"},
		Server:     job.LeaseServer{PID: 12, Start: math.MaxUint64, Boot: "b", File: "8:1 77"},
		Checkpoint: 3, Why: job.EndExpired, Note: "n", Revision: 1,
	}
}

// leaseStore is what the room volumes needs of a store of leases.
type leaseStore interface {
	Leases(ctx context.Context) ([]job.Lease, error)
	Lease(ctx context.Context, volume string) (job.Lease, error)
	ChangeLease(ctx context.Context, next job.Lease) error
	DropLeases(ctx context.Context, volumes []string) error
	NextLeaseEpoch(ctx context.Context, above int64, now time.Time) (int64, error)
}

// TestStoresOfLeasesKeepTheirPromises runs one suite for the journal and for the one in memory that tests use.
func TestStoresOfLeasesKeepTheirPromises(t *testing.T) {
	t.Parallel()
	for name, open := range map[string]func(t *testing.T) leaseStore{
		"journal": func(t *testing.T) leaseStore {
			t.Helper()
			return openJournal(t, t.TempDir())
		},
		"memory": func(*testing.T) leaseStore { return &copytest.Ledger{} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			t.Run("a lease comes back as it was stored", func(t *testing.T) { comesBack(t, open(t)) })
			t.Run("of changes to one lease, one is first", func(t *testing.T) { oneIsFirst(t, open(t)) })
			t.Run("a change once more is no error", func(t *testing.T) { repeats(t, open(t)) })
			t.Run("epochs go up", func(t *testing.T) { epochsGoUp(t, open(t)) })
			t.Run("only free leases are dropped", func(t *testing.T) { dropsFree(t, open(t)) })
		})
	}
}

func comesBack(t *testing.T, s leaseStore) {
	t.Helper()
	none, err := s.Lease(t.Context(), "v")
	must(t, err)
	if !none.Free() || none.Revision != 0 || none.Volume != "v" {
		t.Errorf("the lease of an unknown volume is %+v", none)
	}
	want := []job.Lease{lease("u", 4), lease("v", 7)}
	for _, l := range want {
		must(t, s.ChangeLease(t.Context(), l))
	}
	got, err := s.Lease(t.Context(), "v")
	must(t, err)
	if diff := cmp.Diff(want[1], got); diff != "" {
		t.Errorf("lease (-want +got):\n%s", diff)
	}
	all, err := s.Leases(t.Context())
	must(t, err)
	slices.SortFunc(all, func(a, b job.Lease) int { return strings.Compare(a.Volume, b.Volume) })
	if diff := cmp.Diff(want, all); diff != "" {
		t.Errorf("leases (-want +got):\n%s", diff)
	}
	wantKind(t, s.ChangeLease(t.Context(), job.Lease{Volume: "w"}), job.Internal)
	wantKind(t, s.ChangeLease(t.Context(), job.Lease{Revision: 1}), job.Internal)
}

// oneIsFirst lets rivals take one lease again and again: each epoch has one winner.
func oneIsFirst(t *testing.T, s leaseStore) {
	t.Helper()
	const rivals, rounds = 8, 20
	var mu sync.Mutex
	wins := map[int64]int{}
	var group sync.WaitGroup
	for i := range rivals {
		group.Go(func() {
			for {
				l, err := s.Lease(t.Context(), "v")
				if err != nil || l.Epoch == rounds {
					return
				}
				l.Epoch, l.Revision, l.Granter = l.Epoch+1, l.Revision+1, fmt.Sprint(i)
				if err = s.ChangeLease(t.Context(), l); err == nil {
					mu.Lock()
					wins[l.Epoch]++
					mu.Unlock()
				}
			}
		})
	}
	group.Wait()
	for epoch := int64(1); epoch <= rounds; epoch++ {
		if wins[epoch] != 1 {
			t.Errorf("epoch %d has %d winners", epoch, wins[epoch])
		}
	}
	l, err := s.Lease(t.Context(), "v")
	must(t, err)
	if l.Epoch != rounds || l.Revision != rounds {
		t.Errorf("%d rounds made %+v", rounds, l)
	}
	l.Epoch, l.Revision = rounds-1, rounds+1
	wantKind(t, s.ChangeLease(t.Context(), l), job.Conflict) // an older epoch
	l.Epoch, l.Revision = rounds+1, rounds
	wantKind(t, s.ChangeLease(t.Context(), l), job.Conflict) // read before another change
	l.Revision = rounds + 2
	wantKind(t, s.ChangeLease(t.Context(), l), job.Conflict)
}

func repeats(t *testing.T, s leaseStore) {
	t.Helper()
	l := lease("v", 7)
	must(t, s.ChangeLease(t.Context(), l))
	must(t, s.ChangeLease(t.Context(), l))
	other := l
	other.Holder.Node = "vma-2"
	wantKind(t, s.ChangeLease(t.Context(), other), job.Conflict)
}

func epochsGoUp(t *testing.T, s leaseStore) {
	t.Helper()
	last := int64(0)
	for i := range 2500 {
		above, now := int64(0), noon()
		switch i % 1000 {
		case 10:
			now = now.Add(-time.Hour)
		case 20:
			above = last + 5000
		}
		got, err := s.NextLeaseEpoch(t.Context(), above, now)
		must(t, err)
		if got <= last || got <= above {
			t.Fatalf("epoch %d follows %d, above %d", got, last, above)
		}
		last = got
	}
}

func dropsFree(t *testing.T, s leaseStore) {
	t.Helper()
	free := lease("free", 3)
	free.State = job.LeaseFree
	must(t, s.ChangeLease(t.Context(), free))
	must(t, s.ChangeLease(t.Context(), lease("open", 4)))
	must(t, s.DropLeases(t.Context(), []string{"free", "open", "none"}))
	must(t, s.DropLeases(t.Context(), nil))
	all, err := s.Leases(t.Context())
	must(t, err)
	if len(all) != 1 || all[0].Volume != "open" {
		t.Errorf("left are %+v", all)
	}
}

// TestEpochsOfLeasesStartAboveAnyUsed gives out epochs before and after each way to come to an older journal. The clock
// stands still, and is an hour early where it is all that is left.
func TestEpochsOfLeasesStartAboveAnyUsed(t *testing.T) {
	t.Parallel()
	long := func(time.Time) time.Time { return noon() }
	tests := []struct {
		name string
		lose func(t *testing.T, dir, backup string)
		now  func(time.Time) time.Time
	}{
		{"a restart", func(*testing.T, string, string) {}, long},
		{
			"the clock is an hour early", func(*testing.T, string, string) {},
			func(now time.Time) time.Time { return now.Add(-time.Hour) },
		},
		{"a journal of before, and no mark", func(t *testing.T, dir, backup string) {
			t.Helper()
			restoreFile(t, filepath.Join(backup, "journal.db"), filepath.Join(dir, "journal.db"))
			must(t, os.Remove(filepath.Join(dir, "journal.mark")))
		}, long},
		{"a new journal, and no mark", func(t *testing.T, dir, _ string) {
			t.Helper()
			must(t, os.Remove(filepath.Join(dir, "journal.db")))
			must(t, os.Remove(filepath.Join(dir, "journal.mark")))
		}, long},
		{"no epoch.mark", func(t *testing.T, dir, _ string) {
			t.Helper()
			must(t, os.Remove(filepath.Join(dir, "epoch.mark")))
		}, long},
		{"a whole directory of before, a minute later", func(t *testing.T, dir, backup string) {
			t.Helper()
			for _, name := range []string{"journal.db", "journal.mark", "epoch.mark"} {
				restoreFile(t, filepath.Join(backup, name), filepath.Join(dir, name))
			}
		}, func(now time.Time) time.Time { return now.Add(time.Minute) }},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			dir, backup, most := t.TempDir(), t.TempDir(), int64(0)
			use := func(n int, now time.Time) {
				j, err := store.OpenJournal(t.Context(), dir)
				must(t, err)
				defer func() { must(t, j.Close()) }()
				for range n {
					got, err := j.NextLeaseEpoch(t.Context(), 0, now)
					must(t, err)
					if got <= most {
						t.Fatalf("epoch %d was given out before; the greatest is %d", got, most)
					}
					most = got
				}
			}
			use(3, noon())
			for _, name := range []string{"journal.db", "journal.mark", "epoch.mark"} {
				restoreFile(t, filepath.Join(dir, name), filepath.Join(backup, name))
			}
			use(2500, noon())
			tc.lose(t, dir, backup)
			use(3, tc.now(noon()))
		})
	}
}

func restoreFile(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	must(t, err)
	must(t, os.WriteFile(to, b, 0o600))
}

func TestADamagedMarkOfEpochsIsNotBelieved(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, text := range []string{"", "x", fmt.Sprintf("vmferry epochs of leases up to %020d", 7)} {
		must(t, os.WriteFile(filepath.Join(dir, "epoch.mark"), []byte(text), 0o600))
		j, err := store.OpenJournal(t.Context(), dir)
		must(t, err)
		_, err = j.NextLeaseEpoch(t.Context(), 0, noon())
		wantKind(t, err, job.Corrupt)
		must(t, j.Close())
	}
}

func TestLeasesStayWhenTheJournalWasRestored(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	j, err := store.OpenJournal(t.Context(), dir)
	must(t, err)
	must(t, j.ChangeVolumes(t.Context(), []job.VolumeRecord{volume("v", 1, "a")}, nil))
	must(t, j.ChangeLease(t.Context(), lease("v", 7)))
	must(t, j.Close())
	must(t, os.Remove(filepath.Join(dir, "journal.mark")))
	j = openJournal(t, dir)
	rows, err := j.Volumes(t.Context())
	must(t, err)
	if len(rows) != 1 || rows[0].ID == "v" || rows[0].LeaseID() != "v" {
		t.Fatalf("the ledger has %+v", rows)
	}
	l, err := j.Lease(t.Context(), rows[0].LeaseID())
	must(t, err)
	if diff := cmp.Diff(lease("v", 7), l); diff != "" {
		t.Errorf("lease (-want +got):\n%s", diff)
	}
}
