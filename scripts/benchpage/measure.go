package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/vmferry/vmferry/web/browser"
)

const (
	loads     = 5
	mostWait  = 60 * time.Second
	settle    = 5 * time.Second // from the load of the page to the measurement of its work
	aRow      = "document.querySelector('[role=rowgroup] [role=row]')"
	firstDraw = `new MutationObserver((_, o) => {
		if (!` + aRow + `) return;
		o.disconnect();
		requestAnimationFrame(() => setTimeout(() => (window.firstRow = performance.now())));
	}).observe(document, {childList: true, subtree: true})`
)

// firstRow measures how long the first job takes to be drawn.
func firstRow(_ context.Context, _ options, d *browser.Daemon, c *browser.Chromium) ([]figure, error) {
	var took []float64
	for range loads {
		ms, err := oneLoad(d, c)
		if err != nil {
			return nil, err
		}
		took = append(took, ms)
	}
	slices.Sort(took)
	return []figure{
		most("first job on screen after the navigation, median of "+fmt.Sprint(loads), took[loads/2], 500, "ms"),
	}, nil
}

func oneLoad(d *browser.Daemon, c *browser.Chromium) (ms float64, err error) {
	t, err := c.Tab() // with an empty cache
	if err != nil {
		return 0, err
	}
	defer t.Close()
	if err := t.BeforeEach(firstDraw); err != nil {
		return 0, err
	}
	if err := t.Go(d.URL + "/"); err != nil {
		return 0, err
	}
	if _, err := t.Until("window.firstRow", mostWait); err != nil {
		return 0, err
	}
	return browser.Eval[float64](t, "window.firstRow")
}

// list loads the list of all jobs in a tab, and returns when one is drawn.
func list(t *browser.Tab, d *browser.Daemon) error {
	if err := t.Go(d.URL + "/"); err != nil {
		return err
	}
	_, err := t.Until(aRow, mostWait)
	return err
}

// sizes measures what the first screen loads, and all that the daemon serves of the page.
func sizes(ctx context.Context, _ options, d *browser.Daemon, c *browser.Chromium) ([]figure, error) {
	t, err := c.Tab()
	if err != nil {
		return nil, err
	}
	defer t.Close()
	if err := list(t, d); err != nil {
		return nil, err
	}
	files, err := filepath.Glob("web/dist/assets/*")
	if err != nil {
		return nil, err
	}
	requested := map[string]bool{"/": true}
	for _, r := range t.Requests() {
		requested[strings.TrimPrefix(r, d.URL)] = true
	}
	var first, all int64
	for _, path := range append([]string{"/", "/favicon.svg"}, files...) {
		path = strings.TrimPrefix(path, "web/dist")
		n, err := compressed(ctx, d.URL+path)
		if err != nil {
			return nil, err
		}
		all += n
		// The script of the worker is asked for by the worker.
		if requested[path] || strings.HasPrefix(path, "/assets/worker") {
			first += n
		}
	}
	return []figure{
		most("what the first screen loads, after gzip", float64(first)/1000, 130, "kB"),
		most("the whole page, after gzip", float64(all)/1000, 260, "kB"),
	}, nil
}

// compressed is the size of an answer in bytes, as it is sent.
func compressed(ctx context.Context, address string) (int64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return 0, err
	}
	req.Header.Set("Accept-Encoding", "gzip")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer func() { _ = resp.Body.Close() }() // it was read to its end
	if resp.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("GET %s: %s", address, resp.Status)
	}
	n, err := io.Copy(io.Discard, resp.Body)
	return n, err
}

// work measures what a tab does while the jobs change, then opens the others.
func work(ctx context.Context, o options, d *browser.Daemon, c *browser.Chromium) ([]figure, error) {
	t, err := c.Tab()
	if err != nil {
		return nil, err
	}
	defer t.Close()
	if err := list(t, d); err != nil {
		return nil, err
	}
	pause(ctx, settle)
	before, err := t.Metrics()
	if err != nil {
		return nil, err
	}
	began := time.Now()
	pause(ctx, o.span)
	after, err := t.Metrics()
	if err != nil {
		return nil, err
	}
	seconds := time.Since(began).Seconds()
	per := func(name string) float64 { return 1000 * (after[name] - before[name]) / seconds }
	script, style, layout := per("ScriptDuration"), per("RecalcStyleDuration"), per("LayoutDuration")
	figures := []figure{
		most(fmt.Sprintf("script and layout of a tab, %d jobs that change 4 times a second", o.running),
			script+layout, 200, "ms/s"),
		{name: "of it script", value: number(script) + " ms/s"},
		{name: "of it layout", value: number(layout) + " ms/s"},
		{name: "beside it: style", value: number(style) + " ms/s"},
		{name: "all tasks of its main thread", value: number(per("TaskDuration")) + " ms/s"},
	}
	more, err := eight(ctx, d, t)
	if err != nil {
		return nil, err
	}
	end, err := t.Metrics()
	return append(append(figures, more...),
		figure{name: "heap of the tab", value: number(end["JSHeapUsedSize"]/(1<<20)) + " MiB"}), err
}

// eight opens the other tabs and counts those that show changes.
func eight(ctx context.Context, d *browser.Daemon, t *browser.Tab) ([]figure, error) {
	all := []*browser.Tab{t}
	for len(all) < tabs {
		other, err := t.Beside()
		if err != nil {
			return nil, err
		}
		defer other.Close()
		if err := other.Go(d.URL + "/"); err != nil {
			return nil, err
		}
		all = append(all, other)
	}
	live := 0
	for _, other := range all {
		if _, err := other.Until(aRow, mostWait); err != nil {
			return nil, err
		}
		// The volume of what was moved changes with each update.
		text, err := browser.Eval[string](other, "document.querySelector('[role=rowgroup]').innerText")
		if err != nil {
			return nil, err
		}
		const changing = 5 * time.Second
		if _, err := other.Until(fmt.Sprintf("document.querySelector('[role=rowgroup]').innerText !== %q", text),
			changing); err == nil {
			live++
		}
	}
	s, err := d.Client.System(ctx)
	return []figure{
		{
			name: fmt.Sprintf("of %d tabs, live", tabs), value: fmt.Sprint(live), wanted: fmt.Sprint(tabs),
			met: live == tabs,
		},
		{name: "their event streams", value: fmt.Sprint(s.Streams), wanted: "1", met: s.Streams == 1},
	}, err
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
