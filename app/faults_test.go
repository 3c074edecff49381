package app_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/vmferry/vmferry/app"
	"github.com/vmferry/vmferry/http/rest"
	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
	"github.com/vmferry/vmferry/vsphere/sim"
)

// run runs a program of the system.
func run(tb testing.TB, program string, args ...string) string {
	tb.Helper()
	path := program
	for _, dir := range []string{"/usr/sbin", "/sbin"} {
		if _, err := exec.LookPath(path); err != nil {
			path = filepath.Join(dir, program)
		}
	}
	out, err := exec.CommandContext(context.WithoutCancel(tb.Context()), path, args...).CombinedOutput()
	if err != nil {
		tb.Fatalf("%s %q: %v: %s", program, args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// ownDisk mounts a new file system at a path. cut cuts its power: data that was not synced is lost. The caller unmounts
// and mounts it again.
func ownDisk(tb testing.TB, at string, mib int64) (cut func()) {
	tb.Helper()
	if os.Getuid() != 0 {
		tb.Skip("only root can mount")
	}
	if _, err := os.Stat("/dev/loop-control"); err != nil {
		tb.Skipf("there are no loop devices here: %v", err)
	}
	file := at + ".disk"
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		tb.Fatal(err)
	}
	if err := errors.Join(os.Truncate(file, mib<<20), os.Mkdir(at, 0o700)); err != nil {
		tb.Fatal(err)
	}
	run(tb, "mkfs.ext4", "-q", "-F", file)
	device := run(tb, "losetup", "--find", "--show", file)
	tb.Cleanup(func() { run(tb, "losetup", "--detach", device) })
	mount := func() { run(tb, "mount", "-t", "ext4", device, at) }
	mount()
	tb.Cleanup(func() { run(tb, "umount", "--lazy", at) })
	return func() {
		dir, err := os.Open(at)
		if err != nil {
			tb.Fatal(err)
		}
		const (
			shutdown = 0x8004587d // EXT4_IOC_SHUTDOWN
			noFlush  = 2          // not even the journal
		)
		how := uint32(noFlush)
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, dir.Fd(), shutdown, uintptr(unsafe.Pointer(&how)))
		if err := dir.Close(); errno != 0 || err != nil {
			tb.Fatalf("cut the power: %v, %v", errno, err)
		}
	}
}

// unmount waits for the daemon's nbdkits: they end a moment after the killed daemon.
func unmount(tb testing.TB, at string) {
	tb.Helper()
	for began := time.Now(); ; <-time.After(10 * time.Millisecond) {
		err := unix.Unmount(at, 0)
		if err == nil {
			return
		}
		if !errors.Is(err, unix.EBUSY) || time.Since(began) > 20*time.Second {
			tb.Fatalf("unmount %s: %v", at, err)
		}
	}
}

func TestPowerThatIsLostCostsNoAcceptedJobAndNoByte(t *testing.T) {
	if testing.Short() {
		t.Skip("long: make it runs it")
	}
	need(t, "nbdkit")
	s := newSite(t, 96)
	cut := ownDisk(t, s.cfg.StateDir, 512)
	cmd, c := s.daemonProcess(t)
	id := submit(t, c, job.Spec{Options: job.Options{Bandwidth: 24 << 20, Verify: job.VerifyFull}})
	r := until(t, c, id, func(r report.Report) bool {
		return terminal(r) || len(r.Disks) == 2 && r.Disks[1].BytesDurable > 20<<20
	})
	if terminal(r) {
		t.Fatalf("the job ended too early: %s %+v", r.Status, r.Error)
	}
	cut()
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // says that it was killed
	unmount(t, s.cfg.StateDir)
	device := run(t, "losetup", "--noheadings", "--output", "NAME", "--associated", s.cfg.StateDir+".disk")
	run(t, "mount", "-t", "ext4", device, s.cfg.StateDir)
	_, c = start(t, s.cfg)
	if _, err := c.Job(t.Context(), id); err != nil {
		t.Fatalf("an accepted job is lost: %v", err)
	}
	if err := c.Limit(t.Context(), id, 0); err != nil {
		t.Error(err)
	}
	again := until(t, c, id, terminal)
	s.equal(t, again)
	if again.Disks[1].BytesResent > 64<<20 || again.Disks[1].BytesVerified < 96<<20 {
		t.Errorf("%d bytes were sent again, %d verified", again.Disks[1].BytesResent, again.Disks[1].BytesVerified)
	}
}

// endsWell sends SIGTERM and checks that the daemon ends by itself, within 10 s.
func endsWell(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	began := time.Now()
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("the daemon ended with %v", err)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("the daemon took %v to end", took)
	}
}

func TestSIGTERMInAnyPhaseEndsInTimeAndTheJobGoesOn(t *testing.T) {
	t.Parallel()
	need(t, "nbdkit")
	for _, phase := range []job.Phase{job.Preflight, job.Snapshot, job.Transfer, job.Verify} {
		t.Run(string(phase), func(t *testing.T) {
			t.Parallel()
			s := newSite(t, 24)
			s.slow(t, phase)
			cmd, c := s.daemonProcess(t)
			id := submit(t, c, job.Spec{Options: job.Options{Bandwidth: 8 << 20, Verify: job.VerifyFull}})
			until(t, c, id, func(r report.Report) bool {
				return terminal(r) || r.Phase == phase && (phase != job.Transfer || r.BytesTransferred > 0)
			})
			endsWell(t, cmd)
			s.vcenter.ClearFaults()
			_, c = start(t, s.cfg)
			if err := c.Limit(t.Context(), id, 0); err != nil {
				t.Error(err)
			}
			s.equal(t, until(t, c, id, terminal))
		})
	}
}

// slow makes the vCenter so slow that the phase lasts long.
func (s *site) slow(tb testing.TB, phase job.Phase) {
	tb.Helper()
	f := sim.Fault{Count: -1}
	switch phase {
	case job.Preflight:
		f.Kind, f.Delay = sim.FaultCallSlow, 30*time.Second
	case job.Snapshot:
		f.Kind, f.Op, f.Delay = sim.FaultTaskSlow, "CreateSnapshot_Task", 5*time.Second
	default:
		return // the bandwidth limit makes it slow
	}
	if err := s.vcenter.Inject(f); err != nil {
		tb.Fatal(err)
	}
}

// memory is the most memory that a process has had, in bytes.
func memory(tb testing.TB, pid int) int64 {
	tb.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		tb.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "VmHWM:" {
			kib, err := strconv.ParseInt(f[1], 10, 64)
			if err != nil {
				tb.Fatal(err)
			}
			return kib << 10
		}
	}
	tb.Fatal("the kernel does not say how much memory it has")
	return 0
}

func TestAThousandJobsWaitForTheirTurnAndCostLittle(t *testing.T) {
	if testing.Short() {
		t.Skip("long: make it runs it")
	}
	s := newSite(t, 1)
	s.slow(t, job.Preflight) // admitted jobs wait there
	cmd, c := s.daemonProcess(t)
	var group sync.WaitGroup
	for part := range 8 {
		group.Go(func() {
			for i := part; i < manyJobs; i += 8 {
				if _, _, err := c.Submit(t.Context(), job.Spec{VM: fmt.Sprintf("vm-%d", i)},
					rest.SubmitOptions{}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	all, err := c.Jobs(t.Context(), rest.ListOptions{})
	if err != nil || len(all) != manyJobs {
		t.Fatalf("%d jobs, %v", len(all), err)
	}
	var took []time.Duration
	for i := range 200 {
		began := time.Now()
		if _, err := c.Job(t.Context(), all[i%len(all)].JobID); err != nil {
			t.Fatal(err)
		}
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	t.Logf("GET: median %v, p99 %v; %d MiB in memory at most", took[100], took[198], memory(t, cmd.Process.Pid)>>20)
	if took[198] > 250*time.Millisecond {
		t.Errorf("one of a hundred answers takes %v", took[198])
	}
	if n := memory(t, cmd.Process.Pid); n > 512<<20 {
		t.Errorf("the daemon takes %d MiB", n>>20)
	}
	endsWell(t, cmd)
}

// hundredJobs fills the journal with cancelled jobs. They are accepted because the vCenter is away.
func (s *site) hundredJobs(tb testing.TB) {
	tb.Helper()
	away := s.cfg
	away.VCenter.URL = "https://127.0.0.1:1"
	d, err := app.Start(tb.Context(), away, slog.New(slog.DiscardHandler), "test")
	if err != nil {
		tb.Fatal(err)
	}
	defer stop(tb, d)
	c := client(tb, d.URL())
	for i := range 100 {
		r, _, err := c.Submit(tb.Context(), job.Spec{VM: fmt.Sprintf("gone-%d", i)}, rest.SubmitOptions{})
		if err != nil {
			tb.Fatal(err)
		}
		if err := c.Command(tb.Context(), r.JobID, job.Cancel); err != nil {
			tb.Fatal(err)
		}
		until(tb, c, r.JobID, terminal)
	}
}

func TestAKilledDaemonCopiesAgainSoonThoughItsJournalIsLong(t *testing.T) {
	if testing.Short() {
		t.Skip("long: make it runs it")
	}
	need(t, "nbdkit")
	s := newSite(t, 96)
	s.hundredJobs(t)
	cmd, c := s.daemonProcess(t)
	id := submit(t, c, job.Spec{Options: job.Options{Bandwidth: 8 << 20}})
	moving := func(r report.Report) bool {
		return terminal(r) || len(r.Disks) == 2 && r.Disks[1].Status == job.DiskRunning &&
			report.SpeedOr0(r.Disks[1].BytesPerSecond) > 0 && r.Disks[1].BytesTransferred > 4<<20
	}
	if r := until(t, c, id, moving); terminal(r) {
		t.Fatalf("the job ended too early: %s %+v", r.Status, r.Error)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // says that it was killed
	began := time.Now()
	cmd, c = s.daemonProcess(t)
	r := until(t, c, id, moving)
	took := time.Since(began)
	t.Logf("copies again %v after its start", took)
	if terminal(r) || took > raceSlack*3*time.Second {
		t.Errorf("it took %v until the job was %s again", took, r.Status)
	}
	if all, err := c.Jobs(t.Context(), rest.ListOptions{}); err != nil || len(all) != 101 {
		t.Errorf("%d jobs, %v", len(all), err)
	}
	endsWell(t, cmd)
}

func TestFewFileDescriptorsFailRequestsAndNotTheDaemon(t *testing.T) {
	if testing.Short() {
		t.Skip("long: make it runs it")
	}
	need(t, "nbdkit", "prlimit")
	s := newSite(t, 24)
	cmd, c := s.daemonProcess(t)
	id := submit(t, c, job.Spec{Options: job.Options{Bandwidth: 8 << 20}})
	until(t, c, id, func(r report.Report) bool { return terminal(r) || r.BytesTransferred > 0 })
	pid := "--pid=" + strconv.Itoa(cmd.Process.Pid)
	run(t, "prlimit", pid, "--nofile=3:") // fewer than are open: no new one can be opened
	fresh := client(t, s.url)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	if _, err := fresh.System(ctx); err == nil {
		t.Log("a new connection was served")
	}
	cancel()
	run(t, "prlimit", pid, "--nofile=1024:")
	if err := c.Limit(t.Context(), id, 0); err != nil {
		t.Error(err)
	}
	s.equal(t, until(t, c, id, terminal))
	endsWell(t, cmd)
}
