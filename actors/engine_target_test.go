package actors_test

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
)

// differs finds the first MiB in which a file differs from a disk as it is now; -1 for none.
func (s *site) differs(path string, disk job.DiskID) int64 {
	s.t.Helper()
	live, err := s.vc.FrozenReader("web", "", disk)
	if err != nil {
		s.t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	want, got := make([]byte, mib), make([]byte, mib)
	for off := int64(0); off < live.Size(); off += mib {
		n, err := live.ReadAt(want[:min(mib, live.Size()-off)], off)
		if err != nil && err != io.EOF {
			s.t.Fatal(err)
		}
		if m, err := f.ReadAt(got[:n], off); err != nil && err != io.EOF || !bytes.Equal(got[:m], want[:n]) {
			return off / mib
		}
	}
	return -1
}

func TestATargetThatIsFullOfOtherBytesEndsEqual(t *testing.T) {
	s := newSite(t)
	var targets []job.Target
	for _, disk := range []job.DiskID{"disk-2000", "disk-2001"} {
		path := filepath.Join(s.targets, string(disk))
		if err := os.WriteFile(path, bytes.Repeat([]byte{0xaa}, diskSize), 0o600); err != nil {
			t.Fatal(err)
		}
		targets = append(targets, job.Target{Disk: disk, URI: path})
	}
	_, _, err := s.node.Submit(t.Context(), job.Spec{
		VM: "web", Targets: targets, Options: job.Options{Verify: job.VerifyNone, Adopt: true},
	}, "", "", "")
	if err != nil {
		t.Fatal(err)
	}
	s.until("the end", func(r report.Report) bool { return r.Status == job.StatusCompleted })
	for _, target := range targets {
		if at := s.differs(target.URI, target.Disk); at >= 0 {
			t.Errorf("%s differs from its source at MiB %d", target.Disk, at)
		}
	}
}
