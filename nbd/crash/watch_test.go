package crash_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/vmferry/vmferry/job"
)

// folder is a folder with a checkpoint, and what inotify reports of it.
type folder struct {
	tb   testing.TB
	path string
	fd   int
	seen folderEvents
}

// folderEvents counts the checkpoints that were begun beside the old one, moved to its place, and removed.
type folderEvents struct{ made, moved, removed int }

// watch watches a folder that holds one checkpoint and nothing else.
func watch(tb testing.TB, path string) *folder {
	tb.Helper()
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	check(tb, err)
	tb.Cleanup(func() { unix.Close(fd) })
	_, err = unix.InotifyAddWatch(fd, path, unix.IN_CREATE|unix.IN_MOVED_TO|unix.IN_DELETE)
	check(tb, err)
	return &folder{tb: tb, path: path, fd: fd}
}

// look reads the events since the last look, and returns the counts.
func (f *folder) look() folderEvents {
	f.tb.Helper()
	buf := make([]byte, 64*kib)
	for {
		n, err := unix.Read(f.fd, buf)
		if errors.Is(err, unix.EAGAIN) {
			return f.seen
		}
		check(f.tb, err)
		for at := 0; at+unix.SizeofInotifyEvent <= n; {
			e := (*unix.InotifyEvent)(unsafe.Pointer(&buf[at]))
			at += unix.SizeofInotifyEvent
			name := string(bytes.TrimRight(buf[at:at+int(e.Len)], "\x00"))
			at += int(e.Len)
			f.count(e.Mask, name)
		}
	}
}

func (f *folder) count(mask uint32, name string) {
	beside := strings.HasSuffix(name, ".tmp")
	switch {
	case mask&unix.IN_CREATE != 0:
		f.seen.made++
	case mask&unix.IN_MOVED_TO != 0:
		f.seen.moved++
	case mask&unix.IN_DELETE != 0 && !beside:
		f.seen.removed++
	}
}

// allocated are the ranges of a file that are not holes.
func allocated(tb testing.TB, path string) job.Extents {
	tb.Helper()
	f, err := os.Open(path)
	check(tb, err)
	defer f.Close()
	var out job.Extents
	for at := int64(0); ; {
		data, err := unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return out.Merge(0)
		}
		check(tb, err)
		at, err = unix.Seek(int(f.Fd()), data, unix.SEEK_HOLE)
		check(tb, err)
		out = append(out, job.Extent{Offset: data, Length: at - data})
	}
}

// leftovers are the files in a folder but those in but.
func leftovers(tb testing.TB, dir string, but ...string) (names []string) {
	tb.Helper()
	entries, err := os.ReadDir(dir)
	check(tb, err)
	for _, e := range entries {
		names = append(names, e.Name())
	}
	for _, b := range but {
		for i, n := range names {
			if n == filepath.Base(b) {
				names = append(names[:i], names[i+1:]...)
				break
			}
		}
	}
	return names
}
