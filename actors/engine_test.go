package actors_test

import (
	"context"
	"crypto/sha256"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/vmferry/vmferry/actors"
	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
	"github.com/vmferry/vmferry/transfer"
	"github.com/vmferry/vmferry/volumes"
	"github.com/vmferry/vmferry/volumes/copytest"
	"github.com/vmferry/vmferry/vsphere"
	"github.com/vmferry/vmferry/vsphere/sim"
)

// site is a rehearsal vCenter with one VM of two disks, and a node that copies it with the real engine.
type site struct {
	t       *testing.T
	vc      *sim.VCenter
	client  *vsphere.Client
	journal *journal
	node    *actors.Node
	volumes *volumes.Volumes
	targets string
	uris    []string // of exports that may be targets, too
	dir     string
	seen    chan report.Report
	ledger  copytest.Ledger
}

// Publish hands each report to the test that waits for one.
func (s *site) Publish(_ context.Context, reports []report.Report) error {
	for _, r := range reports {
		s.seen <- r
	}
	return nil
}

func (s *site) Name() string { return "test" }

const diskSize = 96 * mib

func newSite(t *testing.T) *site {
	t.Helper()
	if _, err := exec.LookPath("nbdkit"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("nbdkit is not installed")
		}
		t.Skip("nbdkit is not installed")
	}
	s := &site{t: t, journal: newJournal(), dir: t.TempDir(), seen: make(chan report.Report, 10000)}
	s.targets = filepath.Join(s.dir, "targets")
	if err := os.Mkdir(s.targets, 0o700); err != nil {
		t.Fatal(err)
	}
	s.connect()
	t.Cleanup(func() {
		s.stop()
		_ = s.client.Close(context.WithoutCancel(t.Context()))
		_ = s.vc.Close()
	})
	s.start()
	return s
}

func (s *site) connect() {
	s.t.Helper()
	password := filepath.Join(s.dir, "password")
	if err := os.WriteFile(password, []byte("canary-7f3a\n"), 0o600); err != nil {
		s.t.Fatal(err)
	}
	var err error
	s.vc, err = sim.Start(s.t.Context(), sim.Options{
		Password: job.NewSecret("canary-7f3a"),
		VMs:      []sim.VM{{Name: "web", Disks: []string{s.image("sparse", 8), s.image("dense", 2)}}},
	})
	if err != nil {
		s.t.Fatal(err)
	}
	s.client, err = vsphere.Connect(s.t.Context(),
		vsphere.Config{URL: s.vc.URL(), User: s.vc.User(), PasswordFile: password, Thumbprint: s.vc.Thumbprint()})
	if err != nil {
		s.t.Fatal(err)
	}
}

// image makes a disk image with 1 MiB of noise at each multiple of every MiB. The rest is holes.
func (s *site) image(name string, every int64) string {
	s.t.Helper()
	path := filepath.Join(s.dir, name)
	f, err := os.Create(path)
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	noise := rand.NewChaCha8([32]byte{byte(every)})
	for off := int64(0); off < diskSize; off += every * mib {
		b := make([]byte, mib)
		_, _ = noise.Read(b)
		if _, err := f.WriteAt(b, off); err != nil {
			s.t.Fatal(err)
		}
	}
	if err := f.Truncate(diskSize); err != nil {
		s.t.Fatal(err)
	}
	return path
}

func (s *site) start() {
	s.t.Helper()
	s.ledger.Active = s.journal.active
	s.volumes = volumes.New(volumes.Allow{Roots: []string{s.targets}, URIs: s.uris}, &s.ledger, nil)
	copies := transfer.New(transfer.Config{
		Source: s.client, Targets: s.volumes, RunDir: filepath.Join(s.dir, "run"),
		Checkpoints: filepath.Join(s.dir, "checkpoints"),
	}, transfer.NewPermits(job.StandardLimits()))
	n, err := actors.Start(s.t.Context(), actors.Deps{
		Journal: s.journal, Sets: s.journal, VCenter: s.client, Targets: s.volumes, Transfers: copies,
		Sinks: []actors.Sink{s}, Epoch: time.Now().UnixMilli(), Root: s.targets, Tick: 20 * time.Millisecond,
	})
	if err != nil {
		s.t.Fatal(err)
	}
	s.node = n
}

func (s *site) stop() {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.t.Context()), 30*time.Second)
	defer cancel()
	if err := s.node.Stop(ctx); err != nil {
		s.t.Errorf("stop: %v", err)
	}
	s.volumes.Close(ctx)
}

// until waits for a report that fits. If a job fails meanwhile, the test fails.
func (s *site) until(what string, fits func(report.Report) bool) report.Report {
	s.t.Helper()
	deadline := time.After(time.Minute)
	for {
		select {
		case r := <-s.seen:
			if fits(r) {
				return r
			}
			if r.Status == job.StatusFailed {
				s.t.Fatalf("waiting for %s: failed: %+v", what, r.Error)
			}
		case <-deadline:
			s.t.Fatalf("no %s within a minute", what)
		}
	}
}

func (s *site) equal(disk job.DiskID) {
	s.t.Helper()
	src, dst := sha256.New(), sha256.New()
	live, err := s.vc.FrozenReader("web", "", disk)
	if err != nil {
		s.t.Fatal(err)
	}
	if _, err := io.Copy(src, io.NewSectionReader(live, 0, live.Size())); err != nil {
		s.t.Fatal(err)
	}
	f, err := os.Open(s.target(disk))
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if _, err := io.Copy(dst, f); err != nil {
		s.t.Fatal(err)
	}
	if string(src.Sum(nil)) != string(dst.Sum(nil)) {
		s.t.Errorf("%s differs from its source", disk)
	}
}

func TestAVMMovesWithTheRealEngineAndARestartCostsLittle(t *testing.T) {
	s := newSite(t)
	id, _, err := s.node.Submit(t.Context(), job.Spec{
		VM: "web", Options: job.Options{Cutover: job.CutoverManual, Verify: job.VerifyFull, Bandwidth: 30 * mib},
	}, "", "", "")
	if err != nil {
		t.Fatal(err)
	}
	r := s.until("a disk that is on its way", func(r report.Report) bool {
		return len(r.Disks) == 2 && r.Disks[1].BytesTransferred > 6*mib && r.Disks[1].SourcePID > 0
	})
	if err := syscall.Kill(r.Disks[1].SourcePID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	r = s.until("a restart", func(r report.Report) bool {
		return r.Disks[1].Restarts == 1 && r.Disks[1].Status == job.DiskRunning
	})
	if c := r.Disks[1].LastCause; c == nil || !c.Code.Retryable() {
		t.Errorf("cause %+v", c)
	}
	if err := s.node.Limit(t.Context(), id, job.Limited{Bandwidth: new(int64)}); err != nil {
		t.Fatal(err)
	}
	waiting := func(round int) report.Report {
		return s.until("a round's end", func(r report.Report) bool {
			return r.Phase == job.Waiting && r.Round == round
		})
	}
	r = waiting(1)
	for _, d := range r.Disks {
		s.equal(d.DiskID)
		if d.BytesVerified != diskSize {
			t.Errorf("%s: %d bytes verified", d.DiskID, d.BytesVerified)
		}
	}
	if d := r.Disks[1]; d.BytesResent > 64*mib || d.BytesTransferred+d.BytesSkipped != *d.BytesToTransfer {
		t.Errorf("resent %d MiB; %d + %d of %d", d.BytesResent/mib, d.BytesTransferred, d.BytesSkipped,
			*d.BytesToTransfer)
	}
	for _, off := range []int64{0, 77*mib + 123, diskSize - 4096} {
		if err := s.vc.GuestWrite("web", "disk-2000", off, make([]byte, 4096)); err != nil {
			t.Fatal(err)
		}
		if err := s.vc.GuestWrite("web", "disk-2001", off, []byte("the guest was here")); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.node.Command(t.Context(), id, job.CommandReceived{Verb: job.CutoverNow}); err != nil {
		t.Fatal(err)
	}
	r = s.until("the end", func(r report.Report) bool { return r.Status == job.StatusCompleted })
	s.equal("disk-2000")
	s.equal("disk-2001")
	if r.Rounds[1].Mode != job.Incremental || r.Rounds[1].BytesToTransfer > mib || r.OverallPercent != 100 {
		t.Errorf("second round: %+v", r.Rounds[1])
	}
	if left, err := s.vc.Snapshots("web"); err != nil || len(left) != 0 {
		t.Errorf("snapshots left: %v, %v", left, err)
	}
	if left, _ := filepath.Glob(filepath.Join(s.dir, "run", "*")); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

func TestANodeThatStopsInTheMiddleGoesOnFromTheCheckpoint(t *testing.T) {
	s := newSite(t)
	id, _, err := s.node.Submit(t.Context(), job.Spec{VM: "web", Options: job.Options{Bandwidth: 30 * mib}}, "", "", "")
	if err != nil {
		t.Fatal(err)
	}
	s.until("bytes", func(r report.Report) bool { return len(r.Disks) == 2 && r.Disks[1].BytesTransferred > 12*mib })
	s.stop()
	durable := s.journal.state(id)
	if durable.Phase != job.Transfer {
		t.Fatalf("stopped in %s", durable.Phase)
	}
	s.start()
	if err := s.node.Limit(t.Context(), id, job.Limited{Bandwidth: new(int64)}); err != nil {
		t.Fatal(err)
	}
	r := s.until("the end", func(r report.Report) bool { return r.Status == job.StatusCompleted })
	s.equal("disk-2000")
	s.equal("disk-2001")
	if r.Disks[1].Attempt != 2 {
		t.Errorf("attempt %d, last cause %+v", r.Disks[1].Attempt, r.Disks[1].LastCause)
	}
	if st := s.journal.state(id); st.Disks[1].Counters.ResumedTransferred < 5*mib {
		t.Errorf("only %d bytes were there already", st.Disks[1].Counters.ResumedTransferred)
	}
}

func TestTargetsThatDoNotFitAreRefusedAndNothingIsChanged(t *testing.T) {
	s := newSite(t)
	small := filepath.Join(s.targets, "small.raw")
	if err := os.WriteFile(small, make([]byte, 512), 0o600); err != nil {
		t.Fatal(err)
	}
	good := job.Target{Disk: "disk-2001", URI: filepath.Join(s.targets, "good.raw")}
	for name, tc := range map[string]struct {
		uri  string
		kind job.Kind
	}{
		"smaller than the disk": {small, job.Invalid},
		"outside of the roots":  {filepath.Join(s.dir, "elsewhere.raw"), job.Permission},
		"out by dots":           {s.targets + "/../elsewhere.raw", job.Permission},
		"same as the other":     {s.targets + "/./good.raw", job.Invalid},
	} {
		id, _, err := s.node.Submit(t.Context(), job.Spec{
			VM: "web", Targets: []job.Target{{Disk: "disk-2000", URI: tc.uri}, good},
		}, "", "", "")
		if err != nil {
			if job.KindOf(err) != tc.kind || job.NextOf(err) == "" {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		r := s.untilEnd(id)
		if r.Status != job.StatusFailed || r.Error.Code != tc.kind || r.Error.Next == "" {
			t.Errorf("%s: %s %+v", name, r.Status, r.Error)
		}
	}
	if b, _ := os.ReadFile(small); string(b) != string(make([]byte, 512)) {
		t.Errorf("the small target has changed: %q", b)
	}
	if files, _ := os.ReadDir(s.targets); len(files) != 1 {
		t.Errorf("targets were made: %v", files)
	}
	if st := s.vc.State(); st.VMs[0].CBTEnabled {
		t.Error("change tracking was switched on for a job that could not run")
	}
}

// target is where a disk goes: the ledger knows it.
func (s *site) target(disk job.DiskID) string {
	s.t.Helper()
	rows, err := s.ledger.Volumes(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	for _, r := range rows {
		if r.Owner.Disk == disk {
			return r.Target
		}
	}
	s.t.Fatalf("%s has no target", disk)
	return ""
}

func (s *site) untilEnd(id job.ID) report.Report {
	s.t.Helper()
	deadline := time.After(time.Minute)
	for {
		select {
		case r := <-s.seen:
			if r.JobID == id && r.Status.Terminal() {
				return r
			}
		case <-deadline:
			s.t.Fatal("the job does not end")
		}
	}
}
