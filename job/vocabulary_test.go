package job_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/vmferry/vmferry/job"
)

func TestIDsOfCallersAreChecked(t *testing.T) {
	made := job.NewID(time.Date(2025, 9, 25, 13, 42, 30, 513e6, time.UTC), [3]byte{0x80, 0x34, 0xee})
	if made != "job-20250925-134230.513-8034ee" {
		t.Errorf("made %q", made)
	}
	for _, id := range []string{
		string(made), "job-20250925-134230.513-8034ee7", "x", "A.b_c:d-9", strings.Repeat("a", 128),
	} {
		if _, err := job.ParseID(id); err != nil {
			t.Errorf("%q: %v", id, err)
		}
	}
	for _, id := range []string{"", ".", "..", "a/b", `a\b`, "a b", "a\n", "é", "%2e", strings.Repeat("a", 129)} {
		if _, err := job.ParseID(id); job.KindOf(err) != job.Invalid {
			t.Errorf("%q was accepted", id)
		}
	}
}

func TestErrorsKeepTheirKindAndNextStep(t *testing.T) {
	inner := job.Errorf("read", job.IO, "Look at the disk", "at 4096: %w", io.ErrUnexpectedEOF)
	outer := job.Errorf("copy disk-2000", job.Unavailable, "", "%w", fmt.Errorf("attempt 1: %w", inner))
	if got := job.KindOf(outer); got != job.Unavailable {
		t.Errorf("kind %q", got)
	}
	if got := job.NextOf(outer); got != "Look at the disk" {
		t.Errorf("next %q", got)
	}
	if !errors.Is(outer, io.ErrUnexpectedEOF) {
		t.Error("the cause is lost")
	}
	for err, want := range map[error]job.Kind{
		nil: "", context.Canceled: job.Cancelled, context.DeadlineExceeded: job.Timeout, io.EOF: job.Internal,
	} {
		if got := job.KindOf(err); got != want {
			t.Errorf("%v: kind %q, want %q", err, got, want)
		}
	}
}

func TestASecretIsNotShownByAnyPrinter(t *testing.T) {
	s := job.NewSecret("canary")
	type holder struct{ S job.Secret }
	b, err := json.Marshal(holder{s})
	if err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "secret", s, "holder", holder{s})
	for _, shown := range []string{
		string(b), log.String(), fmt.Sprint(s),
		fmt.Sprintf("%v %+v %#v %s %q", s, s, s, s, s), fmt.Sprintf("%+v", holder{s}), fmt.Sprintf("%#v", holder{s}),
	} {
		if strings.Contains(shown, "canary") {
			t.Errorf("the secret is shown: %s", shown)
		}
	}
	if s.Reveal() != "canary" {
		t.Error("the secret is lost")
	}
}

func TestInvalidSpecsAreRefused(t *testing.T) {
	two := func(a, b job.Target) []job.Target { return []job.Target{a, b} }
	for name, s := range map[string]job.Spec{
		"no VM":              {},
		"control characters": {VM: "a\x00b"},
		"unknown mode":       {VM: "web", Mode: "half"},
		"unknown verify":     {VM: "web", Options: job.Options{Verify: "some"}},
		"unknown cutover":    {VM: "web", Options: job.Options{Cutover: "never"}},
		"negative bandwidth": {VM: "web", Options: job.Options{Bandwidth: -1}},
		"no disk id":         {VM: "web", Targets: []job.Target{{Disk: "2000", URI: "/t/a"}}},
		"no target":          {VM: "web", Targets: []job.Target{{Disk: "disk-2000"}}},
		"a password":         {VM: "web", Targets: []job.Target{{Disk: "disk-2000", URI: "nbd://u:canary@host/x"}}},
		"disk twice": {VM: "web", Targets: two(job.Target{Disk: "disk-2000", URI: "/t/a"},
			job.Target{Disk: "disk-2000", URI: "/t/b"})},
		"target twice": {VM: "web", Targets: two(job.Target{Disk: "disk-2000", URI: "/t/a"},
			job.Target{Disk: "disk-2001", URI: "/t/a"})},
		"257 targets": {VM: "web", Targets: slices.Repeat([]job.Target{{Disk: "disk-2000", URI: "/t/a"}}, 257)},
	} {
		if _, err := s.Normal(); job.KindOf(err) != job.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	s, err := job.Spec{VM: " web "}.Normal()
	if err != nil || s.VM != "web" || s.Mode != job.Auto || s.Options.Verify != job.VerifySample ||
		s.Options.Cutover != job.CutoverAuto {
		t.Errorf("got %+v, %v", s, err)
	}
}

func TestModeForSaysWhyADiskGoesFull(t *testing.T) {
	base := &job.CheckpointSet{Disks: []job.DiskCheckpoint{{
		Disk: "disk-2000", BackingID: "b1", Capacity: 100, ChangeID: "52 a/7", Target: "/t/a", Volume: "v1",
	}}}
	old := &job.CheckpointSet{Disks: []job.DiskCheckpoint{{ // of a version without a ledger
		Disk: "disk-2000", BackingID: "b1", Capacity: 100, ChangeID: "52 a/7", Target: "/t/a",
	}}}
	disk := job.Disk{ID: "disk-2000", BackingID: "b1", Capacity: 100, ChangeID: "52 a/9"}
	with := func(f func(*job.Disk)) job.Disk { d := disk; f(&d); return d }
	there := job.TargetInfo{Exists: true, Volume: "v1"}
	other := job.TargetInfo{Exists: true, Volume: "v2"}
	renewed := job.TargetInfo{Exists: true, Volume: "v1", Renewed: true}
	foreign := job.TargetInfo{Exists: true, Volume: "v1", Foreign: "another process has written to the target"}
	for name, tc := range map[string]struct {
		asked  job.Mode
		disk   job.Disk
		target string
		now    job.TargetInfo
		base   *job.CheckpointSet
		want   job.Mode
		reason string
	}{
		"all fits":       {job.Auto, disk, "/t/a", there, base, job.Incremental, ""},
		"a moved target": {job.Auto, disk, "/t/b", there, base, job.Incremental, ""},
		"asked for":      {job.Full, disk, "/t/a", there, base, job.Full, "asked for"},
		"first time":     {job.Auto, disk, "/t/a", there, nil, job.Full, ""},
		"target gone":    {job.Auto, disk, "/t/a", job.TargetInfo{Volume: "v1"}, base, job.Full, "does not exist"},
		"other target":   {job.Auto, disk, "/t/a", other, base, job.Full, "another target"},
		"foreign write":  {job.Auto, disk, "/t/a", foreign, base, job.Full, "another process"},
		"a later round wrote and was not committed": {
			job.Auto, disk, "/t/a",
			job.TargetInfo{Exists: true, Volume: "v1", ChangeID: "52 a/8"},
			base,
			job.Incremental, "",
		},
		"the VM was reverted to before what a later round wrote": {
			job.Auto, disk, "/t/a",
			job.TargetInfo{Exists: true, Volume: "v1", ChangeID: "52 a/10"},
			base,
			job.Full, "went back",
		},
		"an old set":       {job.Auto, disk, "/t/a", there, old, job.Incremental, ""},
		"old, other place": {job.Auto, disk, "/t/b", there, old, job.Full, "another target"},
		"old, taken over":  {job.Auto, disk, "/t/a", renewed, old, job.Full, "another target"},
		"grown": {job.Auto, with(func(d *job.Disk) {
			d.Capacity = 200
		}), "/t/a", there, base, job.Full, "size changed"},
		"other disk": {job.Auto, with(func(d *job.Disk) {
			d.BackingID = "b2"
		}), "/t/a", there, base, job.Full, "another disk"},
		"tracking off": {job.Auto, with(func(d *job.Disk) {
			d.ChangeID = ""
		}), "/t/a", there, base, job.Full, "not tracked"},
		"tracking reset": {job.Auto, with(func(d *job.Disk) {
			d.ChangeID = "52 b/1"
		}), "/t/a", there, base, job.Full, "reset"},
		"another disk id": {job.Auto, with(func(d *job.Disk) {
			d.ID = "disk-2001"
		}), "/t/a", there, base, job.Full, ""},
	} {
		mode, reason := job.ModeFor(tc.asked, tc.disk, tc.target, tc.now, tc.base)
		if mode != tc.want || !strings.Contains(reason, tc.reason) {
			t.Errorf("%s: got %s because %q", name, mode, reason)
		}
	}
}

func TestAChangeIDThatIsNotNewerThanTheLastOneMakesTheDiskGoFull(t *testing.T) {
	const long = "340282366920938463463374607431768211456"
	for _, tc := range []struct {
		was, now string
		want     job.Mode
	}{
		{"52 a/7", "52 a/8", job.Incremental},
		{"52 a/9", "52 a/10", job.Incremental},
		{"52 a/007", "52 a/8", job.Incremental},
		{"52 a/0", "52 a/1", job.Incremental},
		{"52 a/" + long, "52 a/" + long + "0", job.Incremental},
		{"52 a/7", "52 a/6", job.Full},
		{"52 a/10", "52 a/9", job.Full},
		{"52 a/7", "52 a/7", job.Full}, // each snapshot gets a new one
		{"52 a/7", "52 a/07", job.Full},
		{"52 a/" + long + "1", "52 a/" + long + "0", job.Full},
		{"52 a/7", "52 b/8", job.Full},
		// no numbers: the epoch alone counts
		{"52 a/x7", "52 a/x6", job.Incremental},
		{"52 a/-7", "52 a/-9", job.Incremental},
		{"52 a", "52 a", job.Incremental},
		{"52 a/", "52 a/5", job.Incremental},
	} {
		base := &job.CheckpointSet{Disks: []job.DiskCheckpoint{{
			Disk: "disk-2000", ChangeID: tc.was, Target: "/t", Volume: "v",
		}}}
		mode, reason := job.ModeFor(job.Auto, job.Disk{ID: "disk-2000", ChangeID: tc.now}, "/t",
			job.TargetInfo{Exists: true, Volume: "v"}, base)
		if mode != tc.want || (mode == job.Full) != (reason != "") {
			t.Errorf("from %s to %s: got %s because %q", tc.was, tc.now, mode, reason)
		}
	}
}

func TestAssignGivesEachDiskOneTarget(t *testing.T) {
	vm := job.VM{Name: "a/b", UUID: "50-A", Disks: []job.Disk{{ID: "disk-2000"}, {ID: "disk-2001"}}}
	got, err := job.Assign(job.Spec{}, vm, "/targets", nil)
	if err != nil || got[1].URI != "/targets/a_b_50-a/disk-2001.raw" {
		t.Errorf("got %v, %v", got, err)
	}
	got, err = job.Assign(job.Spec{}, vm, "/targets", map[job.DiskID]string{"disk-2001": "/targets/old/name.raw"})
	if err != nil || got[0].URI != "/targets/a_b_50-a/disk-2000.raw" || got[1].URI != "/targets/old/name.raw" {
		t.Errorf("a disk does not go on where it went before: %v, %v", got, err)
	}
	one := job.Spec{Targets: []job.Target{{Disk: "disk-2000", URI: "/x"}}}
	if _, err := job.Assign(one, vm, "/targets", nil); job.KindOf(err) != job.Invalid ||
		!strings.Contains(err.Error(), "disk-2001") {
		t.Errorf("a disk without a target: %v", err)
	}
	one.Targets[0].Disk = "disk-9"
	if _, err := job.Assign(one, vm, "/targets", nil); job.KindOf(err) != job.Invalid {
		t.Errorf("a target without a disk: %v", err)
	}
	vm.Disks[1].Unfit = "physical RDM"
	if _, err := job.Assign(job.Spec{}, vm, "/targets", nil); job.KindOf(err) != job.Unsupported ||
		!strings.Contains(err.Error(), "disk-2001") {
		t.Errorf("a disk that can't be copied: %v", err)
	}
	seen := map[string]string{}
	for uuid, name := range map[string]string{
		"1": "..", "2": ".", "3": "", "4": "x/../../etc", "5": strings.Repeat("n", 300), "6": "web:1", "7": "web_1",
		"8": strings.Repeat("\u6f22", 90), "9": strings.Repeat("\u6f22", 91), "10": "\xff\xfe",
	} {
		got, err := job.Assign(job.Spec{}, job.VM{Name: name, UUID: uuid, Disks: vm.Disks[:1]}, "/targets", nil)
		uri := got[0].URI
		folder := strings.Split(uri, "/")[2]
		if err != nil || strings.Count(uri, "/") != 3 || strings.Contains(uri, "/../") || len(folder) > 217 ||
			!utf8.ValidString(uri) {
			t.Errorf("VM %q goes to %v, %v", name, got, err)
		}
		if other, ok := seen[uri]; ok {
			t.Errorf("VMs %q and %q both go to %s", name, other, uri)
		}
		seen[uri] = name
	}
}

func TestPausesGrowAreCappedAndSpread(t *testing.T) {
	p := job.Policy{First: time.Second, Most: time.Minute, Budget: 3}
	for n := 1; n < 100; n++ {
		full := min(p.Most, time.Duration(math.Min(float64(p.Most), float64(p.First)*math.Pow(2, float64(n-1)))))
		d := p.Pause(n, "disk-2000")
		if d < full/2 || d > full {
			t.Errorf("pause %d is %v, want %v to %v", n, d, full/2, full)
		}
	}
	if p.Pause(3, "a") == p.Pause(3, "b") {
		t.Error("two disks have the same pause")
	}
}
