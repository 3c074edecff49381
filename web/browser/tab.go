package browser

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/input"
	cdplog "github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/performance"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/cdproto/target"
	"github.com/chromedp/chromedp"
)

const lookEvery = 20 * time.Millisecond // between two looks of Until

// Tab is one tab, in a window of its own. One goroutine uses it at a time.
type Tab struct {
	ctx    context.Context //nolint:containedctx // chromedp keeps the tab in it
	cancel context.CancelFunc

	mu       sync.Mutex
	troubles []string
	requests []string
}

// Tab opens a tab with cookies, storage and workers of its own. Close it.
func (c *Chromium) Tab() (*Tab, error) { return open(c.ctx, chromedp.WithNewBrowserContext()) }

// Beside opens a tab that shares cookies, storage and workers with this one. It ends with this one at the latest.
func (t *Tab) Beside() (*Tab, error) { return open(t.ctx) }

// Attach attaches to another target of the browser, as to a worker of this tab.
func (t *Tab) Attach(id target.ID) (*Tab, error) {
	w := &Tab{}
	w.ctx, w.cancel = chromedp.NewContext(t.ctx, chromedp.WithTargetID(id), chromedp.WithDetachOnCancel(),
		chromedp.WithListener(w.hear))
	if err := chromedp.Do(w.ctx); err != nil {
		w.cancel()
		return nil, fmt.Errorf("attach to %s: %w", id, err)
	}
	_, err := chromedp.Call(w.ctx, network.Enable, network.EnableParams{})
	return w, err
}

func open(parent context.Context, options ...chromedp.ContextOption) (*Tab, error) {
	t := &Tab{}
	t.ctx, t.cancel = chromedp.NewContext(parent, append(options, chromedp.WithListener(t.hear))...)
	//nolint:contextcheck // the tab's own, which is made of parent
	if err := chromedp.Do(t.ctx); err != nil {
		t.cancel()
		return nil, fmt.Errorf("open a tab: %w", err)
	}
	for _, enable := range []func() error{
		func() error { _, err := chromedp.Call(t.ctx, network.Enable, network.EnableParams{}); return err },
		func() error { return t.View(Width, Height) },
	} {
		if err := enable(); err != nil {
			t.cancel()
			return nil, fmt.Errorf("open a tab: %w", err)
		}
	}
	return t, nil
}

// hear notes what the tab asks for, and what it complains of.
func (t *Tab) hear(event any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch e := event.(type) {
	case *network.EventRequestWillBeSent:
		t.requests = append(t.requests, e.Request.URL)
	case *runtime.EventExceptionThrown:
		t.troubles = append(t.troubles, "exception: "+described(e.ExceptionDetails))
	case *cdplog.EventEntryAdded:
		if e.Entry.Level == cdplog.EntryLevelError {
			t.troubles = append(t.troubles, fmt.Sprintf("%s: %s %s", e.Entry.Source, e.Entry.Text, e.Entry.URL))
		}
	case *runtime.EventConsoleAPICalled:
		if e.Type == runtime.ConsoleAPICalledTypeError || e.Type == runtime.ConsoleAPICalledTypeWarning {
			var parts []string
			for _, a := range e.Args {
				parts = append(parts, string(a.Value)+a.Description)
			}
			t.troubles = append(t.troubles, "console: "+strings.Join(parts, " "))
		}
	}
}

// Troubles are the exceptions, the errors of the console and what the Content-Security-Policy refused, since the last
// call.
func (t *Tab) Troubles() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := t.troubles
	t.troubles = nil
	return out
}

// Requests are the addresses that the tab has asked for, in order. Those of its workers are not in it.
func (t *Tab) Requests() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]string(nil), t.requests...)
}

// Close closes the tab.
func (t *Tab) Close() { t.cancel() }

// Raw is the context by which package chromedp knows the tab.
func (t *Tab) Raw() context.Context { return t.ctx }

// Go loads an address, and returns after its load event.
func (t *Tab) Go(address string) error { return chromedp.Do(t.ctx, chromedp.Navigate(address)) }

// View sets the size of what is seen, in pixels.
func (t *Tab) View(width, height int64) error {
	_, err := chromedp.Call(t.ctx, emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{
		Width: width, Height: height, DeviceScaleFactor: 1,
	})
	return err
}

// Scheme sets what the system prefers: dark or light.
func (t *Tab) Scheme(name string) error {
	_, err := chromedp.Call(t.ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
		Features: []*emulation.MediaFeature{
			{Name: "prefers-color-scheme", Value: name}, {Name: "prefers-reduced-motion", Value: "reduce"},
		},
	})
	return err
}

// Eval evaluates a script, waits for its promise if it is one, and returns its value.
func Eval[T any](t *Tab, script string) (T, error) {
	return chromedp.Run(t.ctx, chromedp.Evaluate[T](script, chromedp.EvalAwaitPromise))
}

// Until waits until an expression is true, and returns how long that took. After the given time it fails, with what
// the page shows.
func (t *Tab) Until(expression string, within time.Duration) (time.Duration, error) {
	began := time.Now()
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		ok, err := Eval[bool](t, "!!("+expression+")")
		if ok {
			return time.Since(began), nil
		}
		if time.Since(began) > within {
			shown, _ := Eval[string](t, "location.href + '\\n' + document.body.innerText")
			return time.Since(began), fmt.Errorf("not true within %v: %s (%w); the page shows\n%s",
				within, expression, err, shown)
		}
		<-tick.C
	}
}

// Press presses keys, one after another, where the focus is.
func (t *Tab) Press(keys string) error { return chromedp.Do(t.ctx, chromedp.KeyEvent(keys)) }

// Type puts text where the focus is.
func (t *Tab) Type(text string) error {
	_, err := chromedp.Call(t.ctx, input.InsertText, input.InsertTextParams{Text: text})
	return err
}

// Picture is what is seen, as a PNG.
func (t *Tab) Picture() ([]byte, error) {
	p, err := chromedp.Call(t.ctx, page.CaptureScreenshot, page.CaptureScreenshotParams{})
	return p.Data, err
}

// BeforeEach runs a script in each document before its own scripts.
func (t *Tab) BeforeEach(script string) error {
	_, err := chromedp.Call(t.ctx, page.AddScriptToEvaluateOnNewDocument,
		page.AddScriptToEvaluateOnNewDocumentParams{Source: script})
	return err
}

func described(e *runtime.ExceptionDetails) string {
	if e.Exception != nil && e.Exception.Description != "" {
		return e.Exception.Description
	}
	return e.Text
}

// Metrics are the counters of the tab: seconds of CPU for script, layout and style since it was opened, bytes of its
// heap, and more, by the names of Chromium.
func (t *Tab) Metrics() (map[string]float64, error) {
	if _, err := chromedp.Call(t.ctx, performance.Enable, performance.EnableParams{
		TimeDomain: performance.EnableTimeDomainThreadTicks,
	}); err != nil {
		return nil, err
	}
	list, err := chromedp.Call(t.ctx, performance.GetMetrics, cdp.Empty{})
	out := map[string]float64{}
	for _, m := range list.Metrics {
		out[m.Name] = m.Value
	}
	return out, err
}
