package browser_test

import (
	"fmt"
	"os"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/web/browser"
)

// soon is the most that the page may show what is not true, and not say so.
const soon = 5 * time.Second

// inTime fails if something took longer than soon, on a machine that has time for it.
func inTime(tb testing.TB, what string, took time.Duration) {
	tb.Helper()
	tb.Logf("%s after %v", what, took.Round(time.Millisecond))
	var load float64
	if text, err := os.ReadFile("/proc/loadavg"); err == nil {
		fmt.Sscan(string(text), &load)
	}
	if took > soon && load < 1.5*float64(runtime.NumCPU()) {
		tb.Errorf("%s after %v, want at most %v", what, took, soon)
	}
}

const linked = "document.querySelector('header .link').textContent.trim()"

func (p *page) linkIs(text string) time.Duration {
	p.Helper()
	return p.until(fmt.Sprintf("%s === %q", linked, text))
}

// isTrue waits until the page shows at least what the daemon says now, and that it is live.
func (p *page) isTrue(d *browser.Daemon, id job.ID, link string) time.Duration {
	p.Helper()
	began := time.Now()
	now := jobOf(p, d, id).OverallPercent
	p.until(fmt.Sprintf("%s === %q && %s >= %v", linked, link, barOf("Progress of"), now))
	return time.Since(began)
}

// slow is a job that copies for minutes.
func slow(tb testing.TB) (*browser.Daemon, job.ID) {
	tb.Helper()
	d := rehearsed(tb, "", browser.VM{Name: "web", Disks: []int64{128 * mib}})
	return d, submit(tb, d, "web", limited(mib)).JobID
}

func TestThePageSaysThatTheNetworkIsAwayAndIsTrueSoonAfter(t *testing.T) {
	if testing.Short() {
		t.Skip("long: make it runs it")
	}
	d, id := slow(t)
	b := proxy(t, d)
	p := open(t, b.URL, "/")
	p.moves("Progress of web")
	for name, state := range map[string]int{"cut": cut, "dark": dark} {
		began := time.Now()
		b.set(state)
		p.linkIs("No connection")
		p.shows("Connection lost since")
		inTime(t, name+": the page says so", time.Since(began))
		p.until("document.querySelector('.row.old')") // what is shown is grey
		p.accessible("no connection")
		p.picture("lost")
		b.set(through)
		inTime(t, name+": true again", p.isTrue(d, id, "Live"))
		p.shows("Connected again")
	}
}

func TestThroughAProxyThatHoldsEventsBackThePageAsksAndSaysSo(t *testing.T) {
	if testing.Short() {
		t.Skip("long: make it runs it")
	}
	d, id := slow(t)
	b := proxy(t, d)
	p := open(t, b.URL, "/")
	p.moves("Progress of web")
	b.holding.Store(true)
	inTime(t, "held back: the page asks", p.linkIs("Every 2 s"))
	p.shows("A proxy must not buffer")
	for range 3 {
		inTime(t, "asked", p.isTrue(d, id, "Every 2 s"))
	}
	p.accessible("polling")
	b.holding.Store(false)
	p.isTrue(d, id, "Live")
	b.holding.Store(true)
	p = open(t, b.URL, "/jobs/"+string(id)) // a browser that has never had an event
	inTime(t, "from the begin: the page asks", p.linkIs("Every 2 s"))
	p.isTrue(d, id, "Every 2 s")
}

func TestABrowserThatWasOfflineIsTrueSoonAfter(t *testing.T) {
	if testing.Short() {
		t.Skip("long: make it runs it")
	}
	d, id := slow(t)
	b := proxy(t, d)
	p := open(t, b.URL, "/jobs/"+string(id))
	p.moves("Progress of the whole job")
	all := []*browser.Tab{p.Tab, p.worker()}
	offline := func(off bool) {
		for _, at := range all {
			_, err := chromedp.Call(at.Raw(), emulateNetwork, network.OverrideNetworkStateParams{
				Offline: off, DownloadThroughput: -1, UploadThroughput: -1,
			})
			p.must(err)
		}
	}
	offline(true)
	b.set(cut) // what the browser has open ends, as with a network that goes away
	b.set(through)
	inTime(t, "offline: the page says so", p.linkIs("No connection"))
	offline(false)
	inTime(t, "online: true again", p.isTrue(d, id, "Live"))
}

func TestABrowserThatSleptIsTrueSoonAfter(t *testing.T) {
	if testing.Short() {
		t.Skip("long: make it runs it")
	}
	d, id := slow(t)
	p := open(t, d.URL, "/")
	p.moves("Progress of web")
	before := jobOf(t, d, id).OverallPercent
	if err := shared.chromium.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = shared.chromium.Signal(syscall.SIGCONT) })
	eventually(t, "the job moves on", func() bool { return jobOf(t, d, id).OverallPercent > before+5 })
	if err := shared.chromium.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	inTime(t, "awake: true again", p.isTrue(d, id, "Live"))
}

// emulateNetwork lets new requests fail; those that are under way go on.
var emulateNetwork = cdp.Command[network.OverrideNetworkStateParams, cdp.Empty]{
	Method: "Network.emulateNetworkConditions",
}

// worker attaches to the worker that all tabs of this profile share.
func (p *page) worker() *browser.Tab {
	p.Helper()
	var of *browser.Tab
	eventually(p, "the shared worker", func() bool {
		list, err := chromedp.Targets(p.Raw())
		p.must(err)
		for _, i := range list {
			if i.Type == "shared_worker" && i.BrowserContextID == chromedp.FromContext(p.Raw()).BrowserContextID {
				t, err := p.Attach(i.TargetID)
				p.must(err)
				of = t
				return true
			}
		}
		return false
	})
	p.Cleanup(of.Close)
	return of
}

func TestAfterARestartOfTheDaemonThePageIsTrueSoon(t *testing.T) {
	if testing.Short() {
		t.Skip("long: make it runs it")
	}
	d, id := slow(t)
	p := open(t, d.URL, "/")
	p.moves("Progress of web")
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		if err := d.End(sig); err != nil {
			t.Fatal(err)
		}
		inTime(t, sig.String()+": the page says so", p.linkIs("No connection"))
		if err := d.Again(t.Context(), ""); err != nil {
			t.Fatal(err)
		}
		inTime(t, sig.String()+": true again", p.isTrue(d, id, "Live"))
		p.moves("Progress of web")
	}
}

func TestAScreenThatCouldNotBeLoadedSaysSoAndIsLoadedWhenTheDaemonIsBack(t *testing.T) {
	if testing.Short() {
		t.Skip("long: make it runs it")
	}
	const failed = "This screen could not be loaded"
	b := proxy(t, daemon(t, ""))
	b.lacking.Store(true)
	p := open(t, b.URL, "/")
	p.linkIs("Live")
	p.click("link", "System")
	p.shows(failed)
	if value[bool](p, "document.body.innerText.includes('upgraded')") {
		t.Error("the page says that vmferry was upgraded")
	}
	p.accessible("a screen that could not be loaded")
	b.lacking.Store(false)
	p.click("button", "Load the page again")
	p.shows("Limits of this node")

	b.lacking.Store(true)
	p.to("/")
	p.linkIs("Live")
	b.set(cut)
	p.linkIs("No connection")
	p.click("link", "System")
	p.shows("It is loaded when the daemon answers again.")
	b.lacking.Store(false)
	b.set(through)
	p.shows("Limits of this node")
	p.Troubles() // the browser tells of what it could not load
}

func TestEightTabsAreLiveByOneStream(t *testing.T) {
	if testing.Short() {
		t.Skip("long: make it runs it")
	}
	const many = 8
	d, id := slow(t)
	p := open(t, d.URL, "/")
	tabs := []*tabOf{{p, "Progress of web"}}
	for i := 1; i < many; i++ {
		path, bar := "/", "Progress of web"
		if i%2 == 1 {
			path, bar = "/jobs/"+string(id), "Progress of the whole job"
		}
		tabs = append(tabs, &tabOf{p.beside(path), bar})
	}
	for i, q := range tabs {
		q.moves(q.bar)
		t.Logf("tab %d is live; hidden: %v", i+1, value[bool](q.page, "document.hidden"))
	}
	s, err := d.Client.System(t.Context())
	if err != nil || s.Streams != 1 {
		t.Errorf("%d streams: %v", s.Streams, err)
	}
	// A tab that was hidden shows what is true as soon as it is seen.
	for _, q := range tabs {
		value[bool](q.page, `(Object.defineProperty(document, 'hidden', {configurable: true, get: () => true}),
			document.dispatchEvent(new Event('visibilitychange')))`)
	}
	before := jobOf(t, d, id).OverallPercent
	eventually(t, "the job moves on", func() bool { return jobOf(t, d, id).OverallPercent > before+1 })
	for i, q := range tabs {
		value[bool](q.page, "delete document.hidden && document.dispatchEvent(new Event('visibilitychange'))")
		now := jobOf(t, d, id).OverallPercent
		took := q.until(fmt.Sprintf("%s >= %v", barOf(q.bar), now))
		inTime(t, fmt.Sprintf("seen again, tab %d", i+1), took)
		q.quiet()
	}
	for _, q := range tabs[1:] {
		q.Close()
	}
	p.moves("Progress of web")
}

type tabOf struct {
	*page
	bar string
}
