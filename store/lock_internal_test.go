package store

import (
	"testing"

	"golang.org/x/sys/unix"
)

func TestADirectoryThatWasUnlockedIsFreeAlsoWhileAChildHasTheFile(t *testing.T) {
	dir := t.TempDir()
	f, err := lockDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	child, err := unix.Dup(int(f.Fd())) // as a child process has it until it runs its program
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(child) }()
	if err := unlock(f); err != nil {
		t.Fatal(err)
	}
	again, err := lockDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := unlock(again); err != nil {
		t.Error(err)
	}
}
