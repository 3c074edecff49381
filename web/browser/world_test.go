package browser_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vmferry/vmferry/http/rest"
	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
	"github.com/vmferry/vmferry/web/browser"
)

// patience is the most that a step may take on a slow machine, where the time is not what is tested.
const patience = 60 * time.Second

// shared is what all tests of a run use.
var shared struct {
	once     sync.Once
	err      error
	chromium *browser.Chromium
	program  string // the daemon
	dir      string
}

func TestMain(m *testing.M) {
	code := m.Run()
	if shared.chromium != nil {
		_ = shared.chromium.Close()
	}
	if shared.dir != "" {
		_ = os.RemoveAll(shared.dir)
	}
	os.Exit(code)
}

// world builds the daemon and starts the browser, once. Without Chromium or nbdkit the test is skipped, and fails in
// CI.
func world(tb testing.TB) {
	tb.Helper()
	path, err := browser.Find()
	if _, lookup := exec.LookPath("nbdkit"); lookup != nil {
		err = errors.Join(err, lookup)
	}
	if err != nil {
		if os.Getenv("CI") == "true" {
			tb.Fatal(err)
		}
		tb.Skip(err)
	}
	shared.once.Do(func() {
		if shared.dir, shared.err = os.MkdirTemp("", "vfb"); shared.err != nil { //nolint:usetesting // of all tests
			return
		}
		if shared.program, shared.err = build(filepath.Join(shared.dir, "vmferryd")); shared.err != nil {
			return
		}
		shared.chromium, shared.err = browser.Start(context.Background(), path)
	})
	if shared.err != nil {
		tb.Fatal(shared.err)
	}
}

// build builds the daemon, with the flags of go build.
func build(to string, flags ...string) (string, error) {
	argv := append([]string{"build", "-trimpath", "-o", to}, flags...)
	argv = append(argv, "github.com/vmferry/vmferry/cmd/vmferryd")
	out, err := exec.Command("go", argv...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("go build: %w: %s", err, out)
	}
	return to, nil
}

// folder is a folder with a short path, for sockets are in it.
func folder(tb testing.TB) string {
	tb.Helper()
	dir, err := os.MkdirTemp(shared.dir, "") //nolint:usetesting // short
	if err != nil {
		tb.Fatal(err)
	}
	return dir
}

// daemon starts a daemon that the test ends.
func daemon(tb testing.TB, config string) *browser.Daemon {
	tb.Helper()
	world(tb)
	d, err := browser.StartDaemon(tb.Context(), shared.program, folder(tb), config)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = d.End(syscall.SIGTERM) })
	return d
}

const mib = int64(1) << 20

// rehearsed starts a rehearsal vCenter with these VMs, and a daemon that reads from it.
func rehearsed(tb testing.TB, more string, vms ...browser.VM) *browser.Daemon {
	tb.Helper()
	world(tb)
	dir := folder(tb)
	v, err := browser.StartVCenter(tb.Context(), shared.program, dir, vms...)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = v.End() })
	targets := filepath.Join(dir, "t")
	if err := os.Mkdir(targets, 0o750); err != nil {
		tb.Fatal(err)
	}
	return daemon(tb, v.Config+"targets: {roots: ["+targets+"]}\n"+more)
}

// page is a tab with short words for what a test does.
type page struct {
	testing.TB
	*browser.Tab
	origin string
}

// open opens a tab with its own storage at an address of the daemon.
func open(tb testing.TB, origin, path string) *page {
	tb.Helper()
	world(tb)
	t, err := shared.chromium.Tab()
	if err != nil {
		tb.Fatal(err)
	}
	p := &page{tb, t, origin}
	tb.Cleanup(t.Close)
	p.to(path)
	return p
}

// beside opens one more tab of the same browser profile.
func (p *page) beside(path string) *page {
	p.Helper()
	t, err := p.Beside()
	if err != nil {
		p.Fatal(err)
	}
	p.Cleanup(t.Close)
	q := &page{p.TB, t, p.origin}
	q.to(path)
	return q
}

func (p *page) must(err error) {
	p.Helper()
	if err != nil {
		p.Fatal(err)
	}
}

func (p *page) to(path string) {
	p.Helper()
	var err error
	eventually(p, "the address is loaded", func() bool {
		// On a slow machine the daemon ends a connection whose request takes 5 s to come; a user would reload.
		err = p.Go(p.origin + path)
		return err == nil || !strings.Contains(err.Error(), "net::ERR_")
	})
	p.must(err)
}

func (p *page) until(expression string) time.Duration {
	p.Helper()
	return p.within(patience, expression)
}

func (p *page) within(limit time.Duration, expression string) time.Duration {
	p.Helper()
	took, err := p.Until(expression, limit)
	p.must(err)
	return took
}

// shows waits until the page has a text.
func (p *page) shows(text string) time.Duration {
	p.Helper()
	return p.until(fmt.Sprintf("document.body.innerText.includes(%q)", text))
}

func (p *page) click(role, name string) {
	p.Helper()
	p.must(p.Click(role, name))
}

func (p *page) fill(name, text string) {
	p.Helper()
	p.must(p.Fill(name, text))
}

func (p *page) press(keys string) {
	p.Helper()
	p.must(p.Press(keys))
}

func value[T any](p *page, script string) T {
	p.Helper()
	v, err := browser.Eval[T](p.Tab, script)
	if err != nil {
		p.Fatalf("%s: %v", script, err)
	}
	return v
}

// quiet fails if the page has complained, or asked for anything but its own address.
func (p *page) quiet() {
	p.Helper()
	for _, t := range p.Troubles() {
		p.Errorf("the page complains: %s", t)
	}
	for _, r := range p.Requests() {
		own := strings.HasPrefix(r, p.origin+"/")
		if !own && r != "about:blank" && !strings.HasPrefix(r, "data:") { // the browser's own icon of a date is data:
			p.Errorf("the page asks for %s", r)
		}
	}
}

// submit starts a job by the API.
func submit(tb testing.TB, d *browser.Daemon, vm string, o job.Options) report.Report {
	tb.Helper()
	r, _, err := d.Client.Submit(tb.Context(), job.Spec{VM: vm, Options: o}, rest.SubmitOptions{})
	if err != nil {
		tb.Fatalf("%v (%s)", err, job.NextOf(err))
	}
	return r
}

// eventually waits until a condition holds.
func eventually(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); !ok(); <-tick.C {
		if time.Now().After(end) {
			tb.Fatalf("not within %v: %s", patience, what)
		}
	}
}

// picture writes what is seen into docs/img, if VMFERRY_PICTURES says so.
func (p *page) picture(name string) {
	p.Helper()
	if os.Getenv("VMFERRY_PICTURES") == "" {
		return
	}
	raw, err := p.Picture()
	p.must(err)
	img, err := png.Decode(bytes.NewReader(raw))
	p.must(err)
	var out bytes.Buffer
	p.must((&png.Encoder{CompressionLevel: png.BestCompression}).Encode(&out, paletted(img)))
	p.must(os.WriteFile(filepath.Join("..", "..", "docs", "img", "page-"+name+".png"), out.Bytes(), 0o644))
}

// paletted is a picture with its 256 most frequent colours: a third of the size, and no eye sees it.
func paletted(img image.Image) *image.Paletted {
	b := img.Bounds()
	count := map[color.RGBA]int{}
	at := func(x, y int) color.RGBA { return color.RGBAModel.Convert(img.At(x, y)).(color.RGBA) }
	for y := b.Min.Y; y < b.Max.Y; y++ {
		for x := b.Min.X; x < b.Max.X; x++ {
			count[at(x, y)]++
		}
	}
	all := slices.SortedFunc(maps.Keys(count), func(a, b color.RGBA) int { return count[b] - count[a] })
	palette := color.Palette{}
	for _, c := range all[:min(len(all), 256)] {
		palette = append(palette, c)
	}
	nearest := map[color.RGBA]uint8{}
	for _, c := range all {
		nearest[c] = uint8(palette.Index(c))
	}
	out := image.NewPaletted(b, palette)
	for y := b.Min.Y; y < b.Max.Y; y++ {
		for x := b.Min.X; x < b.Max.X; x++ {
			out.SetColorIndex(x, y, nearest[at(x, y)])
		}
	}
	return out
}
