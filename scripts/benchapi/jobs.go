package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	connections = 8 // at the same time
	few         = 10
	fewPosts    = 5000
	reads       = 5000
	pages       = 500
	scrapes     = 20
	// Each tool posts every 2 s. Half a minute is the journal's pace for external jobs.
	toolPosts   = 2 * time.Second
	steadyTime  = 32 * time.Second
	batchLength = 10 * time.Millisecond
)

func jobID(i int) string { return fmt.Sprintf("job-20250925-134230.%03d-%06x", i%1000, i) }

// post sends one update of a job and fails if it is not taken.
func (d *daemon) post(ctx context.Context, job int, done int64) error {
	body := fmt.Sprintf(`{"stage":"Transfer","status":"in_progress","bytes_transferred":%d,`+
		`"total_bytes":1099511627776,"throughput_bps":104857600,"percent":0.15,"disk_id":"disk-2000",`+
		`"sync_type":"full","error_message":""}`, done)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost,
		"http://"+d.address+"/api/v1/progress/"+jobID(job)+"/update", strings.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	return d.do(req)
}

func (d *daemon) get(ctx context.Context, path string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+d.address+path, nil)
	if err != nil {
		return err
	}
	return d.do(req)
}

func (d *daemon) do(req *http.Request) error {
	resp, err := d.client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }() // it was read to its end
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s %s: %s", req.Method, req.URL.Path, resp.Status)
	}
	return nil
}

// each calls f that often, over several connections, and returns the daemon's CPU time for one call. every is the time
// from one call to the next; 0 for as fast as it can.
func (d *daemon) each(ctx context.Context, times int, every time.Duration, f func(context.Context, int) error) (
	time.Duration, error,
) {
	before, err := d.cpu()
	if err != nil {
		return 0, err
	}
	var next atomic.Int64
	start := time.Now()
	g, ctx := errgroup.WithContext(ctx)
	for range connections {
		g.Go(func() error {
			for i := int(next.Add(1)) - 1; i < times; i = int(next.Add(1)) - 1 {
				if early := time.Duration(i)*every - time.Since(start); early > batchLength {
					pause(ctx, early)
				}
				if err := f(ctx, i); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return 0, err
	}
	after, err := d.cpu()
	return (after - before) / time.Duration(times), err
}

// measureJobs measures what external jobs cost.
func measureJobs(ctx context.Context, o options, d *daemon) ([]figure, error) {
	update := func(jobs int, from int64) func(context.Context, int) error {
		return func(ctx context.Context, i int) error { return d.post(ctx, i%jobs, from+int64(i)) }
	}
	all, every := int64(fewPosts), toolPosts/time.Duration(o.jobs)
	var figures []figure
	for _, step := range []struct {
		name   string
		wanted time.Duration
		times  int
		every  time.Duration
		call   func(context.Context, int) error
	}{
		{fmt.Sprintf("POST of an update, %d external jobs", few), 0, fewPosts, 0, update(few, 1)},
		{fmt.Sprintf("POST of the first update, up to %d external jobs", o.jobs), 0, o.jobs, 0, update(o.jobs, all)},
		{
			fmt.Sprintf("POST of an update, %d external jobs, each every %v", o.jobs, toolPosts),
			150 * time.Microsecond, int(steadyTime / every), every, update(o.jobs, all+int64(o.jobs)),
		},
		{
			"GET of one job's progress", 200 * time.Microsecond, reads, 0,
			func(ctx context.Context, i int) error { return d.get(ctx, "/api/v1/progress/"+jobID(i%o.jobs)) },
		},
		{
			"GET of one job", 200 * time.Microsecond, reads, 0,
			func(ctx context.Context, i int) error { return d.get(ctx, "/api/v1/jobs/"+jobID(i%o.jobs)) },
		},
		{
			"GET of a page of 50 jobs", 2 * time.Millisecond, pages, 0,
			func(ctx context.Context, _ int) error { return d.get(ctx, "/api/v1/jobs?limit=50") },
		},
		{
			"the same, sorted by percent", 2 * time.Millisecond, pages, 0,
			func(ctx context.Context, _ int) error { return d.get(ctx, "/api/v1/jobs?limit=50&sort=-percent") },
		},
		{
			"GET /metrics", 300 * time.Millisecond, scrapes, 0,
			func(ctx context.Context, _ int) error { return d.get(ctx, "/metrics") },
		},
	} {
		if step.every == 0 {
			if err := d.quiet(ctx); err != nil { // what the posts before have left for the journal is not of this step
				return nil, err
			}
		}
		took, err := d.each(ctx, step.times, step.every, step.call)
		if err != nil {
			return nil, err
		}
		figures = append(figures, inTime(step.name, "CPU", took, step.wanted))
	}
	memory, err := d.memory()
	return append(figures, inMiB(fmt.Sprintf("greatest memory with %d external jobs", o.jobs), memory, 300)), err
}
