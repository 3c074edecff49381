package browser_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vmferry/vmferry/http/rest"
	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/web/browser"
)

// house is a daemon whose page has something to show on every screen: jobs in each state, a webhook that fails.
func house(tb testing.TB) (d *browser.Daemon, running, failed job.ID) {
	tb.Helper()
	secret := filepath.Join(tb.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("that which signs\n"), 0o600); err != nil {
		tb.Fatal(err)
	}
	big, pace := int64(96), mib
	if os.Getenv("VMFERRY_PICTURES") != "" {
		big, pace = 1536, 12*mib // so that speeds are those of a migration
	}
	d = rehearsed(tb, `
limits: {bandwidth_total: 64MiB}
webhooks:
  - url: http://127.0.0.1:9/tickets
    events: [failed, completed]
    secret_file: `+secret+"\n",
		browser.VM{Name: "web-01", Disks: []int64{big * mib, big / 2 * mib}},
		browser.VM{Name: "db-01", Disks: []int64{big * mib}},
		browser.VM{Name: "mail-01", Disks: []int64{8 * mib}},
		browser.VM{Name: "files-01", Disks: []int64{4 * mib, 4 * mib}},
		browser.VM{Name: "queue-01", Disks: []int64{64 * mib}})
	done := submit(tb, d, "mail-01", job.Options{Cutover: job.CutoverAuto, Verify: job.VerifyFull})
	waits := submit(tb, d, "files-01", job.Options{Cutover: job.CutoverManual, Verify: job.VerifySample})
	paused := submit(tb, d, "queue-01", limited(mib))
	submit(tb, d, "db-01", limited(pace/2))
	running = submit(tb, d, "web-01", limited(pace)).JobID
	reaches := func(id job.ID, status string) {
		eventually(tb, status, func() bool { return string(jobOf(tb, d, id).Status) == status })
	}
	reaches(done.JobID, "completed")
	reaches(waits.JobID, "waiting_cutover")
	l := &browser.Load{Client: d.Client, Running: 0, Listed: 2, Every: time.Second}
	if err := l.Post(tb.Context()); err != nil { // one of them has failed
		tb.Fatal(err)
	}
	killReader(tb, d, running, "disk-2001")
	killReader(tb, d, paused.JobID, "disk-2000")
	if err := d.Client.Command(tb.Context(), paused.JobID, job.Pause); err != nil {
		tb.Fatal(err)
	}
	reaches(paused.JobID, "paused")
	return d, running, l.JobID(0)
}

// screen is one address, and what is there once it is complete.
type screen struct{ name, path, ready string }

func screens(running, failed job.ID) []screen {
	return []screen{
		{"migrations", "/", barOf("Progress of web-01") + " > 0"},
		{
			"job", "/jobs/" + string(running),
			barOf("Progress of disk-2001") + " > 0 && document.querySelector('.u-over')",
		},
		{"job-failed", "/jobs/" + string(failed), "document.querySelector('.note.bad')"},
		{"no-job", "/jobs/nothing", "document.body.innerText.includes('no such job')"},
		{"new", "/new", browser.At("field", "web-01")},
		{"volumes", "/volumes", "document.querySelectorAll('table').length === 2"},
		{"history", "/history", "document.body.innerText.includes('mail-01')"},
		{"system", "/system", "document.body.innerText.includes('127.0.0.1:9')"},
	}
}

func TestEveryScreenIsAccessibleInBothThemesAndFitsANarrowScreen(t *testing.T) {
	if testing.Short() {
		t.Skip("long: make it runs it")
	}
	d, running, failed := house(t)
	p := open(t, d.URL, "/")
	for _, scheme := range schemes {
		p.must(p.Scheme(scheme))
		for _, s := range screens(running, failed) {
			p.to(s.path)
			p.until(s.ready)
			p.accessible(s.name + " " + scheme)
			p.picture(s.name + "-" + scheme)
		}
	}
	p.must(p.View(390, 844))
	for _, s := range screens(running, failed) {
		p.to(s.path)
		p.until(s.ready)
		p.fits(s.name, 390)
		p.accessible(s.name + " narrow")
		if s.name == "migrations" || s.name == "job" {
			p.picture(s.name + "-narrow")
		}
	}
	for _, said := range p.Troubles() { // one screen asks for a job that there is not
		if !strings.Contains(said, "404") {
			t.Error(said)
		}
	}
}

func TestThePolicyOfThePageAllowsOnlyItsOwnFiles(t *testing.T) {
	if testing.Short() {
		t.Skip("long: make it runs it")
	}
	d := daemon(t, "")
	answer, err := http.Get(d.URL + "/")
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	policy := answer.Header.Get("Content-Security-Policy")
	if !strings.Contains(policy, "default-src 'self'") || strings.Contains(policy, "unsafe") {
		t.Errorf("Content-Security-Policy %q", policy)
	}
	p := open(t, d.URL, "/")
	p.shows("No migration yet")
	if value[bool](p, `(() => {
		const s = document.createElement('script');
		s.textContent = 'window.inlined = true';
		document.body.append(s);
		return !!window.inlined;
	})()`) {
		t.Error("an inline script has run")
	}
	p.until(`new Promise((done) => {
		const i = new Image();
		i.onerror = () => done(true);
		i.onload = () => done(false);
		i.src = 'http://127.0.0.1:9/elsewhere.png';
	})`)
	if said := strings.Join(p.Troubles(), "\n"); strings.Count(said, "Content Security Policy") < 2 {
		t.Errorf("what the browser says of it: %s", said)
	}
}

func TestWithKeysAloneEverythingIsReached(t *testing.T) {
	if testing.Short() {
		t.Skip("long: make it runs it")
	}
	d, _, _ := house(t)
	p := open(t, d.URL, "/")
	p.shows("web-01")
	p.press("?")
	p.shows("all migrations")
	p.accessible("help")
	p.press("\u001b")
	p.until("!document.querySelector('[role=dialog]')")
	p.press("/")
	p.until("document.activeElement.type === 'search'")
	p.must(p.Type("web-01"))
	p.until("document.querySelectorAll('[role=rowgroup] [role=row]').length === 1")
	p.press("\u001b")
	p.until("document.activeElement === document.body")
	p.press("j")
	p.until("document.activeElement.textContent === 'web-01'")
	p.press("x") // chosen, so that there are commands for it
	p.until("document.querySelector('.bulk')")
	p.press("\r")
	p.until("location.pathname.startsWith('/jobs/')")
	p.shows("disk-2001")
	p.tabTo("button", "Pause")
	p.press("\r")
	p.until("document.querySelector('[role=dialog]')?.contains(document.activeElement)")
	p.tabTo("button", "Pause")
	p.press("\r")
	p.until("document.querySelector('header .chip').textContent.includes('Paused')")
	p.press("\u001b")
	p.until("location.pathname === '/'")
	for _, place := range []string{"Volumes", "History", "System", "New"} {
		p.tabTo("link", place)
		p.press("\r")
		p.until(fmt.Sprintf("document.querySelector('nav [aria-current=page]')?.innerText.trim() === %q", place))
	}
	p.until(browser.At("field", "db-01"))
	p.tabTo("field", "Search the VMs")
	p.must(p.Type("files"))
	p.until("!(" + browser.At("field", "db-01") + ")")
	p.press("g") // in a field it is a letter
	p.until("document.activeElement.value === 'filesg'")
	p.quiet()
}

// tabTo presses the tabulator until the element has the focus, and sees that the focus is visible.
func (p *page) tabTo(role, name string) {
	p.Helper()
	p.until(browser.At(role, name))
	const most = 400
	for range most {
		p.press("\t")
		if value[bool](p, fmt.Sprintf("document.activeElement === (%s)", browser.At(role, name))) {
			if !value[bool](p, `(() => {
				const s = getComputedStyle(document.activeElement);
				return s.outlineStyle !== 'none' && parseFloat(s.outlineWidth) > 0;
			})()`) {
				p.Errorf("the focus of %s %q is not seen", role, name)
			}
			return
		}
	}
	p.Fatalf("the tabulator does not reach %s %q", role, name)
}

func TestNamesCanDoNothingToThePage(t *testing.T) {
	if testing.Short() {
		t.Skip("long: make it runs it")
	}
	names := []string{
		`<img src=x onerror="window.hit=1">`, "evil\u202egpj.exe\u2066", strings.Repeat("long", 20),
		"<svg onload=window.hit=2>",
	}
	var vms []browser.VM
	for _, n := range names {
		vms = append(vms, browser.VM{Name: n, Disks: []int64{2 * mib}})
	}
	d := rehearsed(t, "", vms...)
	const other = "job-of-another-tool"
	if err := d.Client.Progress(t.Context(), other, rest.ProgressUpdate{
		Stage: "</title><script>window.hit=3</script>" + strings.Repeat("very long ", 3), Status: "failed",
		ErrorMessage: "bell \u0007 red \u001b[31m turned \u202e <img src=x onerror=window.hit=4> " +
			strings.Repeat("x", 500),
	}); err != nil {
		t.Fatal(err)
	}
	p := open(t, d.URL, "/new")
	p.shows(fmt.Sprintf("%d VMs of", len(names)))
	list, err := d.Client.VMs(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	var ids []job.ID
	for _, vm := range list.VMs {
		ids = append(ids, submit(t, d, vm.Ref, job.Options{Cutover: job.CutoverManual, Verify: job.VerifySample}).JobID)
	}
	harmless := func(where string) {
		p.fits(where, browser.Width)
		if value[bool](p, "!!window.hit || !!document.querySelector('main img, main script')") {
			t.Errorf("%s: a name has become markup", where)
		}
		if value[bool](p, `/[\u202a-\u202e\u2066-\u2069\u0007\u001b]/.test(document.body.innerText + document.title)`) {
			t.Errorf("%s: a name has marks that change what is read", where)
		}
	}
	harmless("new")
	p.to("/")
	p.until(fmt.Sprintf("document.querySelectorAll('[role=rowgroup] [role=row]').length === %d", len(names)+1))
	harmless("migrations")
	for _, id := range ids {
		p.to("/jobs/" + string(id))
		p.shows("disk-2000")
		harmless("job " + string(id))
	}
	p.to("/jobs/" + other)
	p.shows("of another tool")
	harmless("job of another tool")
	for _, path := range []string{
		"/volumes", "/history", "/system", "/jobs/%3Cimg%20src=x%20onerror=%22window.hit=5%22%3E",
	} {
		p.to(path)
		p.until("document.querySelector('main').innerText.length > 20")
		harmless(path)
	}
}

func TestAPageFromBeforeAnUpgradeSaysSo(t *testing.T) {
	if testing.Short() {
		t.Skip("long: make it runs it")
	}
	world(t)
	start, err := filepath.Abs("../dist/index.html")
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(start)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	changed, overlay := filepath.Join(dir, "index.html"), filepath.Join(dir, "overlay.json")
	for file, content := range map[string]string{
		changed: strings.Replace(string(text), "<noscript>", "<noscript>The next version. ", 1),
		overlay: fmt.Sprintf(`{"Replace": {%q: %q}}`, start, changed),
	} {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	next, err := build(filepath.Join(dir, "vmferryd"), "-overlay", overlay)
	if err != nil {
		t.Fatal(err)
	}
	d := daemon(t, "")
	p := open(t, d.URL, "/")
	p.linkIs("Live")
	if err := d.End(15); err != nil {
		t.Fatal(err)
	}
	p.linkIs("No connection")
	if err := d.Again(t.Context(), next); err != nil {
		t.Fatal(err)
	}
	p.linkIs("Live")
	p.shows("vmferry was upgraded")
	p.click("button", "Reload")
	p.until("document.readyState === 'complete' && !document.body.innerText.includes('was upgraded')")
	p.linkIs("Live")
}

func TestABrowserWhoseClockIsWrongShowsNoWrongAge(t *testing.T) {
	if testing.Short() {
		t.Skip("long: make it runs it")
	}
	d, id := slow(t)
	for _, off := range []string{"3600e3", "-3600e3"} {
		p := open(t, d.URL, "/")
		script := fmt.Sprintf(`(() => {
			const D = Date, off = %s;
			globalThis.Date = class extends D {
				constructor(...a) { if (a.length) super(...a); else super(D.now() + off); }
				static now() { return D.now() + off; }
			};
		})()`, off)
		if _, err := browser.Eval[any](p.worker(), script+", true"); err != nil {
			t.Fatal(err)
		}
		p.must(p.BeforeEach(script))
		p.to("/jobs/" + string(id))
		p.until("Math.abs(Date.now() - " + fmt.Sprint(time.Now().UnixMilli()) + ") > 3000e3")
		p.moves("Progress of the whole job")
		age := value[string](p, `[...document.querySelectorAll('header .small')].find((e) =>
			e.textContent.startsWith('taken')).textContent`)
		var s int
		if _, err := fmt.Sscanf(age, "taken %d s ago", &s); err != nil || s > 10 {
			t.Errorf("off by %s ms: %q", off, age)
		}
		p.until("!document.querySelector('.stale')")
		p.to("/system")
		p.shows("this browser's differs by 1 h")
		p.quiet()
	}
}

func TestEmptyScreensSayWhatIsMissing(t *testing.T) {
	if testing.Short() {
		t.Skip("long: make it runs it")
	}
	d := daemon(t, "")
	p := open(t, d.URL, "/")
	p.shows("No migration yet")
	for path, text := range map[string]string{
		"/volumes": "No volume yet", "/history": "Nothing was migrated yet", "/system": "not configured",
		"/new": "The VMs can't be read", // there is no vCenter
	} {
		p.to(path)
		p.shows(text)
		p.accessible("empty " + path)
	}
}
