package volumes

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/nbd"
)

const (
	lockPatience = 250 * time.Millisecond // for a target that another process has: one that ends needs a moment
	lockPause    = 20 * time.Millisecond
)

// patiently tries again for a moment what fails because another process has the target: a process that was killed lets
// go of it a little later than its parent hears of its end, and so does one that has just been forked.
func patiently(ctx context.Context, try func() error) error {
	for began := time.Now(); ; {
		err := try()
		if !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.EWOULDBLOCK) || time.Since(began) > lockPatience {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(lockPause):
		}
	}
}

// lock keeps a second transfer away from a file, and QEMU from writing to it. The kernel drops all locks with the last
// descriptor, so a crash leaves none.
func lock(f *os.File) error {
	err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return job.Errorf("lock "+f.Name(), job.Conflict, "Wait until the other transfer has ended, or cancel it",
			"another transfer writes to it: %w", err)
	}
	if err != nil {
		return fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	if err := nbd.LockWriter(f); err != nil {
		return errors.Join(err, unlock(f))
	}
	return nil
}

// unlock does not wait for the last descriptor: a child that this process is just forking has one for a moment.
func unlock(f *os.File) error {
	err := nbd.Unlock(f)
	if uerr := unix.Flock(int(f.Fd()), unix.LOCK_UN); uerr != nil {
		err = errors.Join(err, fmt.Errorf("unlock %s: %w", f.Name(), uerr))
	}
	return err
}
