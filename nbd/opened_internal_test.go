package nbd

import (
	"os"
	"testing"
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
