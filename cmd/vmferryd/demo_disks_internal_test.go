package main

import (
	"fmt"
	"os"
	"os/exec"
	"testing"
)

func TestFilesFitIntoDemoDisksOfEverySize(t *testing.T) {
	if testing.Short() {
		t.Skip("long: make it runs it")
	}
	mkfs, err := exec.LookPath("mkfs.ext4")
	if err != nil {
		mkfs = "/usr/sbin/mkfs.ext4"
	}
	if _, err := os.Stat(mkfs); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("mkfs.ext4 is not installed")
		}
		t.Skip("mkfs.ext4 is not installed")
	}
	for _, mib := range []int64{64, 65, 100, 127, 128, 129, 192, 250} {
		t.Run(fmt.Sprint(mib), func(t *testing.T) {
			d := demoDisks(t.TempDir(), 2, mib<<20)[1] // the dense one
			if err := d.make(t.Context(), mkfs); err != nil {
				t.Fatal(err)
			}
			if writes, err := d.guestWrites(t.Context()); err != nil || len(writes) == 0 {
				t.Errorf("the guest has nowhere to write: %v", err)
			}
		})
	}
}
