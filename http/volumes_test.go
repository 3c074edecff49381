package http_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vmferry/vmferry/http/rest"
	"github.com/vmferry/vmferry/job"
)

func TestAClientListsVolumesAndReleasesThoseThatNoJobUses(t *testing.T) {
	w := newWorld()
	_, s := w.server(t)
	c, ctx := client(t, s.URL), t.Context()
	if list, err := c.Volumes(ctx); err != nil || list == nil || len(list) != 0 {
		t.Errorf("without jobs: %v %v", list, err)
	}
	w.running(t, "job-web")
	w.claim("job-web")
	list, err := c.Volumes(ctx)
	if err != nil || len(list) != 2 {
		t.Fatalf("got %+v %v", list, err)
	}
	d := w.builders["job-web"].State().Disks[0]
	want := rest.Volume{
		ID: d.Volume, Target: d.Target, VMName: "/DC0/vm/web", VMUUID: webVM().UUID, VCenter: list[0].VCenter,
		Disk: "disk-2000", Job: "job-web", InUse: true, MadeByJob: "job-web", Generation: 1, Size: 4 * gib,
		ClaimedAt: w.now,
	}
	if diff := cmp.Diff(want, list[0]); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	err = c.ReleaseVolume(ctx, d.Volume)
	if job.KindOf(err) != job.Conflict || job.NextOf(err) != "Wait for job job-web to end, or cancel it" {
		t.Errorf("release of a volume in use: %v (%s)", err, job.NextOf(err))
	}
	for _, id := range []string{"none", "a/b", "..", "%2e"} {
		if err := c.ReleaseVolume(ctx, id); job.KindOf(err) != job.NotFound {
			t.Errorf("release of %q: %v", id, err)
		}
	}
	if err := c.Command(ctx, "job-web", job.Cancel); err != nil {
		t.Fatal(err)
	}
	if err := w.apply(ctx, "job-web", // both disks stop, and the snapshot is removed
		job.AttemptFailed{Disk: "disk-2000", Attempt: 1, Kind: job.Cancelled},
		job.AttemptFailed{Disk: "disk-2001", Attempt: 1, Kind: job.Cancelled}, job.SnapshotGone{}); err != nil {
		t.Fatal(err)
	}
	if err := c.ReleaseVolume(ctx, d.Volume); err != nil {
		t.Error(err)
	}
	if list, err = c.Volumes(ctx); err != nil || list[0].InUse || list[0].ReleasedAt == nil {
		t.Errorf("after the release: %+v %v", list, err)
	}
}
