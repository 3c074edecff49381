package nbd_test

import (
	"context"
	"syscall"
	"testing"
	"time"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/nbd"
	"github.com/vmferry/vmferry/volumes/copytest"
)

// silentSide waits until the meter says that a side does not answer, and names it.
func silentSide(t *testing.T, m *nbd.Meter, most time.Duration) string {
	t.Helper()
	for tick := time.NewTicker(20 * time.Millisecond); ; <-tick.C {
		source, target := m.Silence()
		switch {
		case source > most && target > most:
			return "both"
		case source > most:
			return "source"
		case target > most:
			return "target"
		case t.Context().Err() != nil:
			t.Fatal("no side is silent")
		}
	}
}

func TestTheMeterNamesTheSideThatDoesNotAnswer(t *testing.T) {
	if testing.Short() {
		t.Skip("long: make it runs it")
	}
	const size = 32 * mib
	src := image(t, disk(size, dense))
	for _, side := range []string{"source", "target"} {
		t.Run(side, func(t *testing.T) {
			hanging := slow(t, src)
			task := nbd.Task{Source: hanging.uri, Target: copytest.Onto(kit(t, "memory", "32M").uri)}
			if side == "target" {
				hanging = kit(t, "--filter=rate", "memory", "32M", "rate=512M", "burstiness=0.1")
				task.Source, task.Target = src, copytest.Onto(hanging.uri)
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			m, over := &nbd.Meter{}, make(chan error, 1)
			go func() {
				_, err := copytest.Copy(ctx, task, m)
				over <- err
			}()
			await(t, "bytes move", func() bool { return m.Counters().Transferred > mib })
			if source, target := m.Silence(); source > 5*time.Second || target > 5*time.Second {
				t.Errorf("silent for %v and %v while bytes move", source, target)
			}
			began := time.Now()
			check(t, hanging.cmd.Process.Signal(syscall.SIGSTOP))
			if got := silentSide(t, m, 2*time.Second); got != side {
				t.Errorf("the %s is silent, want the %s", got, side)
			}
			source, target := m.Silence()
			if d := max(source, target); d > time.Since(began)+time.Second {
				t.Errorf("silent for %v, and it hangs since %v", d, time.Since(began))
			}
			check(t, hanging.cmd.Process.Signal(syscall.SIGCONT))
			if err := <-over; err != nil {
				t.Errorf("after it answered: %v", err)
			}
			if source, target := m.Silence(); source != 0 || target != 0 {
				t.Errorf("silent for %v and %v after the end", source, target)
			}
			if c := m.Counters(); c.Elapsed <= 0 || m.Counters().Elapsed != c.Elapsed {
				t.Errorf("it took %v, and the time goes on", c.Elapsed)
			}
		})
	}
}

func TestTheMeterNamesASideThatAcceptsNoConnection(t *testing.T) {
	server := kit(t, "-r", "memory", "1M")
	check(t, server.cmd.Process.Signal(syscall.SIGSTOP))
	for side, task := range map[string]nbd.Task{
		"source": {Source: server.uri, Target: copytest.Onto("null:")},
		"target": {Source: kit(t, "-r", "memory", "1M").uri, Target: copytest.Onto(server.uri)},
	} {
		t.Run(side, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			m, over := &nbd.Meter{}, make(chan struct{})
			go func() {
				defer close(over)
				_, _ = copytest.Copy(ctx, task, m)
			}()
			if got := silentSide(t, m, 100*time.Millisecond); got != side {
				t.Errorf("the %s is silent, want the %s", got, side)
			}
			cancel()
			<-over
		})
	}
}

func TestTheMeterOfAVerificationNamesTheTarget(t *testing.T) {
	src := image(t, disk(32*mib, dense))
	target := slow(t, src)
	m, over := &nbd.Meter{}, make(chan error, 1)
	go func() {
		_, err := copytest.Verify(t.Context(), nbd.VerifyTask{
			Source: src, Target: copytest.Onto(target.uri), Mode: job.VerifyFull,
		}, m)
		over <- err
	}()
	await(t, "it compares", func() bool { return m.Counters().Verified > mib })
	check(t, target.cmd.Process.Signal(syscall.SIGSTOP))
	if got := silentSide(t, m, 2*time.Second); got != "target" {
		t.Errorf("the %s is silent", got)
	}
	check(t, target.cmd.Process.Signal(syscall.SIGCONT))
	if err := <-over; err != nil {
		t.Error(err)
	}
}
