package store

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vmferry/vmferry/job"
)

// lockDir locks the state directory for this process, until unlock is called or the process ends. The lock file is
// never removed: otherwise two processes could lock two files of the same name.
func lockDir(dir string) (*os.File, error) {
	const op = "lock state directory"
	path := filepath.Join(dir, lockFile)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fileFailure(op, err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		holder := readHolder(f)
		return nil, errors.Join(job.Errorf(op, job.Conflict,
			"Stop the other vmferry, or give this one another state_dir",
			"%s is in use by %s", dir, holder), f.Close())
	}
	if err == nil {
		err = writeHolder(f)
	}
	if err != nil {
		return nil, errors.Join(fileFailure(op, fmt.Errorf("%s: %w", path, err)), f.Close())
	}
	return f, nil
}

// unlock unlocks the state directory. Closing the file alone would leave it locked for a moment, if a child process is
// just being started: the child has the file until it runs its program.
func unlock(f *os.File) error {
	return errors.Join(unix.Flock(int(f.Fd()), unix.LOCK_UN), f.Close())
}

func writeHolder(f *os.File) error {
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err := f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	return err
}

func readHolder(f *os.File) string {
	text, err := io.ReadAll(io.LimitReader(f, 32))
	pid, bad := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || bad != nil {
		return "another process" // which has the lock and has not written its pid yet
	}
	return "process " + strconv.Itoa(pid)
}
