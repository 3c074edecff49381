package app_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vmferry/vmferry/app"
	"github.com/vmferry/vmferry/http/rest"
	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
	"github.com/vmferry/vmferry/store/history"
	"github.com/vmferry/vmferry/vsphere/sim"
)

// omaConfig is the configuration of an OMA with these nodes.
func omaConfig(tb testing.TB, nodes ...app.Node) app.Config {
	tb.Helper()
	cfg := app.DefaultConfig()
	cfg.Role, cfg.Listen, cfg.StateDir = app.OMA, "127.0.0.1:0", filepath.Join(tb.TempDir(), "oma")
	cfg.Targets.Roots = []string{filepath.Join(cfg.StateDir, "targets")}
	cfg.Nodes = nodes
	return cfg
}

// shows waits until a daemon shows a job as wanted, and returns its report.
func shows(tb testing.TB, c *rest.Client, id job.ID, why string, want func(report.Report) bool) report.Report {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), 90*time.Second)
	defer cancel()
	var last report.Report
	err := c.Watch(ctx, "", func(r report.Report) error {
		if last = r; want(r) {
			return io.EOF
		}
		return nil
	}, id)
	if !errors.Is(err, io.EOF) {
		text, _ := json.Marshal(last)
		tb.Fatalf("%s: %v; last seen: %s", why, err, text)
	}
	return last
}

func running(r report.Report) bool {
	return r.Status == job.Running && r.BytesTransferred > 0
}

// TestAnOMAShowsAndCommandsTheJobsOfItsVMA is the story of one VMA, one OMA and one job.
func TestAnOMAShowsAndCommandsTheJobsOfItsVMA(t *testing.T) {
	if testing.Short() {
		t.Skip("a VMA is away for as long as it takes an OMA to believe it")
	}
	s := newSite(t, 64)
	s.cfg.Role = app.VMA
	vma, here := start(t, s.cfg)
	s.cfg.Listen = vma.Addr().String()
	target := omaConfig(t, app.Node{Name: "vma-1", URL: vma.URL(), Kind: "vmferry"})
	target.SQL.Driver = history.SQLite
	_, c := start(t, target)

	spec, err := job.Spec{VM: "web", Options: job.Options{
		Cutover: job.CutoverManual, Bandwidth: 8 << 20, Quiesce: true,
	}}.Normal()
	if err != nil {
		t.Fatal(err)
	}
	o := rest.SubmitOptions{IdempotencyKey: "once"}
	first, existing, err := c.Submit(t.Context(), spec, o)
	if err != nil || existing || first.Node != "vma-1" {
		t.Fatalf("the job is at %q, existing %t: %v", first.Node, existing, err)
	}
	id := first.JobID
	if again, existing, err := c.Submit(t.Context(), spec, o); err != nil || !existing || again.JobID != id {
		t.Errorf("the same request made %s, existing %t: %v", again.JobID, existing, err)
	}
	_, _, err = c.Submit(t.Context(), spec, rest.SubmitOptions{})
	if _, _, direct := here.Submit(t.Context(), spec, rest.SubmitOptions{}); job.KindOf(err) != job.Conflict ||
		err.Error() != direct.Error() || job.NextOf(err) != job.NextOf(direct) {
		t.Errorf("a second job of the VM is refused with %v (%s), the VMA says %v", err, job.NextOf(err), direct)
	}
	r := shows(t, c, id, "the OMA does not show that the job runs", running)
	if r.Watched == nil || r.Watched.Since != nil || r.Watched.SeenAt == nil {
		t.Errorf("watched is %+v", r.Watched)
	}

	if err := c.Command(t.Context(), id, job.Pause); err != nil {
		t.Fatal(err)
	}
	shows(t, c, id, "not paused", func(r report.Report) bool { return r.Status == job.Paused })
	if err := c.Command(t.Context(), id, job.Sync); job.KindOf(err) != job.Conflict || job.NextOf(err) == "" {
		t.Errorf("sync is refused with %v (%s)", err, job.NextOf(err))
	}
	none := int64(0)
	if err := c.ChangeLimits(t.Context(), id, job.Limited{Bandwidth: &none}); err != nil {
		t.Error(err)
	}
	if err := c.Command(t.Context(), id, job.Resume); err != nil {
		t.Fatal(err)
	}
	shows(t, c, id, "not in step", func(r report.Report) bool { return r.Status == job.WaitingCutover })
	events, err := c.Events(t.Context(), id)
	if err != nil || len(events) == 0 || events[0].Type != "submitted" {
		t.Errorf("the OMA has %d events of the job: %v", len(events), err)
	}

	stop(t, vma)
	r = shows(t, c, id, "not unreachable", func(r report.Report) bool { return r.Status == job.Unreachable })
	if r.Watched.Since == nil || r.Watched.Reason == "" {
		t.Errorf("an unreachable job shows %+v", r.Watched)
	}
	if err := c.Command(t.Context(), id, job.CutoverNow); job.KindOf(err) != job.Unavailable {
		t.Errorf("a command to a VMA that is away is refused with %v", err)
	}
	list, err := c.Nodes(t.Context())
	if err != nil || len(list) != 1 || list[0].State != "unreachable" || list[0].Reason == "" ||
		list[0].Jobs[job.Unreachable] != 1 {
		t.Errorf("the nodes are %+v: %v", list, err)
	}
	start(t, s.cfg)
	shows(t, c, id, "not right again", func(r report.Report) bool { return r.Status == job.WaitingCutover })
	if err := c.Command(t.Context(), id, job.CutoverNow); err != nil {
		t.Fatal(err)
	}
	r = shows(t, c, id, "not completed", terminal)
	s.equal(t, r)
	rowSays(t, target, "SELECT status, progress_percent, source_vm_name, node FROM replication_jobs "+
		"JOIN vmferry_jobs USING (id) WHERE id = '"+string(id)+"'", "completed|100|web|vma-1")
	if err := c.Command(t.Context(), id, job.Delete); err != nil {
		t.Fatal(err)
	}
	for name, cl := range map[string]*rest.Client{"OMA": c, "VMA": here} {
		if _, err := cl.Job(t.Context(), id); job.KindOf(err) != job.NotFound {
			t.Errorf("the %s still has the deleted job: %v", name, err)
		}
	}
}

func TestAnOMASaysWhichNodeHasWhatItLacks(t *testing.T) {
	s := newSite(t, 4)
	s.cfg.Role = app.VMA
	vma, _ := start(t, s.cfg)
	one := app.Node{Name: "vma-1", URL: vma.URL(), Kind: "vmferry"}
	two := app.Node{Name: "vma-2", URL: vma.URL(), Kind: "vmferry"}
	_, c := start(t, omaConfig(t, one, two, app.Node{Name: "old", URL: "http://127.0.0.1:9", Kind: "legacy"}))

	spec, err := job.Spec{VM: "web", Options: job.Options{Quiesce: true}}.Normal()
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = c.Submit(t.Context(), spec, rest.SubmitOptions{})
	if job.KindOf(err) != job.Conflict || !strings.Contains(err.Error(), "vma-1, vma-2") ||
		!strings.Contains(job.NextOf(err), "--node vma-1") {
		t.Errorf("a VM of two nodes: %v (%s)", err, job.NextOf(err))
	}
	other := spec
	other.VM = "mail"
	_, _, err = c.Submit(t.Context(), other, rest.SubmitOptions{})
	if job.KindOf(err) != job.NotFound || !strings.Contains(err.Error(), "vma-1, vma-2") {
		t.Errorf("a VM of no node: %v", err)
	}
	_, _, err = c.Submit(t.Context(), spec, rest.SubmitOptions{Node: "old"})
	if job.KindOf(err) != job.Conflict || !strings.Contains(err.Error(), "old") {
		t.Errorf("a job for an older VMA: %v", err)
	}
	_, _, err = c.Submit(t.Context(), spec, rest.SubmitOptions{Node: "vma-9"})
	if job.KindOf(err) != job.NotFound {
		t.Errorf("a job for a node that is not there: %v", err)
	}
	sys, err := c.System(t.Context())
	if err != nil || sys.Role != "oma" || !sys.Ready || !strings.Contains(sys.VCenterState.Message, "vma-1, vma-2") {
		t.Errorf("the OMA says of itself %+v: %v", sys, err)
	}
	r, _, err := c.Submit(t.Context(), spec, rest.SubmitOptions{Node: "vma-2"})
	if err != nil {
		t.Fatal(err)
	}
	shows(t, c, r.JobID, "not completed", terminal)
}

// TestAnOMAListsTheVMsOfAllNodesAndCommandsManyJobsAtOnce has two nodes of one vCenter, one that has another VM as
// well, and one that is away.
func TestAnOMAListsTheVMsOfAllNodesAndCommandsManyJobsAtOnce(t *testing.T) {
	disk := filepath.Join(t.TempDir(), "mail.raw")
	image(t, disk, 8<<20, 1<<20)
	var nodes []app.Node
	for i, name := range []string{"vma-1", "vma-2"} {
		var more []sim.VM
		if i > 0 {
			more = []sim.VM{{Name: "mail", Disks: []string{disk}}}
		}
		s := newSite(t, 16, more...)
		s.cfg.Role = app.VMA
		vma, _ := start(t, s.cfg)
		nodes = append(nodes, app.Node{Name: name, URL: vma.URL(), Kind: "vmferry"})
		if i == 0 {
			nodes = append(nodes, app.Node{Name: "again", URL: vma.URL(), Kind: "vmferry"})
		}
	}
	nodes = append(nodes, app.Node{Name: "away", URL: "http://127.0.0.1:9", Kind: "vmferry"})
	_, c := start(t, omaConfig(t, nodes...))

	list, err := c.VMs(t.Context(), "")
	if err != nil || len(list.VMs) != 2 || list.Total != 2 || len(list.Missing) != 1 || list.Missing[0] != "away" ||
		list.VMs[0].Name != "mail" || list.VMs[0].BytesCapacity != 8<<20 || list.VMs[1].Name != "web" {
		t.Errorf("the VMs are %+v: %v", list, err)
	}

	spec, err := job.Spec{VM: "web", Options: job.Options{Cutover: job.CutoverManual, Quiesce: true}}.Normal()
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, name := range []string{"vma-1", "vma-2"} {
		r, _, err := c.Submit(t.Context(), spec, rest.SubmitOptions{Node: name})
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, string(r.JobID))
		shows(t, c, r.JobID, "does not wait", func(r report.Report) bool { return r.Status == job.WaitingCutover })
	}
	other := spec
	other.VM = "mail"
	r, _, err := c.Submit(t.Context(), other, rest.SubmitOptions{ID: job.ID(ids[0])})
	if job.KindOf(err) != job.Conflict || !strings.Contains(err.Error(), "exists already, at node") {
		t.Errorf("a job with the id of one at another node is answered with %s of %s: %v", r.JobID, r.VM.Name, err)
	}
	unknown := "job-20250925-134230.513-8034ee"
	b, err := c.Bulk(t.Context(), rest.BulkRequest{Verb: job.Cancel, IDs: append(ids, unknown)})
	if err != nil || len(b.Results) != 3 || !b.Results[0].Accepted || !b.Results[1].Accepted || b.Results[2].Accepted {
		t.Errorf("they are cancelled with %+v: %v", b, err)
	}
	for _, id := range ids {
		shows(t, c, job.ID(id), "not cancelled", func(r report.Report) bool { return r.Status == job.StatusCancelled })
	}
	b, err = c.Bulk(t.Context(), rest.BulkRequest{
		Verb: job.Delete, Filter: &rest.BulkFilter{Status: []job.Status{job.StatusCancelled}},
	})
	if err != nil || len(b.Results) != 2 || !b.Results[0].Accepted || !b.Results[1].Accepted {
		t.Errorf("they are deleted with %+v: %v", b, err)
	}
	if all, err := c.Jobs(t.Context(), rest.ListOptions{}); err != nil || len(all) > 0 {
		t.Errorf("%d jobs are left: %v", len(all), err)
	}
}

func TestManyCommandsOfAnOMAAreSentAsFastAsItsVMATakesThem(t *testing.T) {
	s := newSite(t, 4)
	s.cfg.Role, s.cfg.Auth.Required, s.cfg.Auth.RequestsPerSecond = app.VMA, true, 10
	vma, c := start(t, s.cfg)
	token, err := c.CreateToken(t.Context(), rest.TokenRequest{Name: "oma", Role: job.Operator})
	if err != nil {
		t.Fatal(err)
	}
	_, oma := start(t, omaConfig(t, app.Node{
		Name: "vma-1", URL: "http://" + vma.Addr().String(), Kind: "vmferry", TokenFile: write(t, token.Text),
	}))
	spec, err := job.Spec{VM: "web", Options: job.Options{Cutover: job.CutoverManual, Quiesce: true}}.Normal()
	if err != nil {
		t.Fatal(err)
	}
	r, _, err := oma.Submit(t.Context(), spec, rest.SubmitOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for n := range int64(30) { // 20 may come at once
		all.Go(func() {
			if err := oma.Limit(t.Context(), r.JobID, n<<20); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
}

func TestThroughTheTunnelCompatibilityRoutesAreReadAndAllElseNeedsAToken(t *testing.T) {
	s := newSite(t, 4)
	s.cfg.Role, s.cfg.TunnelListen = app.VMA, "127.0.0.1:0"
	vma, c := start(t, s.cfg)
	n := int64(5)
	if err := c.Progress(t.Context(), "job-1", rest.ProgressUpdate{BytesTransferred: &n}); err != nil {
		t.Fatal(err)
	}
	far := "http://" + vma.TunnelAddr().String()
	for request, want := range map[string]int{
		"GET /api/v1/progress/job-1":             http.StatusOK,
		"GET /api/v1/progress/job-2":             http.StatusNotFound,
		"GET /api/v1/vms/web/cbt-status":         http.StatusOK,
		"POST /api/v1/progress/job-1/update":     http.StatusUnauthorized,
		"GET /api/v1/jobs":                       http.StatusUnauthorized,
		"GET /api/v1/events":                     http.StatusUnauthorized,
		"POST /api/v1/jobs":                      http.StatusUnauthorized,
		"DELETE /api/v1/jobs/job-1":              http.StatusUnauthorized,
		"GET /api/v1/progress/job-1/../../jobs":  http.StatusUnauthorized,
		"GET /api/v1/jobs/%2e%2e/vms/cbt-status": http.StatusUnauthorized,
		"GET /metrics":                           http.StatusUnauthorized,
	} {
		method, path, _ := strings.Cut(request, " ")
		req, err := http.NewRequestWithContext(t.Context(), method, far+path, strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%s: %d, want %d", request, resp.StatusCode, want)
		}
	}
	token, err := c.CreateToken(t.Context(), rest.TokenRequest{Name: "oma", Role: job.Operator})
	if err != nil {
		t.Fatal(err)
	}
	file := write(t, token.Text+"\n")
	_, oma := start(t, omaConfig(t, app.Node{Name: "vma-1", URL: far, Kind: "vmferry", TokenFile: file}))
	spec, err := job.Spec{VM: "web", Options: job.Options{Quiesce: true}}.Normal()
	if err != nil {
		t.Fatal(err)
	}
	r, _, err := oma.Submit(t.Context(), spec, rest.SubmitOptions{})
	if err != nil {
		t.Fatal(err)
	}
	shows(t, oma, r.JobID, "not completed", terminal)
}

func TestTheExamplesOfBothSidesLoad(t *testing.T) {
	secret := write(t, "rehearsal\n")
	for file, role := range map[string]app.Role{"vma.yaml": app.VMA, "oma.yaml": app.OMA} {
		text, err := os.ReadFile("../deploy/" + file)
		if err != nil {
			t.Fatal(err)
		}
		secrets := strings.NewReplacer("/etc/vmferry/vcenter-password", secret, "/etc/vmferry/vma-2.token", secret)
		path := write(t, secrets.Replace(string(text)))
		cfg, _, err := app.Load(app.Sources{File: path})
		if err != nil {
			t.Fatalf("%s: %v (%s)", file, err, job.NextOf(err))
		}
		if cfg.Role != role || role == app.OMA && (len(cfg.Nodes) != 2 || cfg.Listen != "127.0.0.1:8082") ||
			role == app.VMA && cfg.TunnelListen != "127.0.0.1:8083" {
			t.Errorf("%s: %+v", file, cfg)
		}
	}
}
