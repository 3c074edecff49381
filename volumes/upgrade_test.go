package volumes_test

import (
	"compress/gzip"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/nbd"
	"github.com/vmferry/vmferry/nbd/sim"
	"github.com/vmferry/vmferry/store"
	"github.com/vmferry/vmferry/volumes"
)

// Names of a VM, a disk and a job of the version that kept no ledger.
const (
	oldVM   = "265104de-1472-547c-b873-6dc7883fb6cb"
	oldDisk = job.DiskID("disk-2000")
	oldJob  = job.ID("job-1")
)

// oldTarget is what the version without a ledger stored of a target: its path and its number there, and when a regular
// file was changed.
type oldTarget struct {
	uri, identity, stamp string
	capacity             int64
}

func oldFile(t *testing.T, path string) oldTarget {
	t.Helper()
	var st unix.Stat_t
	check(t, unix.Stat(path, &st))
	info, err := os.Stat(path)
	check(t, err)
	o := oldTarget{
		uri: path, identity: fmt.Sprintf("%s dev=%x inode=%d", path, st.Dev, st.Ino), capacity: 4 * mib,
	}
	if info.Mode().IsRegular() {
		o.stamp = fmt.Sprintf("changed=%d", info.ModTime().UnixNano())
	}
	return o
}

// set is the set that a round left.
func (o oldTarget) set() job.CheckpointSet {
	return job.CheckpointSet{
		VMUUID: oldVM, Job: oldJob, Round: 1, Committed: time.Unix(1_800_000_000, 0).UTC(),
		Disks: []job.DiskCheckpoint{{
			Disk: oldDisk, Capacity: o.capacity, Target: o.uri, TargetIdentity: o.identity, TargetStamp: o.stamp,
			ChangeID: "52 de/4",
		}},
	}
}

// job is the job in a phase.
func (o oldTarget) job(phase job.Phase) job.State {
	began := time.Unix(1_799_999_000, 0).UTC()
	st := job.State{
		ID: oldJob, Seq: 20, Phase: phase, CreatedAt: began, StartedAt: began, Spec: job.Spec{VM: "/DC0/vm/web"},
		VM: job.VM{UUID: oldVM, VCenterID: "vc-1", Name: "web"},
		Phases: []job.PhaseRun{
			{Phase: job.Transfer, Round: 1, StartedAt: began}, {Phase: phase, Round: 1, StartedAt: began},
		},
		Disks: []job.DiskState{{
			Disk: job.Disk{ID: oldDisk, Capacity: o.capacity}, Target: o.uri, TargetIdentity: o.identity,
		}},
	}
	if phase == job.Waiting {
		set := o.set()
		st.Base = &set
	}
	return st
}

// upgraded is a journal of the version without a ledger, with a job and, if its round was committed, its set; and what
// this version makes of it.
func upgraded(t *testing.T, o oldTarget, phase job.Phase) (*volumes.Volumes, *store.Journal) {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "journal.db")
	in, err := os.Open("../store/testdata/journals/2-prepared.db.gz")
	check(t, err)
	defer in.Close()
	z, err := gzip.NewReader(in)
	check(t, err)
	text, err := io.ReadAll(z)
	check(t, err)
	check(t, os.WriteFile(path, text, 0o600))
	db, err := sql.Open("sqlite", "file:"+path)
	check(t, err)
	run := func(query string, args ...any) {
		_, err := db.ExecContext(t.Context(), query, args...)
		check(t, err)
	}
	for _, table := range []string{"jobs", "events", "sets", "reports"} {
		run("DELETE FROM " + table)
	}
	st := o.job(phase)
	text, err = json.Marshal(st)
	check(t, err)
	run("INSERT INTO jobs VALUES (?, ?, ?, ?, ?, ?, ?)", st.ID, st.Spec.VM, "", !phase.Terminal(), st.Seq,
		st.CreatedAt.UnixNano(), string(text))
	if phase == job.Waiting || phase == job.Completed {
		text, err = json.Marshal(o.set())
		check(t, err)
		run("INSERT INTO sets VALUES (?, 1, 0, ?)", oldVM, string(text))
	}
	check(t, db.Close())

	j, err := store.OpenJournal(t.Context(), dir)
	check(t, err)
	allow := volumes.Allow{Roots: []string{filepath.Dir(o.uri)}}
	if nbd.IsURI(o.uri) {
		allow = volumes.Allow{URIs: []string{o.uri}}
	}
	v := volumes.New(allow, j, nil)
	t.Cleanup(func() {
		v.Close(context.WithoutCancel(t.Context()))
		check(t, j.Close())
	})
	return v, j
}

// nextRound is what the next round of the VM does: of the job if it waits, else of a job that comes after it.
func nextRound(t *testing.T, o oldTarget, phase job.Phase) (job.Mode, string) {
	t.Helper()
	v, j := upgraded(t, o, phase)
	base, err := j.Set(t.Context(), oldVM)
	check(t, err)
	r := job.VolumeRef{Job: oldJob, Disk: oldDisk, Target: o.uri, Capacity: o.capacity}
	owner := job.VolumeOwner{VCenter: "vc-1", VM: oldVM, Name: "renamed", Disk: oldDisk}
	if phase == job.Completed {
		known, err := v.Known(t.Context(), owner)
		check(t, err)
		if known[oldDisk] != o.uri {
			t.Errorf("the next job's target is %q, was %q", known[oldDisk], o.uri)
		}
		r.Job = "job-2"
		_, err = v.Claim(t.Context(), []job.VolumeClaim{{VolumeRef: r, Owner: owner}}, nil)
		check(t, err)
	} else {
		jobs, err := j.Jobs(t.Context())
		check(t, err)
		base = jobs[0].Base
	}
	info, err := v.Open(t.Context(), r)
	check(t, err)
	now := job.Disk{ID: oldDisk, Capacity: o.capacity, ChangeID: "52 de/5"}
	v.Close(t.Context()) // a device is opened by one at a time
	return job.ModeFor(job.Auto, now, r.Target, info, base)
}

// TestAfterAnUpgradeTheNextRoundIsIncremental: the version before kept no ledger. Its targets are known by what its
// sets say of them, and what others wrote while no daemon ran is noticed.
func TestAfterAnUpgradeTheNextRoundIsIncremental(t *testing.T) {
	replaced := func(path string) error { // by a copy that looks like it
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		text, err := os.ReadFile(path)
		return errors.Join(err, os.WriteFile(path+".new", text, 0o600), os.Rename(path+".new", path),
			os.Chtimes(path, time.Time{}, info.ModTime()))
	}
	for name, tc := range map[string]struct {
		change func(path string) error
		forget func(o *oldTarget) // what is not as it was
		why    string             // of a full copy; "" for an incremental round
	}{
		"as it was":        {},
		"read":             {change: func(path string) error { _, err := os.ReadFile(path); return err }},
		"written":          {change: func(path string) error { return put(path, 3, "x") }, why: "written"},
		"replaced":         {change: replaced, why: "not the one"},
		"cut short, grown": {change: cutAndGrown, why: "written"},
		"removed":          {change: os.Remove, why: "does not exist"},
		"in a file system whose number is another since a restart": {
			forget: func(o *oldTarget) { o.identity = strings.Replace(o.identity, " dev=", " dev=7", 1) },
		},
	} {
		for _, phase := range []job.Phase{job.Completed, job.Waiting} {
			o := oldFile(t, dirty(t, 4*mib))
			if tc.forget != nil {
				tc.forget(&o)
			}
			if tc.change != nil {
				check(t, tc.change(o.uri))
			}
			mode, why := nextRound(t, o, phase)
			want := job.Incremental
			if tc.why != "" {
				want = job.Full
			}
			if mode != want || !strings.Contains(why, tc.why) {
				t.Errorf("%s, of a job that is %s: %s %q", name, phase, mode, why)
			}
		}
	}
}

func put(path string, off int64, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt([]byte(text), off)
	return errors.Join(err, f.Close())
}

func cutAndGrown(path string) error {
	return errors.Join(os.Truncate(path, mib), os.Truncate(path, 4*mib))
}

func TestAfterAnUpgradeDevicesAndExportsAreKnown(t *testing.T) {
	image := dirty(t, 4*mib)
	device := oldFile(t, loop(t, newWorld(t), image))
	s, err := sim.Start(t.Context(), sim.Options{
		Backend: sim.NewMemory(4 * mib), Listen: filepath.Join(t.TempDir(), "s"),
	})
	check(t, err)
	t.Cleanup(func() { check(t, s.Close()) })
	uri := s.URI()
	server := oldTarget{uri: uri, identity: nbd.Redact(uri) + " size=4194304", capacity: 4 * mib}
	for _, o := range []oldTarget{device, server} {
		for _, phase := range []job.Phase{job.Completed, job.Waiting} {
			if mode, why := nextRound(t, o, phase); mode != job.Incremental {
				t.Errorf("%s, of a job that is %s: %s %q", o.identity, phase, mode, why)
			}
		}
	}
}

// TestAfterAnUpgradeARoundThatWasCutOffGoesOn: the version before was killed in the middle of it. The round after it is
// incremental, and from its verification on, or its commit, a write of others shows.
func TestAfterAnUpgradeARoundThatWasCutOffGoesOn(t *testing.T) {
	for _, phase := range []job.Phase{job.Transfer, job.Verify, job.Commit} {
		o := oldFile(t, dirty(t, 4*mib))
		check(t, put(o.uri, 0, "ours, after it was planned"))
		v, _ := upgraded(t, o, phase)
		r := job.VolumeRef{Job: oldJob, Disk: oldDisk, Target: o.uri, Capacity: o.capacity}
		if phase != job.Commit {
			_, zero, err := v.Handle(t.Context(), r, o.identity, true, phase == job.Transfer)
			check(t, err)
			if zero {
				t.Errorf("%s: zeros are believed of a target that a killed writer left", phase)
			}
		}
		if phase == job.Transfer {
			check(t, v.Settle(t.Context(), r))
		}
		info, err := v.Confirm(t.Context(), r, o.identity)
		check(t, err)
		if info.Volume == "" || info.Identity == "" || info.Stamp == "" {
			t.Errorf("%s: confirmed as %+v", phase, info)
		}
		v.Release(oldJob)
		if info, err = v.Open(t.Context(), r); err != nil || info.Foreign != "" {
			t.Errorf("%s: the next round finds %+v, %v", phase, info, err)
		}
		check(t, put(o.uri, 0, "theirs"))
		if info, err = v.Open(t.Context(), r); err != nil || !strings.Contains(info.Foreign, "another process") {
			t.Errorf("%s, then others wrote: the next round finds %+v, %v", phase, info, err)
		}
	}
}

func TestAfterAnUpgradeAWriteDuringTheVerificationShows(t *testing.T) {
	o := oldFile(t, dirty(t, 4*mib))
	v, _ := upgraded(t, o, job.Verify)
	r := job.VolumeRef{Job: oldJob, Disk: oldDisk, Target: o.uri, Capacity: o.capacity}
	_, _, err := v.Handle(t.Context(), r, o.identity, true, false)
	check(t, err)
	check(t, put(o.uri, 0, "theirs"))
	_, err = v.Confirm(t.Context(), r, o.identity)
	wantKind(t, err, job.Conflict)
}
