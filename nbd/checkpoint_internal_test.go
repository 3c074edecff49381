package nbd

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vmferry/vmferry/job"
)

// The identity is written out here as earlier versions made it, so that a change of ours is seen.
func TestACheckpointOfAnEarlierVersionOfFilesIsGoodAndOneOfAnExportSaysWhyNot(t *testing.T) {
	source := filepath.Join(t.TempDir(), "source")
	want := []byte(strings.Repeat("some bytes of a disk, which are no zeros", 3<<20/40))
	if err := os.WriteFile(source, want, 0o600); err != nil {
		t.Fatal(err)
	}
	from, err := os.Open(source)
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	src, size, err := IdentifyFile(from)
	if err != nil {
		t.Fatal(err)
	}
	target := opened(t, filepath.Join(t.TempDir(), "target"), size)
	if _, err := target.file.WriteAt(want[:1<<20], 0); err != nil {
		t.Fatal(err)
	}
	dst, _, err := IdentifyFile(target.file)
	if err != nil {
		t.Fatal(err)
	}
	old := checkpoint{identity: src + " " + StampFile(from) + " > " + dst, plan: fingerprint(Task{}), capacity: size}
	old.done, old.transferred, old.sent = job.Extents{{Offset: 0, Length: 1 << 20}}, 1<<20, 1<<20
	old.digests = newDigests(size)
	old.digests.add(old.digests.sums(0, want[:1<<20]))
	path := filepath.Join(t.TempDir(), "checkpoint")
	if err := old.save(path); err != nil {
		t.Fatal(err)
	}
	r, err := Copy(t.Context(), Task{Source: source, Target: target, Checkpoint: path}, &Meter{})
	if err != nil || r.Resumed != 1<<20 {
		t.Errorf("resumed %d bytes: %v", r.Resumed, err)
	}
	if err := target.Close(); err != nil {
		t.Error(err)
	}

	now := old
	old.identity, now.identity = "/srv/a.raw dev=1 inode=2 > ", "/srv/a.raw dev=1 inode=2 > nbd://host:10809/a"
	if err := old.fits(now); job.KindOf(err) != job.Conflict || !strings.Contains(err.Error(), "earlier version") {
		t.Error(err)
	}
	old.identity = "/srv/b.raw dev=1 inode=3 > "
	if err := old.fits(now); job.KindOf(err) != job.Conflict || strings.Contains(err.Error(), "earlier version") {
		t.Error(err)
	}
}
