package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/vmferry/vmferry/child"
)

// snapshotTime is how long a snapshot may outlive its job after the last kill.
const snapshotTime = 120 * time.Second

// settled waits until the VM has no snapshot. Everything still runs.
func (s *soak) settled(ctx context.Context) {
	n := 0
	err := child.Until(ctx, pollEvery, snapshotTime, "no snapshot is left", func() bool {
		var err error
		n, err = s.stack.snapshots(ctx)
		return err == nil && n == 0
	})
	if err != nil {
		s.orphan("%d snapshots: %v", n, err)
	}
}

// leftovers looks for what should be gone after everything has ended: files, sockets, processes.
func (s *soak) leftovers(_ context.Context) error {
	for _, folder := range []string{"s/run", "s/checkpoints"} {
		entries, err := os.ReadDir(filepath.Join(s.dir, folder))
		if err != nil && !os.IsNotExist(err) {
			return err
		}
		for _, e := range entries {
			s.orphan("%s/%s", folder, e.Name())
		}
	}
	for _, pattern := range []string{"*.sock", "s/*.tmp", "t/*.tmp"} {
		found, err := filepath.Glob(filepath.Join(s.dir, pattern))
		if err != nil {
			return err
		}
		for _, f := range found {
			if !strings.HasSuffix(f, "file.sock") { // nbdkit does not remove its socket
				s.orphan("%s", f)
			}
		}
	}
	return s.processes()
}

// processes finds processes that have our folder in their arguments.
func (s *soak) processes() error {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return err
	}
	for _, d := range dirs {
		pid, err := strconv.Atoi(filepath.Base(d))
		line, rerr := os.ReadFile(filepath.Join(d, "cmdline"))
		if err != nil || rerr != nil || pid == os.Getpid() || !bytes.Contains(line, []byte(s.dir)) {
			continue
		}
		s.orphan("process %d: %s", pid, strings.ReplaceAll(string(line), "\x00", " "))
	}
	return nil
}

func (s *soak) orphan(format string, args ...any) {
	s.results.orphans++
	say("LEFT OVER: "+format, args...)
}
