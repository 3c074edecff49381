package volumes_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/volumes"
)

func TestAFileThatIsTooLargeForItsFileSystemIsNoLackOfRoom(t *testing.T) {
	const size = 1 << 60 // more than ext4 takes, and less than the kernel
	path := filepath.Join(t.TempDir(), "large")
	err := volumes.Create(path, size)
	if err == nil {
		t.Skip("this file system takes files of any size")
	}
	if job.KindOf(err) != job.Invalid || !strings.Contains(job.NextOf(err), "another file system") ||
		!strings.Contains(err.Error(), "the file system of "+filepath.Dir(path)) {
		t.Errorf("error of kind %s, next step %q: %v", job.KindOf(err), job.NextOf(err), err)
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("the empty file was left")
	}
}
