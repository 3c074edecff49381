package app

import (
	"os"
	"path/filepath"

	"github.com/vmferry/vmferry/job"
)

// folders are the paths of a state directory.
type folders struct {
	state, run, checkpoints, speeds string
}

// makeFolders makes the state directory and its folders, with mode 0700; the folder of targets gets 0750. It removes
// what a killed daemon has left in run (sockets, secrets). The caller has the journal open, so no other daemon uses
// these files.
func makeFolders(cfg Config) (folders, error) {
	f := folders{
		state: cfg.StateDir, run: filepath.Join(cfg.StateDir, "run"),
		checkpoints: filepath.Join(cfg.StateDir, "checkpoints"), speeds: filepath.Join(cfg.StateDir, "speeds"),
	}
	const next = "Set state_dir to a folder that the user of vmferry may write to"
	if err := os.RemoveAll(f.run); err != nil {
		return f, job.SystemError("remove what an earlier daemon left", next, err)
	}
	for _, dir := range []string{f.run, f.checkpoints} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return f, job.SystemError("make the state directory", next, err)
		}
	}
	if own := filepath.Join(cfg.StateDir, "targets"); cfg.Targets.Roots[0] == own {
		if err := os.MkdirAll(own, 0o750); err != nil {
			return f, job.SystemError("make the folder for targets", next, err)
		}
	}
	return f, nil
}
