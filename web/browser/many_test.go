package browser_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vmferry/vmferry/web/browser"
)

// crowded is a daemon with 1000 jobs in its list, 200 of which run and change four times a second until the test ends.
func crowded(tb testing.TB) (*browser.Daemon, *browser.Load) {
	tb.Helper()
	d := daemon(tb, "log: {level: warn}\n")
	l := &browser.Load{Client: d.Client, Running: 200, Listed: 1000, Every: 250 * time.Millisecond}
	if err := l.Post(tb.Context()); err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(tb.Context())
	var wait sync.WaitGroup
	wait.Go(func() {
		if _, err := l.Run(ctx); err != nil {
			tb.Error(err)
		}
	})
	tb.Cleanup(func() {
		cancel()
		wait.Wait()
	})
	return d, l
}

func TestThePageShowsAThousandJobsAndTwoHundredThatRun(t *testing.T) {
	if testing.Short() {
		t.Skip("long: make it runs it")
	}
	d, l := crowded(t)
	p := open(t, d.URL, "/")
	p.shows("1000 migrations")
	count := func(chip string) string {
		return fmt.Sprintf(`(%s)?.querySelector('.count').textContent`, browser.At("button", chip))
	}
	p.until(count("Running") + " === '200'")
	p.until(count("All") + " === '1000'")
	p.until("document.querySelectorAll('[role=row]').length < 80") // only those near the screen exist
	p.accessible("a thousand jobs")
	first := "Progress of " + string(l.JobID(7))
	p.fill("Search VM", string(l.JobID(7)))
	p.until("document.querySelectorAll('[role=rowgroup] [role=row]').length === 1")
	p.moves(first)
	p.to("/?sort=vm")
	p.shows("1000 migrations")
	// To the last row and back, by the wheel of the mouse and by keys.
	value[bool](p, "(scrollTo(0, document.documentElement.scrollHeight), true)")
	p.until("document.querySelector('[aria-rowindex=\"1001\"]')")
	value[bool](p, "(scrollTo(0, 0), true)")
	p.until("document.querySelector('[aria-rowindex=\"2\"]')")
	for range 30 {
		p.press("j")
	}
	p.until("document.activeElement.closest('[role=row]')?.getAttribute('aria-rowindex') === '31'")
	p.press("k")
	p.until("document.activeElement.closest('[role=row]')?.getAttribute('aria-rowindex') === '30'")
	// Every bar is one, with a value.
	p.until(`[...document.querySelectorAll('[role=progressbar]')].every((e) =>
		e.getAttribute('aria-valuenow') >= 0 && e.getAttribute('aria-valuemax') === '100' &&
		e.getAttribute('aria-label'))`)
	p.quiet()
}

// aWorkerThatIsLate is a SharedWorker that starts only when the page calls window.begin.
const aWorkerThatIsLate = `(() => {
	const Real = SharedWorker;
	window.SharedWorker = class {
		constructor(...a) {
			const sent = [];
			const port = this.port = {start: () => {}, postMessage: (m) => sent.push(m)};
			window.begin = () => {
				const real = new Real(...a).port;
				real.onmessage = (e) => port.onmessage(e);
				real.start();
				port.postMessage = (m) => real.postMessage(m);
				sent.forEach(port.postMessage);
			};
		}
	};
})()`

func TestTheFirstRowsAreShownBeforeTheStreamAndCountOnlyWhatIsKnown(t *testing.T) {
	if testing.Short() {
		t.Skip("long: make it runs it")
	}
	world(t)
	d := daemon(t, "log: {level: warn}\n")
	l := &browser.Load{Client: d.Client, Running: 60, Listed: 80, Every: time.Second}
	if err := l.Post(t.Context()); err != nil {
		t.Fatal(err)
	}
	p := open(t, d.URL, "/login")
	p.must(p.BeforeEach(aWorkerThatIsLate))
	p.to("/")
	p.shows("50 migrations that go on. The others are being read.")
	p.linkIs("Connecting")
	p.until("document.querySelectorAll('[role=rowgroup] [role=row]').length > 5")
	p.until("document.querySelector('[role=rowgroup] .age').textContent.trim() !== ''") // each row says how old it is
	p.until("document.querySelector('[role=table]').getAttribute('aria-rowcount') === '-1'")
	if got := value[string](p, "document.querySelector('.totals .value').textContent"); got != "–" {
		t.Errorf("%s run, before all are known", got)
	}
	p.accessible("the first rows")
	p.until("typeof window.begin === 'function'")
	value[bool](p, "(window.begin(), true)")
	p.linkIs("Live")
	p.shows("80 migrations, 20 ended")
	p.until("document.querySelector('.totals .value').textContent === '60'")
	asked := 0
	for _, r := range p.Requests() {
		if strings.Contains(r, "/api/v1/jobs?") {
			asked++
		}
	}
	if asked != 1 {
		t.Errorf("the first rows are asked for %d times, want once", asked)
	}
	p.to("/?status=completed") // none of the first rows fits
	p.until("document.querySelector('[aria-busy=true]') && document.querySelectorAll('[role=row]').length === 0")
	p.quiet()
}
