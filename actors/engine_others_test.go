package actors_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/nbd/sim"
	"github.com/vmferry/vmferry/report"
	"github.com/vmferry/vmferry/volumes"
)

// What others do to targets, while a job with the real engine moves a VM.

func (s *site) submit(spec job.Spec) job.ID {
	s.t.Helper()
	id, _, err := s.node.Submit(s.t.Context(), spec, "", "", "")
	if err != nil {
		s.t.Fatal(err)
	}
	return id
}

func (s *site) command(id job.ID, verb job.Verb) {
	s.t.Helper()
	if err := s.node.Command(s.t.Context(), id, job.CommandReceived{Verb: verb}); err != nil {
		s.t.Fatal(err)
	}
}

// faster lifts the limit of a job's bandwidth, if the job has not ended.
func (s *site) faster(id job.ID) {
	s.t.Helper()
	err := s.node.Limit(s.t.Context(), id, job.Limited{Bandwidth: new(int64)})
	if err != nil && job.KindOf(err) != job.Conflict {
		s.t.Fatal(err)
	}
}

// ends waits for the end of a job that must complete, and returns its state.
func (s *site) ends(id job.ID) job.State {
	s.t.Helper()
	if r := s.untilEnd(id); r.Status != job.StatusCompleted {
		s.t.Fatalf("it ended %s: %+v", r.Status, r.Error)
	}
	return s.journal.state(id)
}

// foreign writes 7 bytes, as dd would.
func foreign(t *testing.T, path string, off int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteAt([]byte("foreign"), off)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}

func TestAJobWhoseTargetIsTakenAwayWhileItIsCopiedFails(t *testing.T) {
	if testing.Short() {
		t.Skip("long: make it runs it")
	}
	for name, change := range map[string]func(path string) error{
		"moved away": func(path string) error { return os.Rename(path, path+".moved") },
		"made again": func(path string) error {
			return errors.Join(os.Rename(path, path+".moved"), volumes.Create(path, diskSize))
		},
		"cut short": func(path string) error { return os.Truncate(path, mib) },
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			id := s.submit(job.Spec{VM: "web", Options: job.Options{Verify: job.VerifyNone, Bandwidth: 20 * mib}})
			s.until("bytes", func(r report.Report) bool {
				return len(r.Disks) == 2 && r.Disks[1].BytesTransferred > 4*mib
			})
			path := s.target("disk-2001")
			if err := change(path); err != nil {
				t.Fatal(err)
			}
			r := s.untilEnd(id)
			if r.Status != job.StatusFailed || r.Error.Next == "" || !strings.Contains(r.Error.Message, path) {
				t.Errorf("%s: %+v", r.Status, r.Error)
			}
			if set, err := s.journal.Set(t.Context(), s.journal.state(id).VM.UUID); set != nil || err != nil {
				t.Errorf("the set %+v was committed (%v)", set, err)
			}
		})
	}
}

func TestAWriteOfOthersWhileAJobWaitsForItsCutoverMakesTheLastRoundFull(t *testing.T) {
	s := newSite(t)
	id := s.submit(job.Spec{VM: "web", Options: job.Options{Cutover: job.CutoverManual, Verify: job.VerifyFull}})
	s.until("a round's end", func(r report.Report) bool { return r.Phase == job.Waiting })
	foreign(t, s.target("disk-2000"), 40*mib+5)
	s.command(id, job.CutoverNow)
	st := s.ends(id)
	s.equal("disk-2000")
	s.equal("disk-2001")
	if st.Disks[0].Mode != job.Full || st.Disks[1].Mode != job.Incremental ||
		!strings.Contains(strings.Join(st.Notes, "\n"), "another process has written to the target") {
		t.Errorf("the disks went %s and %s; notes %q", st.Disks[0].Mode, st.Disks[1].Mode, st.Notes)
	}
}

// TestARetryCopiesADiskInFullThatOthersHaveWrittenTo, though a set of its own names it.
func TestARetryCopiesADiskInFullThatOthersHaveWrittenTo(t *testing.T) {
	if testing.Short() {
		t.Skip("long: make it runs it")
	}
	for name, tc := range map[string]struct {
		written bool
		want    job.Mode
	}{"nothing was written": {false, job.Incremental}, "others have written": {true, job.Full}} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			id := s.submit(job.Spec{VM: "web", Options: job.Options{Verify: job.VerifyNone, Bandwidth: 20 * mib}})
			s.until("a disk that is copied beside one that is not", func(r report.Report) bool {
				return len(r.Disks) == 2 && r.Disks[0].Status == job.DiskCopied && r.Disks[1].Status == job.DiskRunning
			})
			s.command(id, job.Cancel)
			s.untilEnd(id)
			if set := s.journal.state(id).Partial; set == nil || len(set.Disks) != 1 {
				t.Fatalf("the job left %+v", set)
			}
			if tc.written {
				foreign(t, s.target("disk-2000"), 40*mib+5)
			}
			s.command(id, job.Retry)
			s.until("the copy of the other disk", func(r report.Report) bool { return r.Phase == job.Transfer })
			s.faster(id)
			st := s.ends(id)
			s.equal("disk-2000")
			s.equal("disk-2001")
			if st.Disks[0].Mode != tc.want {
				t.Errorf("the disk went %s; notes %q", st.Disks[0].Mode, st.Notes)
			}
		})
	}
}

func TestAfterAnIncrementalRoundThatWasCancelledTheNextIsIncremental(t *testing.T) {
	if testing.Short() {
		t.Skip("long: make it runs it")
	}
	s := newSite(t)
	s.ends(s.submit(job.Spec{VM: "web", Options: job.Options{Verify: job.VerifyNone}}))
	noise, b := rand.NewChaCha8([32]byte{7}), make([]byte, mib)
	for off := int64(0); off < 24*mib; off += mib {
		_, _ = noise.Read(b)
		if err := s.vc.GuestWrite("web", "disk-2001", off, b); err != nil {
			t.Fatal(err)
		}
	}
	id := s.submit(job.Spec{VM: "web", Options: job.Options{Verify: job.VerifyNone, Bandwidth: 8 * mib}})
	s.until("bytes of changes", func(r report.Report) bool {
		return r.JobID == id && r.Phase == job.Transfer && r.BytesTransferred > 2*mib
	})
	s.command(id, job.Cancel)
	s.untilEnd(id)
	st := s.ends(s.submit(job.Spec{VM: "web", Options: job.Options{Verify: job.VerifyNone}}))
	s.equal("disk-2000")
	s.equal("disk-2001")
	if st.Mode() != job.Incremental || st.Rounds[0].Counters.ToTransfer > 25*mib {
		t.Errorf("the next round went %s with %d bytes; notes %q", st.Mode(), st.Rounds[0].Counters.ToTransfer,
			st.Notes)
	}
}

// export serves a disk in memory as a target.
func (s *site) export(name string) (*sim.Server, *sim.Memory, string) {
	s.t.Helper()
	dir, err := os.MkdirTemp("", "vm")
	if err != nil {
		s.t.Fatal(err)
	}
	disk, socket := sim.NewMemory(diskSize), filepath.Join(dir, name)
	server, err := sim.Start(s.t.Context(), sim.Options{Backend: disk, Listen: socket})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		if err := errors.Join(server.Close(), os.RemoveAll(dir)); err != nil {
			s.t.Error(err)
		}
	})
	return server, disk, "nbd+unix:///?socket=" + socket
}

// TestATargetServerThatHangsUpOnceIsTriedAgain: while a round is planned, and while the next job is checked.
func TestATargetServerThatHangsUpOnceIsTriedAgain(t *testing.T) {
	if testing.Short() {
		t.Skip("long: make it runs it")
	}
	s := newSite(t)
	server, first, uri := s.export("a")
	_, second, other := s.export("b")
	s.stop()
	s.uris = []string{uri, other}
	s.start()
	spec := job.Spec{
		VM: "web", Targets: []job.Target{{Disk: "disk-2000", URI: uri}, {Disk: "disk-2001", URI: other}},
		Options: job.Options{Cutover: job.CutoverManual, Verify: job.VerifyNone},
	}
	id := s.submit(spec)
	s.until("a round's end", func(r report.Report) bool { return r.Phase == job.Waiting })
	hangUp := func() {
		t.Helper()
		if err := s.vc.GuestWrite("web", "disk-2000", 17*mib, []byte("the guest was here")); err != nil {
			t.Fatal(err)
		}
		if err := server.SetFaults(sim.Fault{Kind: sim.FaultHangUp, Count: 1}); err != nil {
			t.Fatal(err)
		}
	}
	hangUp()
	s.command(id, job.CutoverNow)
	again := func(r report.Report) bool { return slices.Contains(r.Health, report.Retrying) }
	s.until("a plan that is tried again", again)
	if st := s.ends(id); st.Mode() != job.Incremental || len(st.Rounds) != 2 {
		t.Errorf("the last round went %s; notes %q", st.Mode(), st.Notes)
	}
	hangUp()
	spec.Options.Cutover = job.CutoverAuto
	id = s.submit(spec)
	s.until("a check that is tried again", again)
	if st := s.ends(id); st.Mode() != job.Incremental {
		t.Errorf("the next job went %s; notes %q", st.Mode(), st.Notes)
	}
	for disk, got := range map[job.DiskID]*sim.Memory{"disk-2000": first, "disk-2001": second} {
		want, err := s.vc.FrozenReader("web", "", disk)
		if err != nil {
			t.Fatal(err)
		}
		a, aerr := io.ReadAll(io.NewSectionReader(want, 0, diskSize))
		b, berr := io.ReadAll(io.NewSectionReader(got, 0, diskSize))
		if err := errors.Join(aerr, berr); err != nil || !bytes.Equal(a, b) {
			t.Errorf("%s differs from its source (%v)", disk, err)
		}
	}
}

// TestDisksThatWereAddedToAWaitingJobAreCopied, each to a target of its own beside the others, and the others move only
// what changed.
func TestDisksThatWereAddedToAWaitingJobAreCopied(t *testing.T) {
	if testing.Short() {
		t.Skip("long: make it runs it")
	}
	s := newSite(t)
	id := s.submit(job.Spec{VM: "web", Options: job.Options{Verify: job.VerifyFull, Cutover: job.CutoverManual}})
	s.until("the first round's end", func(r report.Report) bool { return r.Phase == job.Waiting })
	var added []job.DiskID
	for _, every := range []int64{3, 4} {
		disk, err := s.vc.AddDisk("web", s.image(fmt.Sprint("added", every), every))
		if err != nil {
			t.Fatal(err)
		}
		added = append(added, disk)
	}
	s.command(id, job.CutoverNow)
	st := s.ends(id)
	if len(st.Disks) != 4 || !strings.Contains(strings.Join(st.Notes, "\n"), "was added to the VM") {
		t.Fatalf("disks %+v, notes %q", st.Disks, st.Notes)
	}
	for _, d := range st.Disks {
		s.equal(d.Disk.ID)
		want := job.Incremental
		if slices.Contains(added, d.Disk.ID) {
			want = job.Full
		}
		if d.Mode != want || filepath.Dir(d.Target) != filepath.Dir(st.Disks[0].Target) {
			t.Errorf("%s goes %s to %s", d.Disk.ID, d.Mode, d.Target)
		}
	}
	for _, disk := range added {
		if path := s.target(disk); !slices.Contains(st.Made, path) {
			t.Errorf("%s is not among those that the job made: %q", path, st.Made)
		}
	}
}
