package actors_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"flag"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/nbd/sim"
	"github.com/vmferry/vmferry/report"
)

// What a retry keeps of disks that a round did not finish, with the real engine and real bytes.

var keptSeeds = flag.Uint64("kept-seeds", 6, "how many jobs are cut off at random places, for each kind of target")

// wait waits for a report of a job that fits, or for the job's end.
func (s *site) wait(id job.ID, fits func(report.Report) bool) report.Report {
	s.t.Helper()
	deadline := time.After(2 * time.Minute)
	for {
		select {
		case r := <-s.seen:
			if r.JobID == id && (r.Status.Terminal() || fits(r)) {
				return r
			}
		case <-deadline:
			s.t.Fatal("nothing fits within two minutes")
		}
	}
}

// cancelled cancels a job of which r is the newest report, and waits for its end.
func (s *site) cancelled(id job.ID, r report.Report) report.Report {
	s.t.Helper()
	if r.Status.Terminal() {
		return r
	}
	err := s.node.Command(s.t.Context(), id, job.CommandReceived{Verb: job.Cancel})
	if err != nil && job.KindOf(err) != job.Conflict {
		s.t.Fatal(err)
	}
	return s.untilEnd(id)
}

func (s *site) guestWrites(disk job.DiskID, b []byte, offs ...int64) {
	s.t.Helper()
	for _, off := range offs {
		if err := s.vc.GuestWrite("web", disk, off, b); err != nil {
			s.t.Fatal(err)
		}
	}
}

// cutOff begins a job that is cancelled when some of its dense disk is durable and some is not.
func (s *site) cutOff(verify job.VerifyMode) job.ID {
	s.t.Helper()
	for bandwidth := int64(16 * mib); ; bandwidth /= 2 {
		id := s.submit(job.Spec{
			VM: "web", Mode: job.Full, Options: job.Options{Verify: verify, Bandwidth: bandwidth},
		})
		r := s.wait(id, func(r report.Report) bool {
			return len(r.Disks) == 2 && r.Disks[0].Status == job.DiskCopied && r.Disks[1].BytesDurable > 12*mib
		})
		if r = s.cancelled(id, r); r.Status == job.StatusFailed {
			s.t.Fatalf("it ended %s: %+v", r.Status, r.Error)
		}
		if d, _ := s.journal.state(id).DiskState("disk-2001"); !d.Copied() {
			return id
		} // else the machine is slow, and the copy was done before the cancel came
	}
}

// goesOn retries a job, and waits until it is done.
func (s *site) goesOn(id job.ID) job.State {
	s.t.Helper()
	s.command(id, job.Retry)
	s.wait(id, func(r report.Report) bool { return r.Phase == job.Transfer })
	s.faster(id)
	st := s.ends(id)
	s.equal("disk-2000")
	s.equal("disk-2001")
	return st
}

func TestARetryGoesOnWithADiskThatWasNotCopiedAsAWhole(t *testing.T) {
	s := newSite(t)
	id := s.cutOff(job.VerifyFull)
	noise := make([]byte, 100_000)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(noise)
	s.guestWrites("disk-2001", noise, 0, 5*mib+123, 44*mib, diskSize-int64(len(noise)))
	s.guestWrites("disk-2001", make([]byte, mib), 2*mib)
	before := s.journal.state(id)
	if k, ok := before.KeptCopy("disk-2001"); !ok || k.Durable < 12*mib || len(before.Kept) != 1 {
		t.Fatalf("kept: %+v", before.Kept)
	}
	s.stop() // what is kept survives a restart
	s.start()
	st := s.goesOn(id)
	d := st.Disks[1]
	if d.Mode != job.Full || d.Kept.Sum() < 10*mib || d.Counters.ResumedTransferred != d.Kept.Transferred ||
		d.Counters.Done() != d.ToTransfer {
		t.Errorf("it went %s, kept %+v, %+v of %d", d.Mode, d.Kept, d.Counters, d.ToTransfer)
	}
	if moved := d.Counters.Transferred - d.Counters.ResumedTransferred; moved > 48*mib-10*mib {
		t.Errorf("%d MiB were moved by the retry", moved/mib)
	}
	if d.Counters.Verified != diskSize {
		t.Errorf("%d bytes were verified", d.Counters.Verified)
	}
	if d.Resent() != 0 || st.Rounds[1].Kept != d.Kept.Sum() {
		t.Errorf("resent %d; round %+v", d.Resent(), st.Rounds[1])
	}
	if notes := strings.Join(st.Notes, "\n"); !strings.Contains(notes, "disk-2001 goes on: ") {
		t.Errorf("notes %q", st.Notes)
	}
	if len(st.Kept) != 0 {
		t.Errorf("after the commit the state names %+v", st.Kept)
	}
	if left, err := os.ReadDir(filepath.Join(s.dir, "checkpoints")); err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// TestNothingIsKeptThatMayHaveChanged: each of these makes the retry copy the disk in full, and say why.
func TestNothingIsKeptThatMayHaveChanged(t *testing.T) {
	t.Parallel()
	record := func(s *site, id job.ID) string {
		return filepath.Join(s.dir, "checkpoints", string(id), "disk-2001-1.checkpoint")
	}
	for name, tc := range map[string]struct {
		change func(s *site, id job.ID) error
		why    string
	}{
		"others wrote to the target": {func(s *site, _ job.ID) error {
			foreign(s.t, s.target("disk-2001"), 4*mib+7)
			return nil
		}, "another process has written to the target"},
		"the record is gone": {func(s *site, id job.ID) error {
			return os.Remove(record(s, id))
		}, "what was recorded of it is gone"},
		"the record is damaged": {func(s *site, id job.ID) error {
			b, err := os.ReadFile(record(s, id))
			if err == nil {
				b[len(b)/3] ^= 4
				err = os.WriteFile(record(s, id), b, 0o600)
			}
			return err
		}, "what was recorded of it can't be used"},
		"tracking was reset": {func(s *site, _ job.ID) error {
			return s.vc.ResetCBT("web")
		}, "change tracking was reset since"},
		"the disk grew": {func(s *site, _ job.ID) error {
			return s.vc.GrowDisk("web", "disk-2001", diskSize+mib)
		}, "its size changed"},
		"the target was made again": {func(s *site, _ job.ID) error {
			return os.Remove(s.target("disk-2001"))
		}, "the target does not exist"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			id := s.cutOff(job.VerifyNone)
			s.guestWrites("disk-2001", []byte("the guest was here"), 3*mib, 60*mib)
			if err := tc.change(s, id); err != nil {
				t.Fatal(err)
			}
			st := s.goesOn(id)
			if d := st.Disks[1]; d.Kept != nil || d.Mode != job.Full || d.Counters.ResumedTransferred != 0 {
				t.Errorf("it went %s and kept %+v", d.Mode, d.Kept)
			}
			if notes := strings.Join(st.Notes, "\n"); !strings.Contains(notes, tc.why) {
				t.Errorf("notes %q do not say that %s", st.Notes, tc.why)
			}
		})
	}
}

// TestARoundOfAnotherJobEndsWhatWasKept, though the other job was cut off, too, and left no set.
func TestARoundOfAnotherJobEndsWhatWasKept(t *testing.T) {
	if testing.Short() {
		t.Skip("long: make it runs it")
	}
	s := newSite(t)
	first := s.cutOff(job.VerifyNone)
	s.guestWrites("disk-2001", bytes.Repeat([]byte("x"), 3*mib), 7*mib)
	s.cutOff(job.VerifyNone)
	st := s.goesOn(first)
	if d := st.Disks[1]; d.Kept != nil || !strings.Contains(strings.Join(st.Notes, "\n"), "another round has written") {
		t.Errorf("kept %+v, notes %q", d.Kept, st.Notes)
	}
}

func TestAFreshRetryKeepsNothing(t *testing.T) {
	if testing.Short() {
		t.Skip("long: make it runs it")
	}
	s := newSite(t)
	id := s.cutOff(job.VerifyNone)
	err := s.node.Command(t.Context(), id, job.CommandReceived{Verb: job.Retry, Fresh: true})
	if err != nil {
		t.Fatal(err)
	}
	s.wait(id, func(r report.Report) bool { return r.Phase == job.Transfer })
	s.faster(id)
	if st := s.ends(id); st.Disks[1].Kept != nil || st.Disks[1].Counters.ResumedTransferred != 0 {
		t.Errorf("kept %+v, %+v", st.Disks[1].Kept, st.Disks[1].Counters)
	}
	s.equal("disk-2001")
}

func TestADeletedJobLeavesNoRecord(t *testing.T) {
	s := newSite(t)
	id := s.cutOff(job.VerifyNone)
	folder := filepath.Join(s.dir, "checkpoints", string(id))
	if left, err := os.ReadDir(folder); err != nil || len(left) == 0 {
		t.Fatalf("nothing is recorded: %v", err)
	}
	s.command(id, job.Delete)
	if _, err := os.Stat(folder); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the records of a deleted job: %v", err)
	}
}

// ways are how a round is cut off. Each gets the newest report of the running job, and returns that of its end.
func (c *cutter) ways() map[string]func(report.Report) report.Report {
	ways := map[string]func(report.Report) report.Report{
		"cancel": func(r report.Report) report.Report { return c.cancelled(c.id, r) },
		"the source dies": func(r report.Report) report.Report {
			for _, d := range r.Disks {
				if d.SourcePID > 0 {
					_ = syscall.Kill(d.SourcePID, syscall.SIGKILL)
				}
			}
			return c.cancelled(c.id, c.wait(c.id, func(r report.Report) bool {
				return len(r.Disks) == 2 && r.Disks[0].Restarts+r.Disks[1].Restarts > 0
			}))
		},
		"the daemon stops": func(r report.Report) report.Report {
			c.stop()
			c.start()
			return c.cancelled(c.id, r)
		},
	}
	if c.server != nil {
		fault := func(errno syscall.Errno) {
			err := c.server.SetFaults(sim.Fault{Kind: sim.FaultError, Op: sim.Write, Errno: uint32(errno)})
			if err != nil {
				c.t.Fatal(err)
			}
		}
		ways["no space"] = func(report.Report) report.Report {
			fault(syscall.ENOSPC)
			return c.cancelled(c.id, c.wait(c.id, func(r report.Report) bool {
				return len(r.Disks) == 2 && r.Disks[1].Status == job.DiskBackoff
			}))
		}
		ways["a failure for good"] = func(report.Report) report.Report {
			fault(syscall.EPERM)
			c.faster(c.id)
			return c.untilEnd(c.id)
		}
	}
	return ways
}

// cutter runs jobs that are cut off at random places, and in the end are let go on.
type cutter struct {
	*site
	random *rand.Rand
	spec   job.Spec
	server *sim.Server // of the target of disk-2001; nil if that is a file
	export *sim.Memory
	id     job.ID
	kept   int64
}

// scribble lets the guest write to random places: noise, zeros, and much of the disk at once.
func (c *cutter) scribble() {
	c.t.Helper()
	for _, disk := range []job.DiskID{"disk-2000", "disk-2001"} {
		for range c.random.IntN(6) {
			b := make([]byte, 1+c.random.IntN([]int{600, 70_000, 4 * mib}[c.random.IntN(3)]))
			if c.random.IntN(3) > 0 {
				seed := [32]byte{}
				seed[0], seed[1] = byte(c.random.Uint32()), byte(c.random.Uint32())
				_, _ = rand.NewChaCha8(seed).Read(b)
			}
			c.guestWrites(disk, b, c.random.Int64N(diskSize-int64(len(b))))
		}
	}
}

// run runs one job. It is cut off a few times.
func (c *cutter) run() {
	c.t.Helper()
	c.spec.Mode = []job.Mode{job.Full, job.Auto}[c.random.IntN(2)]
	c.spec.Options.Verify = []job.VerifyMode{job.VerifyNone, job.VerifySample, job.VerifyFull}[c.random.IntN(3)]
	c.spec.Options.Bandwidth = 30 * mib
	c.id = c.submit(c.spec)
	ended := ""
	for range 1 + c.random.IntN(3) {
		after := c.random.Int64N(24 * mib)
		r := c.wait(c.id, func(r report.Report) bool {
			return r.Phase == job.Verify || r.Phase == job.Transfer && r.BytesTransferred > after
		})
		c.scribble()
		if !r.Status.Terminal() {
			var names []string
			ways := c.ways()
			for _, name := range []string{
				"cancel", "the source dies", "the daemon stops", "no space", "a failure for good",
			} {
				if ways[name] != nil {
					names = append(names, name)
				}
			}
			how := names[c.random.IntN(len(names))]
			ended += " " + how
			r = ways[how](r)
		}
		if c.server != nil {
			if err := c.server.SetFaults(); err != nil {
				c.t.Fatal(err)
			}
		}
		c.scribble()
		if r.Status == job.StatusCompleted {
			c.spec.Mode = job.Auto
			c.id = c.submit(c.spec)
			continue
		}
		c.command(c.id, job.Retry)
	}
	c.wait(c.id, func(r report.Report) bool { return r.Phase == job.Transfer })
	c.faster(c.id)
	r := c.untilEnd(c.id)
	if r.Status != job.StatusCompleted {
		c.t.Fatalf("after%s the job ended %s: %+v", ended, r.Status, r.Error)
	}
	for _, o := range r.Rounds {
		if o.BytesTransferred+o.BytesSkipped > o.BytesToTransfer {
			c.t.Errorf("round %+v moved more than all", o)
		}
	}
	for _, o := range c.journal.state(c.id).Rounds {
		c.kept += o.Kept
	}
	c.same(ended)
}

// same compares both targets with the disks.
func (c *cutter) same(ended string) {
	c.t.Helper()
	c.equal("disk-2000")
	if c.export == nil {
		c.equal("disk-2001")
	} else {
		live, err := c.vc.FrozenReader("web", "", "disk-2001")
		if err != nil {
			c.t.Fatal(err)
		}
		var sums [2][]byte
		for i, r := range []io.ReaderAt{live, c.export} {
			h := sha256.New()
			if _, err := io.Copy(h, io.NewSectionReader(r, 0, diskSize)); err != nil {
				c.t.Fatal(err)
			}
			sums[i] = h.Sum(nil)
		}
		if !bytes.Equal(sums[0], sums[1]) {
			c.t.Error("the export differs from its source")
		}
	}
	if c.t.Failed() {
		c.t.Fatalf("after%s; notes %q", ended, c.journal.state(c.id).Notes)
	}
}

// TestWhateverARoundLeavesTheRetryEndsEqual cuts jobs off again and again, while the guest writes.
func TestWhateverARoundLeavesTheRetryEndsEqual(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("long: make it runs it")
	}
	for _, kind := range []string{"files", "an export"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			c := &cutter{site: newSite(t)}
			if kind != "files" {
				server, disk, uri := c.site.export("e")
				c.server, c.export = server, disk
				c.stop()
				c.uris = []string{uri}
				c.start()
				c.spec.Targets = []job.Target{
					{Disk: "disk-2000", URI: filepath.Join(c.targets, "2000.raw")}, {Disk: "disk-2001", URI: uri},
				}
			}
			c.spec.VM = "web"
			for seed := range *keptSeeds {
				c.random = rand.New(rand.NewPCG(seed, uint64(len(kind))))
				c.run()
				t.Logf("seed %d: %d MiB were kept so far", seed, c.kept/mib)
			}
			if c.kept == 0 {
				t.Error("nothing was ever kept")
			}
		})
	}
}
