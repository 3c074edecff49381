package nbd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vmferry/vmferry/job"
)

// QEMU tells other programs what it does with an image by locks on single bytes of it: 100 and up for what it does,
// 200 and up for what no other program may do meanwhile. A lock is a shared one, and who sets one then looks for the
// locks that contradict it. So a lock of ours keeps QEMU away only if QEMU looks for it. The bytes need not exist.
const (
	lockReads     = 100
	lockWrites    = 101
	lockResizes   = 103
	lockNoWriting = 201
	lockNoSizes   = 203
)

// LockWriter says to QEMU, and to all who keep its locks, that an image or a disk is written to and that no other
// program may write to it, and refuses one that such a program writes to or does not let others write to. QEMU can
// still read it where it does not mind that bytes change. f may be open for reading only. The locks go with the last
// descriptor of f's open file description, or by Unlock; a second call for f is no harm. A file system without such
// locks is no error. Errors: Conflict, which errors.Is finds as EWOULDBLOCK, if another program has the file; then f
// has no lock.
func LockWriter(f *os.File) error {
	return lockBytes(f, []int64{lockReads, lockWrites, lockNoWriting, lockNoSizes},
		[]int64{lockWrites, lockResizes, lockNoWriting, lockNoSizes})
}

// LockReader says likewise that an image or a disk is read and must not be written to meanwhile, and refuses one that
// is open for writing. Others can read it, too. Errors are those of LockWriter.
func LockReader(f *os.File) error {
	return lockBytes(f, []int64{lockReads, lockNoWriting}, []int64{lockWrites})
}

// Unlock drops the locks of LockWriter and LockReader at once: the last descriptor of f can be in a child that this
// process is just forking.
func Unlock(f *os.File) error {
	for _, at := range []int64{lockReads, lockWrites, lockNoWriting, lockNoSizes} {
		if _, err := lockByte(f, unix.F_OFD_SETLK, unix.F_UNLCK, at); err != nil && !withoutLocks(err) {
			return fmt.Errorf("unlock %s: %w", f.Name(), err)
		}
	}
	return nil
}

// lockBytes takes the locks of some bytes, and then looks for locks of others. The other way around, two programs could
// both find nothing.
func lockBytes(f *os.File, take, probe []int64) error {
	err := takeBytes(f, take)
	if err == nil {
		err = probeBytes(f, probe)
	}
	if err == nil || withoutLocks(err) {
		return nil
	}
	return errors.Join(err, Unlock(f))
}

func takeBytes(f *os.File, take []int64) error {
	for _, at := range take {
		_, err := lockByte(f, unix.F_OFD_SETLK, unix.F_RDLCK, at)
		switch {
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EACCES):
			return locked(f, at)
		case err != nil:
			return fmt.Errorf("lock %s: %w", f.Name(), err)
		}
	}
	return nil
}

func probeBytes(f *os.File, probe []int64) error {
	for _, at := range probe {
		free, err := lockByte(f, unix.F_OFD_GETLK, unix.F_WRLCK, at)
		switch {
		case err != nil:
			return fmt.Errorf("look for locks of %s: %w", f.Name(), err)
		case !free:
			return locked(f, at)
		}
	}
	return nil
}

// lockByte sets or clears the lock of one byte, or asks whether a lock would be free.
func lockByte(f *os.File, cmd int, kind int16, at int64) (free bool, err error) {
	for {
		l := unix.Flock_t{Type: kind, Start: at, Len: 1}
		if err := unix.FcntlFlock(f.Fd(), cmd, &l); !errors.Is(err, unix.EINTR) {
			return l.Type == unix.F_UNLCK, err
		}
	}
}

// withoutLocks says whether the file system, or its server, has no such locks.
func withoutLocks(err error) bool {
	return slices.ContainsFunc([]error{unix.ENOLCK, unix.EOPNOTSUPP, unix.EINVAL, unix.ENOSYS},
		func(e error) bool { return errors.Is(err, e) })
}

func locked(f *os.File, at int64) error {
	what := "open, and lets no other program write to it"
	if at == lockWrites || at == lockResizes {
		what = "open for writing"
	}
	return job.Errorf("lock "+f.Name(), job.Conflict, "Shut down the VM, the qemu-nbd or the copy that has it open",
		"QEMU, or another program that keeps QEMU's locks, has it %s: %w", what, unix.EWOULDBLOCK)
}

// lockPatiently is LockReader, tried for a moment: a program that has just ended can still have its locks.
func lockPatiently(ctx context.Context, f *os.File) error {
	for began := time.Now(); ; {
		err := LockReader(f)
		if !errors.Is(err, unix.EWOULDBLOCK) || time.Since(began) > usePatience {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(usePause):
		}
	}
}
