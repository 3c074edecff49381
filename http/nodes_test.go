package http_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	apihttp "github.com/vmferry/vmferry/http"
	"github.com/vmferry/vmferry/http/rest"
	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
)

// watching makes the world an OMA with one VMA of ours and an older one.
type watching struct{ w *world }

func (o watching) List(context.Context) []rest.Node {
	at := start().Add(-time.Hour)
	return []rest.Node{
		{
			Name: "vma-1", Kind: report.OurNode, URL: "https://vma-1.example.org:8443", State: "connected", Since: at,
			SeenAt: &at, Version: "1.2.3", VCenter: &rest.VCenter{State: rest.VCenterOK, Since: at, CheckedAt: &at},
			Jobs: map[job.Status]int{job.Running: 2, job.StatusCompleted: 40},
			Link: &rest.Link{
				State: "up", Since: at, Role: "vma", Address: "192.0.2.7:41234", RoundTripMS: new(0.4), FrameVersion: 1,
				CertificateExpires: &at, Refused: map[string]int64{}, Events: []rest.LinkEvent{{At: at, State: "up"}},
			},
		},
		{
			Name: "old-1", Kind: report.LegacyNode, URL: "http://127.0.0.1:9081", State: "unreachable", Since: at,
			Reason: "connection refused", Jobs: map[job.Status]int{},
		},
	}
}

func (o watching) Watch(ctx context.Context, node string, id job.ID) error {
	switch node {
	case "old-1":
		o.w.mu.Lock()
		defer o.w.mu.Unlock()
		r := report.NewPolledBuilder(id, nil, o.w.now).Report(o.w.now)
		o.w.publish(ctx, r.At(node, report.LegacyNode, "", report.Sight{}, o.w.now))
		return nil
	case "vma-1":
		return job.Errorf("watch job", job.Conflict, "vmferry get jobs --node vma-1 lists them",
			"node vma-1 tells of its jobs by itself")
	default:
		return job.Errorf("find node", job.NotFound, "vmferry get nodes lists them", "there is no node %q", node)
	}
}

func TestTheListShowsTheJobsOfOneNode(t *testing.T) {
	w := newWorld()
	_, s := w.server(t, func(o *apihttp.Options) { o.Nodes = watching{w} })
	c, err := rest.NewClient(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for i := range 3 {
		if _, err := c.WatchJob(t.Context(), "old-1", job.ID(fmt.Sprintf("old-%d", i))); err != nil {
			t.Fatal(err)
		}
	}
	w.running(t, "job-web")
	all, err := c.Jobs(t.Context(), rest.ListOptions{})
	if err != nil || len(all) != 4 {
		t.Fatalf("%d jobs: %v", len(all), err)
	}
	old, err := c.Jobs(t.Context(), rest.ListOptions{Node: "old-1"})
	if err != nil || len(old) != 3 || old[0].Node != "old-1" || old[0].Watched.Kind != report.LegacyNode {
		t.Errorf("%d jobs of the node: %v", len(old), err)
	}
	page := ask(t, s.URL, "GET /api/v1/jobs?node=old-1&limit=1")
	if !strings.Contains(page, "node=old-1") || strings.Contains(page, "job-web") {
		t.Errorf("the next page forgets the node: %s", page)
	}
}

func TestACommandGoesToTheJobsOfOneNode(t *testing.T) {
	w := newWorld()
	for id, node := range map[job.ID]string{"job-1": "vma-1", "job-2": "vma-1", "job-3": "vma-2", "job-4": ""} {
		spec := webSpec()
		spec.VM = string(id)
		if err := w.apply(t.Context(), id, job.Submitted{ID: id, Spec: spec}); err != nil {
			t.Fatal(err)
		}
		r, err := w.memory.Report(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		r.Node = node
		w.publish(t.Context(), r)
	}
	_, s := w.server(t, func(o *apihttp.Options) { o.Nodes = watching{w} })
	c := client(t, s.URL)
	for node, want := range map[string]string{"vma-1": "job-1 job-2", "vma-2": "job-3", "vma-9": ""} {
		answer, err := c.Bulk(t.Context(), rest.BulkRequest{
			Verb: job.CutoverNow, Filter: &rest.BulkFilter{Node: node, Status: []job.Status{job.Pending}},
		})
		var got []string
		for _, one := range answer.Results {
			got = append(got, one.JobID)
		}
		slices.Sort(got)
		if err != nil || strings.Join(got, " ") != want {
			t.Errorf("a command for node %s went to %v: %v", node, got, err)
		}
	}
	answer, err := c.Bulk(t.Context(), rest.BulkRequest{Verb: job.Cancel, Filter: &rest.BulkFilter{Node: "vma-1"}})
	if err != nil || answer.Accepted != 2 {
		t.Errorf("a node alone is a filter: %+v, %v", answer, err)
	}
	if _, err := c.Bulk(t.Context(), rest.BulkRequest{Verb: job.Cancel, Filter: &rest.BulkFilter{}}); err == nil {
		t.Error("a filter without a condition is taken")
	}
}

func TestADaemonWithoutNodesHasNone(t *testing.T) {
	w := newWorld()
	_, s := w.server(t)
	if got := ask(t, s.URL, "GET /api/v1/nodes"); !strings.HasSuffix(got, "\n[]") {
		t.Errorf("its nodes are %s", got)
	}
	if got := ask(t, s.URL, "POST /api/v1/nodes/a/jobs/b/watch"); !strings.HasPrefix(got, "404") {
		t.Errorf("it watches: %s", got)
	}
}
