package nbd_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/time/rate"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/nbd"
	"github.com/vmferry/vmferry/nbd/sim"
	"github.com/vmferry/vmferry/volumes/copytest"
)

// slow is a source of about 64 MiB a second, so that there is time to break it.
func slow(t *testing.T, file string) *process {
	t.Helper()
	return kit(t, "-r", "--filter=rate", "file", file, "rate=512M", "burstiness=0.1")
}

func resumable(t *testing.T, target string) nbd.Task {
	t.Helper()
	return nbd.Task{
		Target: copytest.Onto(target), Checkpoint: filepath.Join(t.TempDir(), "checkpoint"), Identity: "disk of a test",
		CheckpointBytes: 8 * mib, CheckpointEvery: 50 * time.Millisecond,
	}
}

func TestAfterTheSourceIsKilledTheCopyGoesOnWhereItWas(t *testing.T) {
	for _, kind := range []string{"file", "nbd"} {
		t.Run("to "+kind, func(t *testing.T) {
			want := disk(48*mib, dense)
			clear(want[4*mib : 6*mib])
			src := image(t, want)
			to := dirty(t, len(want))
			task := resumable(t, to)
			if kind == "nbd" {
				task.Target = copytest.Onto(kit(t, "file", to).uri)
			}
			server := slow(t, src)
			task.Source = server.uri
			first, err := while(t, t.Context(), task, moved(20*mib), server.kill)
			wantKind(t, err, job.Unavailable)

			task.Source = kit(t, "-r", "file", src).uri
			second := mustCopy(t, task)
			same(t, content(t, to), want)
			if second.Resumed != first.Done() {
				t.Errorf("resumed %d bytes, the first attempt had done %d", second.Resumed, first.Done())
			}
			if second.ResumedSkipped != first.Skipped {
				t.Errorf("resumed %d skipped bytes, the first attempt had %d", second.ResumedSkipped, first.Skipped)
			}
			if _, err := os.Stat(task.Checkpoint); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("a finished copy left its checkpoint: %v", err)
			}
		})
	}
}

func TestAfterTheTargetIsKilledOnlyTheUnflushedIsCopiedAgain(t *testing.T) {
	want := disk(48*mib, dense)
	src := image(t, want)
	to := dirty(t, len(want))
	task := resumable(t, to)
	task.Source = slow(t, src).uri
	target := kit(t, "--filter=cache", "file", to, "cache=writeback")
	task.Target = copytest.Onto(target.uri)
	first, err := while(t, t.Context(), task, durable(8*mib), target.kill)
	wantKind(t, err, job.Unavailable)

	// The server's cache is lost with it, so the target lacks what was not flushed.
	task.Target = copytest.Onto(kit(t, "file", to).uri)
	second := mustCopy(t, task)
	same(t, content(t, to), want)
	if second.Resumed == 0 || second.Resumed > first.Done() {
		t.Errorf("resumed %d bytes of %d", second.Resumed, first.Done())
	}
	if second.Resent != first.Done()-second.Resumed {
		t.Errorf("resent %d bytes, resumed %d, the first attempt had done %d", second.Resent, second.Resumed,
			first.Done())
	}
}

func TestACancelledCopyEndsSoonAndCanGoOn(t *testing.T) {
	want := disk(32*mib, dense)
	src := image(t, want)
	for _, kind := range []string{"file", "nbd"} {
		t.Run("to "+kind, func(t *testing.T) {
			to := dirty(t, len(want))
			task := resumable(t, to)
			if kind == "nbd" {
				task.Target = copytest.Onto(kit(t, "file", to).uri)
			}
			server := slow(t, src)
			task.Source = server.uri
			ctx, cancel := context.WithCancel(t.Context())
			var at time.Time
			first, err := while(t, ctx, task, moved(10*mib), func() { at = time.Now(); cancel() })
			wantKind(t, err, job.Cancelled)
			if took := time.Since(at); took > 2*time.Second {
				t.Errorf("it took %v to end", took)
			}
			second := mustCopy(t, task) // the same server must still be there
			same(t, content(t, to), want)
			if second.Resumed != first.Done() {
				t.Errorf("resumed %d bytes of %d", second.Resumed, first.Done())
			}
		})
	}
}

func TestAServerThatHangsIsGivenUpAfterTheDeadline(t *testing.T) {
	want := disk(32*mib, dense)
	src := image(t, want)
	for _, side := range []string{"source", "target"} {
		t.Run(side, func(t *testing.T) {
			to := dirty(t, len(want))
			task := resumable(t, kit(t, "file", to).uri)
			hanging := slow(t, src)
			task.Source = hanging.uri
			if side == "target" {
				hanging = kit(t, "--filter=rate", "file", to, "rate=512M", "burstiness=0.1")
				task.Target = copytest.Onto(hanging.uri)
			}
			task.Deadline = 300 * time.Millisecond
			var at time.Time
			_, err := while(t, t.Context(), task, durable(1), func() {
				at = time.Now()
				check(t, hanging.cmd.Process.Signal(syscall.SIGSTOP))
			})
			wantKind(t, err, job.Timeout)
			if took := time.Since(at); took > 5*time.Second {
				t.Errorf("it took %v to give up", took)
			}
			check(t, hanging.cmd.Process.Signal(syscall.SIGCONT))
			task.Deadline = 0
			if r := mustCopy(t, task); r.Resumed == 0 {
				t.Error("nothing was resumed")
			}
			same(t, content(t, to), want)
		})
	}
}

func TestAServerThatNeverAnswersTheHandshakeIsGivenUp(t *testing.T) {
	server := kit(t, "-r", "memory", "1M")
	check(t, server.cmd.Process.Signal(syscall.SIGSTOP))
	_, err := copytest.Copy(t.Context(), nbd.Task{
		Source: server.uri, Target: copytest.Onto("null:"),
		Deadline: 200 * time.Millisecond,
	},
		&nbd.Meter{})
	wantKind(t, err, job.Timeout)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	began := time.Now()
	_, err = copytest.Copy(ctx, nbd.Task{Source: server.uri, Target: copytest.Onto("null:")}, &nbd.Meter{})
	wantKind(t, err, job.Timeout)
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("it took %v to end", took)
	}
}

// A server that restarts has no socket for a moment. The copy must not give up for that.
func TestAServerWithoutASocketIsUnavailableAndAnExportThatItDoesNotKnowIsNotFound(t *testing.T) {
	src := image(t, disk(mib, dense))
	gone := "nbd+unix:///?socket=" + filepath.Join(shortDir(t), "gone")
	_, err := copytest.Copy(t.Context(), nbd.Task{Source: src, Target: copytest.Onto(gone)}, new(nbd.Meter))
	wantKind(t, err, job.Unavailable)
	_, err = copytest.Verify(t.Context(), nbd.VerifyTask{
		Source: src, Target: copytest.Onto(gone),
		Mode: job.VerifySample,
	}, new(nbd.Meter))
	wantKind(t, err, job.Unavailable)

	other := qemu(t, image(t, disk(mib, dense)), "-x", "known")
	_, err = copytest.Copy(t.Context(), nbd.Task{Source: src, Target: copytest.Onto(other.uri)}, new(nbd.Meter))
	wantKind(t, err, job.NotFound)
}

func TestErrorsKeepTheirErrnoAndHaveAKind(t *testing.T) {
	want := disk(8*mib, dense)
	src := image(t, want)
	failing := func(t *testing.T, what, errno string, args ...string) string {
		t.Helper()
		return kit(t, append([]string{"--filter=error"},
			append(args, "error-"+what+"="+errno, "error-"+what+"-rate=50%")...)...).uri
	}
	tests := []struct {
		name, source, target string
		kind                 job.Kind
		errno                syscall.Errno
	}{
		{"EIO of the source", failing(t, "pread", "EIO", "-r", "file", src), "null:", job.IO, syscall.EIO},
		{"ENOSPC of the target", src, failing(t, "pwrite", "ENOSPC", "memory", "8M"), job.NoSpace, syscall.ENOSPC},
		{"EPERM of the target", src, failing(t, "pwrite", "EPERM", "memory", "8M"), job.Permission, syscall.EPERM},
		{"a device that is no disk", src, "/dev/full", job.Invalid, 0},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			// so many requests that one fails for certain
			_, err := copytest.Copy(t.Context(), nbd.Task{
				Source: tc.source, Target: copytest.Onto(tc.target),
				RequestSize: 64 << 10,
			},
				&nbd.Meter{})
			wantKind(t, err, tc.kind)
			if tc.errno != 0 {
				wantErrno(t, err, tc.errno)
			}
		})
	}
}

func TestAFailedFlushFailsTheCopyAndRecordsNothing(t *testing.T) {
	src := image(t, disk(8*mib, dense))
	task := resumable(t, "")
	task.Source = src
	task.Target = copytest.Onto(kit(t, "sh", script(t, `case "$1" in
		get_size) echo 8M;;
		pread) dd if=/dev/zero count=$3 iflag=count_bytes 2>/dev/null;;
		pwrite) cat >/dev/null;;
		can_write|can_flush) exit 0;;
		flush) echo EIO lost >&2; exit 1;;
		*) exit 2;;
		esac`)).uri)
	_, err := copytest.Copy(t.Context(), task, &nbd.Meter{})
	wantKind(t, err, job.IO)
	task.Target = copytest.Onto(dirty(t, 8*mib))
	task.Source = src
	if r := mustCopy(t, task); r.Resumed != 0 || r.Resent == 0 {
		t.Errorf("after a failed flush %d bytes were resumed, %d resent", r.Resumed, r.Resent)
	}
}

func script(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "plugin")
	check(t, os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o700))
	return path
}

func TestAFileTakesOneTransferAtATime(t *testing.T) {
	to := dirty(t, 32*mib)
	src := image(t, disk(32*mib, dense))
	_, err := while(t, t.Context(), nbd.Task{Source: slow(t, src).uri, Target: copytest.Onto(to)}, moved(mib), func() {
		_, err := copytest.Copy(t.Context(), nbd.Task{Source: src, Target: copytest.Onto(to)}, &nbd.Meter{})
		wantKind(t, err, job.Conflict)
	})
	check(t, err)
	mustCopy(t, nbd.Task{Source: src, Target: copytest.Onto(to)})
}

func TestTheBandwidthCanBeLimitedAndTheLimitChanged(t *testing.T) {
	src := image(t, disk(12*mib, dense))
	lim := rate.NewLimiter(4*mib, mib)
	began := time.Now()
	r, err := while(t, t.Context(), nbd.Task{
		Source: src, Target: copytest.Onto("null:"),
		Limiters: []*rate.Limiter{lim},
	},
		moved(4*mib), func() {
			if took := time.Since(began); took < 500*time.Millisecond {
				t.Errorf("4 MiB at 4 MiB/s took only %v", took)
			}
			lim.SetLimit(rate.Inf)
		})
	check(t, err)
	if took := time.Since(began); took > 2500*time.Millisecond {
		t.Errorf("it took %v although the limit was lifted", took)
	}
	if r.ThrottleWait < 300*time.Millisecond {
		t.Errorf("throttled for %v only", r.ThrottleWait)
	}
}

func TestTheLoadNamesTheSlowSide(t *testing.T) {
	src := image(t, disk(12*mib, dense))
	r := mustCopy(t, nbd.Task{
		Source: kit(t, "-r", "--filter=rate", "file", src, "rate=128M", "burstiness=0.1").uri,
		Target: copytest.Onto("null:"),
	})
	if r.SourceWait < r.Duration/2 || r.TargetWait > r.Duration/4 {
		t.Errorf("slow source: of %v waited %v for the source, %v for the target", r.Duration, r.SourceWait,
			r.TargetWait)
	}
	r = mustCopy(t, nbd.Task{Source: src, Target: copytest.Onto(kit(t, "--filter=rate", "memory", "12M", "rate=128M",
		"burstiness=0.1").uri)})
	if r.TargetWait < r.Duration/2 || r.SourceWait > r.Duration/4 {
		t.Errorf("slow target: of %v waited %v for the source, %v for the target", r.Duration, r.SourceWait,
			r.TargetWait)
	}
}

func TestAServerThatTakesOneConnectionIsContentWithOne(t *testing.T) {
	want := disk(8*mib, dense)
	src := kit(t, "-r", "--filter=limit", "file", image(t, want), "limit=1")
	task := nbd.Task{Source: src.uri, Target: copytest.Onto(blank(t, 8*mib)), Connections: 4}
	r := mustCopy(t, task)
	same(t, content(t, task.Target.Name()), want)
	if r.Threads != 1 {
		t.Errorf("%d connections", r.Threads)
	}
}

func TestAServerThatLeavesFurtherConnectionsWaitingIsContentWithFew(t *testing.T) {
	want := disk(8*mib, dense)
	src := rehearse(t, holding(t, want), sim.Options{}, "stall-greeting,after=2")
	task := nbd.Task{Source: src.URI(), Target: copytest.Onto(blank(t, 8*mib)), Deadline: time.Minute}
	r := mustCopy(t, task)
	same(t, content(t, task.Target.Name()), want)
	if r.Threads != 2 || r.Duration > task.Deadline/2 {
		t.Errorf("%d connections, in %v", r.Threads, r.Duration)
	}
}

func TestACopyThatMustBeRecordedHoldsAndFailsWhenItCannotBe(t *testing.T) {
	const size = 320 * mib // more than may wait for a record
	src := kit(t, "pattern", fmt.Sprint(size))
	dir := filepath.Join(t.TempDir(), "gone")
	task := nbd.Task{
		Source: src.uri, Target: copytest.Onto(kit(t, "null", fmt.Sprint(size)).uri),
		Checkpoint:      filepath.Join(dir, "checkpoint"),
		MustRecord:      true,
		CheckpointBytes: 8 * mib, CheckpointEvery: 50 * time.Millisecond, Deadline: time.Second, Reconnect: -1,
	}
	m := &nbd.Meter{}
	_, err := copytest.Copy(t.Context(), task, m)
	wantKind(t, err, job.NotFound)
	if done := m.Counters().Done(); done > 256*mib+32*mib || m.Counters().Durable > 0 {
		t.Errorf("%d bytes were copied, %d are called durable", done, m.Counters().Durable)
	}
	if !strings.Contains(err.Error(), "record what is durable") {
		t.Errorf("the error is %v", err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	mustCopy(t, task)
}
