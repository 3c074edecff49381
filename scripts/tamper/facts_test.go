package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/vmferry/vmferry/http/rest"
	"github.com/vmferry/vmferry/job"
)

// told makes journal entries, one a second.
func told(t *testing.T, events ...any) (all []rest.JournalEntry) {
	t.Helper()
	for i := 0; i < len(events); i += 2 {
		b, err := json.Marshal(events[i+1])
		if err != nil {
			t.Fatal(err)
		}
		name, _ := events[i].(string)
		all = append(all, rest.JournalEntry{Seq: int64(i/2 + 1), At: at(i / 2), Type: name, Data: b})
	}
	return all
}

func TestRoundsAreReadFromTheEventsOfAJob(t *testing.T) {
	const d, e = job.DiskID("disk-2000"), job.DiskID("disk-2001")
	planned := func(m job.Mode, n int64) job.Planned {
		return job.Planned{Disks: []job.DiskPlan{{Disk: job.Disk{ID: d}, Mode: m, ToTransfer: n}}}
	}
	rounds, err := roundsOf("j", job.VerifyFull, d, told(t,
		"cbt_ready", job.CBTReady{}, // 0
		"planned", planned(job.Full, 10),
		"asked", job.CommandReceived{Verb: job.Pause},
		"disk_fell", job.AttemptFailed{Disk: d, Kind: job.Cancelled},
		"asked", job.CommandReceived{Verb: job.Resume}, // 4
		"disk_fell", job.AttemptFailed{Disk: d, Kind: job.IO},
		"disk_due", job.DiskDue{Disk: d},
		"disk_moved", job.DiskMoved{Disk: d}, // 7
		"disk_verified", job.DiskVerified{Disk: d, Counters: job.Counters{Verified: 10}},
		"disk_verified", job.DiskVerified{Disk: e},
		"set_committed", job.SetCommitted{}, // 10
		"snapshot_gone", job.SnapshotGone{},
		"asked", job.CommandReceived{Verb: job.Sync}, // 12
		"planned", planned(job.Incremental, 3),
		"disk_moved", job.DiskMoved{Disk: d},
	))
	if err != nil || len(rounds) != 2 {
		t.Fatal(rounds, err)
	}
	one, two := rounds[0], rounds[1]
	want := []span{{at(1), at(3)}, {at(4), at(5)}, {at(6), at(7)}}
	if !slices.Equal(one.attempts, want) {
		t.Errorf("attempts are %v, want %v", one.attempts, want)
	}
	if one.mode != job.Full || one.total != 10 || one.verified != 10 || !one.copied.Equal(at(7)) ||
		!one.settled.Equal(at(9)) || !one.committed.Equal(at(10)) || !one.end.Equal(at(12)) {
		t.Errorf("%+v", one)
	}
	if two.number != 2 || two.mode != job.Incremental || !two.begin.Equal(at(12)) || !two.committed.IsZero() {
		t.Errorf("%+v", two)
	}
}

// A resume that comes before the stopped attempt has ended begins the next attempt at that end.
func TestAnEarlyResumeBeginsTheNextAttemptWhenTheStoppedOneEnds(t *testing.T) {
	const d = job.DiskID("disk-2000")
	rounds, err := roundsOf("j", job.VerifyNone, d, told(t,
		"cbt_ready", job.CBTReady{},
		"planned", job.Planned{Disks: []job.DiskPlan{{Disk: job.Disk{ID: d}}}},
		"asked", job.CommandReceived{Verb: job.Pause},
		"asked", job.CommandReceived{Verb: job.Resume},
		"disk_fell", job.AttemptFailed{Disk: d, Kind: job.Cancelled},
		"disk_moved", job.DiskMoved{Disk: d},
	))
	want := []span{{at(1), at(4)}, {at(4), at(5)}}
	if err != nil || !slices.Equal(rounds[0].attempts, want) {
		t.Error(rounds, err)
	}
}

func TestReadsAreFoundInTheLogOfAServer(t *testing.T) {
	path := filepath.Join(t.TempDir(), "requests")
	log := `2026-11-30 03:54:48.303789 connection=1 Connect export="" tls=0 size=0x100000
2026-11-30 03:54:48.306212 connection=1 Write id=1 offset=0x0 count=0x10000 fua=1 ...
2026-11-30 03:54:48.309149 connection=1 Read id=2 offset=0x1000 count=0x2000 ...
2026-11-30 03:54:48.309269 connection=1 ...Read id=2 return=0
`
	if err := os.WriteFile(path, []byte(log), 0o600); err != nil {
		t.Fatal(err)
	}
	all, err := readsOf(path)
	want := asked{time.Date(2026, 11, 30, 3, 54, 48, 309149000, time.Local), job.Extent{Offset: 4096, Length: 8192}}
	if err != nil || len(all) != 1 || !all[0].at.Equal(want.at) || all[0].Extent != want.Extent {
		t.Error(all, err)
	}
}

// The number of bytes that a round moves tells since which earlier round.
func TestMovedAreasAreThoseWhoseSumTheRoundHas(t *testing.T) {
	m := &machine{disks: []*vdisk{{
		bytes: make([]byte, 8*trackUnit), filled: job.Extents{{Length: trackUnit}},
		writes: job.Extents{{Offset: 10, Length: 5}, {Offset: 4*trackUnit - 1, Length: 2}, {Offset: 0, Length: 1}},
		frozen: []int{0, 1, 3},
	}}}
	for _, tc := range []struct {
		mode  job.Mode
		total int64
		want  job.Extents
	}{
		{job.Full, 3 * trackUnit, job.Extents{{Length: trackUnit}, {Offset: 3 * trackUnit, Length: 2 * trackUnit}}},
		{
			job.Incremental, 3 * trackUnit,
			job.Extents{{Length: trackUnit}, {Offset: 3 * trackUnit, Length: 2 * trackUnit}},
		},
		{job.Incremental, 2 * trackUnit, nil},
	} {
		got, known := m.moved(0, 2, tc.mode, tc.total)
		if known != (tc.want != nil) || known && !slices.Equal(got, tc.want) {
			t.Errorf("%s, %d: %v %v, want %v", tc.mode, tc.total, got, known, tc.want)
		}
	}
}
