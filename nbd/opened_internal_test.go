package nbd

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/vmferry/vmferry/job"
)

// opened is an open target. If size is more than 0, a file of that size is made first.
func opened(t *testing.T, path string, size int64) *Target {
	t.Helper()
	flags := os.O_RDWR
	if size > 0 {
		flags |= os.O_CREATE | os.O_EXCL
	}
	f, err := os.OpenFile(path, flags, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	target, err := FileTarget(f, f.Close)
	if err != nil {
		t.Fatal(err)
	}
	if size > 0 {
		if err := f.Truncate(size); err != nil {
			t.Fatal(err)
		}
		target.Fresh()
	}
	return target
}

// copyTo copies a file to a target, and closes the target.
func copyTo(t *testing.T, source string, target *Target) error {
	t.Helper()
	_, err := Copy(t.Context(), Task{Source: source, Target: target}, &Meter{})
	if cerr := target.Close(); cerr != nil {
		t.Error(cerr)
	}
	return err
}

// deviceOf is a target opened for writing.
func deviceOf(t *testing.T, target *Target) *device {
	t.Helper()
	d, err := target.device(t.Context(), dialing{}, true)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// TestATargetTakesNoSecondCopyWhileTheFirstMayWrite: a device whose kernel does not answer stays open after its copy
// has ended. What it still writes must not land on a later copy.
func TestATargetTakesNoSecondCopyWhileTheFirstMayWrite(t *testing.T) {
	source := filepath.Join(t.TempDir(), "source")
	if err := os.WriteFile(source, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	target := opened(t, filepath.Join(t.TempDir(), "target"), 1<<20)
	hanging := deviceOf(t, target)
	if _, err := Copy(t.Context(), Task{Source: source, Target: target}, &Meter{}); job.KindOf(err) != job.Conflict {
		t.Errorf("a second copy began: %v", err)
	}
	if err := <-hanging.close(); err != nil {
		t.Fatal(err)
	}
	if err := copyTo(t, source, target); err != nil {
		t.Error(err)
	}
	if _, err := Copy(t.Context(), Task{Source: source, Target: target}, &Meter{}); job.KindOf(err) != job.Conflict {
		t.Errorf("a closed target was used: %v", err)
	}
}
