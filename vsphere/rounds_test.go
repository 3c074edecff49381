package vsphere_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/vsphere"
	"github.com/vmferry/vmferry/vsphere/sim"
)

// reader reads a part of an exported disk.
type reader func(p []byte, off int64) error

// https reads as nbdkit's curl plugin would: with the export's own address and cookie.
func https(tb testing.TB, e job.Export) reader {
	tb.Helper()
	address := param(tb, e, "url").Value
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	tb.Cleanup(client.CloseIdleConnections)
	return func(p []byte, off int64) error {
		req, err := http.NewRequestWithContext(tb.Context(), http.MethodGet, address, http.NoBody)
		if err != nil {
			return err
		}
		req.Header.Set("Cookie", param(tb, e, "cookie").Secret.Reveal())
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", off, off+int64(len(p))-1))
		res, err := client.Do(req)
		if err != nil {
			return err
		}
		defer res.Body.Close()
		if res.StatusCode != http.StatusPartialContent {
			return fmt.Errorf("status %s", res.Status)
		}
		_, err = io.ReadFull(res.Body, p)
		return err
	}
}

func param(tb testing.TB, e job.Export, key string) job.Param {
	tb.Helper()
	i := slices.IndexFunc(e.Params, func(p job.Param) bool { return p.Key == key })
	if i < 0 {
		tb.Fatalf("the export has no %s", key)
	}
	return e.Params[i]
}

// round copies what changed since the last into target files, while the guest writes, and compares digests.
type round struct {
	v     *sim.VCenter
	c     *vsphere.Client
	vm    job.VM
	dir   string
	since map[job.DiskID]string
	count int
}

func (r *round) run(t *testing.T) (bytes int64) {
	t.Helper()
	r.count++
	name := fmt.Sprintf("vmferry-job-%d", r.count)
	snap := snapshot(t, r.c, r.vm, name)
	for _, d := range snap.Disks {
		want := imageDigest(t, r.v, "", d.ID)
		must(t, r.v.GuestScribble("web", d.ID, 5*mib+777, 300*kib, uint64(r.count)))
		must(t, r.v.GuestScribble("web", d.ID, d.Capacity-300, 300, uint64(r.count)))
		target := filepath.Join(r.dir, string(d.ID))
		n := r.copy(t, snap, d, target)
		bytes += n
		if got := fileDigest(t, target); got != want {
			t.Errorf("round %d of %s: %s, want %s", r.count, d.ID, got, want)
		}
		if frozen := imageDigest(t, r.v, snap.Ref, d.ID); frozen != want {
			t.Errorf("round %d of %s: what the snapshot froze changed under the guest's writes", r.count, d.ID)
		}
		r.since[d.ID] = d.ChangeID
	}
	live := map[job.DiskID]string{}
	for _, d := range snap.Disks {
		live[d.ID] = imageDigest(t, r.v, "", d.ID)
	}
	must(t, r.c.RemoveSnapshot(t.Context(), r.vm, held(snap)))
	for _, d := range snap.Disks {
		if got := imageDigest(t, r.v, "", d.ID); got != live[d.ID] {
			t.Errorf("round %d of %s: removing the snapshot changed the live state", r.count, d.ID)
		}
	}
	return bytes
}

func (r *round) copy(t *testing.T, snap job.VMSnapshot, d job.Disk, target string) (bytes int64) {
	t.Helper()
	since := r.since[d.ID]
	if since == "" {
		since = "*"
	}
	areas, err := r.c.ChangedAreas(t.Context(), r.vm, snap, d.ID, since)
	must(t, err)
	must(t, areas.Check(d.Capacity))
	e, err := r.c.Export(t.Context(), r.vm, snap, d.ID)
	must(t, err)
	read := https(t, e)
	f, err := os.OpenFile(target, os.O_RDWR|os.O_CREATE, 0o600)
	must(t, err)
	defer f.Close()
	must(t, f.Truncate(d.Capacity))
	for _, a := range areas {
		p := make([]byte, a.Length)
		must(t, read(p, a.Offset))
		_, err := f.WriteAt(p, a.Offset)
		must(t, err)
	}
	return areas.Sum()
}

func TestRoundsCopyExactlyWhatEachSnapshotFroze(t *testing.T) {
	for _, tc := range []struct {
		areas int
		empty bool
	}{{1, false}, {5, false}, {2000, false}, {1, true}, {5, true}, {2000, true}} {
		t.Run(fmt.Sprintf("pages of %d areas, empty pages %v", tc.areas, tc.empty), func(t *testing.T) {
			small := sim.VM{Name: "web", Disks: []string{
				image(t, 8*mib, 0, 3*mib+4096, 7*mib), image(t, 6*mib+512, 2*mib, 6*mib),
			}}
			v := vcenter(t, sim.Options{MaxAreas: tc.areas, VMs: []sim.VM{small}})
			if tc.empty {
				must(t, v.Inject(sim.Fault{Kind: sim.FaultEmptyPages, Count: -1}))
			}
			c, vm := tracked(t, v)
			r := &round{v: v, c: c, vm: vm, dir: t.TempDir(), since: map[job.DiskID]string{}}
			full := r.run(t)
			for i := range 12 {
				must(t, v.GuestWrite("web", "disk-2000", int64(i)*640*kib-int64(min(i, 1)*30),
					[]byte("changed by the guest, over a block's edge, now and then")))
			}
			first := r.run(t)
			second := r.run(t)
			if full < 500*kib || first < 12*64*kib || first > 3*mib || second >= first || second == 0 {
				t.Errorf("rounds moved %d, %d and %d bytes", full, first, second)
			}
			if got := snapshotNames(t, v); len(got) > 0 {
				t.Errorf("snapshots are left: %v", got)
			}
		})
	}
}

func TestAResetMakesChangeIDsInvalid(t *testing.T) {
	v := vcenter(t, sim.Options{})
	c, vm := tracked(t, v)
	s := snapshot(t, c, vm, "vmferry-job-1")
	must(t, c.RemoveSnapshot(t.Context(), vm, held(s)))
	must(t, v.ResetCBT("web"))
	s2 := snapshot(t, c, vm, "vmferry-job-2")
	_, err := c.ChangedAreas(t.Context(), vm, s2, "disk-2000", s.Disks[0].ChangeID)
	wantKind(t, err, job.CBTInvalid, "Copy the disk in full")
	if _, err := c.ChangedAreas(t.Context(), vm, s2, "disk-2000", "*"); err != nil {
		t.Errorf("the allocated areas are still known, but: %v", err)
	}
	_, err = c.ChangedAreas(t.Context(), vm, s2, "disk-2000", "no change ID at all")
	wantKind(t, err, job.CBTInvalid)
	_, err = c.ChangedAreas(t.Context(), vm, s2, "disk-2000", "")
	wantKind(t, err, job.Invalid)
	_, err = c.ChangedAreas(t.Context(), vm, s2, "disk-2009", "*")
	wantKind(t, err, job.NotFound)
}

func TestAnswersThatAreNotAboutTrackingNeverAskForAFullRound(t *testing.T) {
	v := vcenter(t, sim.Options{})
	c, vm := tracked(t, v)
	s := snapshot(t, c, vm, "vmferry-job-1")
	for _, tc := range []struct {
		fault sim.Fault
		kind  job.Kind
	}{
		{sim.Fault{Kind: sim.FaultStatus, Status: http.StatusServiceUnavailable}, job.Unavailable},
		{sim.Fault{Kind: sim.FaultCall, Op: "QueryChangedDiskAreas", Fault: "NoPermission"}, job.Permission},
		{sim.Fault{Kind: sim.FaultCall, Op: "QueryChangedDiskAreas", Fault: "HostCommunication"}, job.Unavailable},
		{sim.Fault{Kind: sim.FaultAnswerLost, Op: "QueryChangedDiskAreas"}, job.Unavailable},
	} {
		must(t, v.Inject(tc.fault))
		_, err := c.ChangedAreas(t.Context(), vm, s, "disk-2000", "*")
		wantKind(t, err, tc.kind)
	}
	must(t, v.Inject(sim.Fault{Kind: sim.FaultCall, Op: "QueryChangedDiskAreas", Fault: "NotAuthenticated"}))
	if _, err := c.ChangedAreas(t.Context(), vm, s, "disk-2000", "*"); err != nil {
		t.Errorf("a call refused once for its session is run again, but: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := c.ChangedAreas(ctx, vm, s, "disk-2000", "*")
	wantKind(t, err, job.Cancelled)
}
