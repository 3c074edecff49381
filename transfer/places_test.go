package transfer_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/nbd"
	"github.com/vmferry/vmferry/nbd/sim"
)

// TestAnotherDiskUnderTheURIOfATargetIsNoticed in an incremental round, whatever the round moves.
func TestAnotherDiskUnderTheURIOfATargetIsNoticed(t *testing.T) {
	for name, tc := range map[string]struct {
		changed job.Extents
		verify  job.VerifyMode
	}{
		"nothing changed":          {nil, job.VerifyFull},
		"a MiB changed":            {job.Extents{{Offset: 12 * roomMiB, Length: roomMiB}}, job.VerifyFull},
		"a MiB changed, by sample": {job.Extents{{Offset: 12 * roomMiB, Length: roomMiB}}, job.VerifySample},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRoom(t)
			r.freeze("snapshot-1", 0)
			r.freeze("snapshot-2", 1)
			r.changed[[2]string{"snapshot-2", "52/1"}] = tc.changed
			for disk, kind := range map[string]job.Kind{"snapshot-2": "", "snapshot-1": job.Corrupt} {
				task := r.task("snapshot-2")
				task.Disk.Target, task.Disk.Mode, task.Disk.Zero = r.serve(disk), job.Incremental, false
				task.Since, task.Disk.TargetIdentity = "52/1", disk
				_, err := r.run(task)
				r.check(err)
				task.Verify = tc.verify
				if _, err := r.run(task); job.KindOf(err) != kind {
					t.Errorf("%s is served: %v", disk, err)
				}
			}
		})
	}
}

// serve serves a copy of a frozen disk as the target, and gives its URI.
func (r *room) serve(disk string) string {
	r.t.Helper()
	b, err := os.ReadFile(r.path(disk))
	r.check(err)
	m := sim.NewMemory(roomSize)
	_, err = m.WriteAt(b, 0)
	r.check(err)
	dir, err := os.MkdirTemp("", "tgt")
	r.check(err)
	s, err := sim.Start(r.t.Context(), sim.Options{Backend: m, Listen: filepath.Join(dir, "s")})
	r.check(err)
	r.t.Cleanup(func() { r.check(s.Close()); r.check(os.RemoveAll(dir)) })
	r.target, err = nbd.ExportTarget(s.URI(), nbd.TLS{})
	r.check(err)
	return s.URI()
}
