package browser

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/chromedp/chromedp"

	"github.com/vmferry/vmferry/job"
)

// Size of the window, in pixels.
const (
	Width  = 1280
	Height = 800
)

// Find finds Chromium. The error is of kind Missing.
func Find() (string, error) {
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", job.Errorf("find Chromium", job.Missing, "Install the package chromium", "chromium is not installed")
}

// Chromium is a running browser without a window. Several goroutines may use it.
type Chromium struct {
	ctx    context.Context //nolint:containedctx // chromedp keeps the browser in it
	cancel context.CancelFunc
	dir    string // of its profile
}

// Start starts the Chromium at path, with an empty profile. It lives until Close, or until ctx ends. It takes any
// certificate, for the daemons of tests have their own.
func Start(ctx context.Context, path string) (*Chromium, error) {
	dir, err := os.MkdirTemp("", "vmferry-chromium-")
	if err != nil {
		return nil, err
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path), chromedp.UserDataDir(dir), chromedp.WindowSize(Width, Height),
		chromedp.Flag("ignore-certificate-errors", true), chromedp.Flag("disable-gpu", true),
		chromedp.Flag("hide-scrollbars", true), chromedp.Flag("lang", "en"),
		chromedp.ModifyCmdFunc(func(c *exec.Cmd) {
			c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		}),
	)
	if os.Geteuid() == 0 {
		options = append(options, chromedp.NoSandbox) // its sandbox refuses root
	}
	allocated, end := chromedp.NewExecAllocator(ctx, options...)
	browser, cancel := chromedp.NewContext(allocated)
	c := &Chromium{ctx: browser, dir: dir, cancel: func() { cancel(); end() }}
	if err := chromedp.Do(browser); err != nil {
		return nil, errors.Join(&job.Error{Op: "start " + path, Kind: job.Unavailable, Err: err}, c.Close())
	}
	return c, nil
}

// Close ends the browser and removes its profile.
func (c *Chromium) Close() error {
	c.cancel()
	return os.RemoveAll(c.dir)
}

// Signal sends a signal to every process of the browser: SIGSTOP is a laptop that goes to sleep, SIGCONT wakes it.
func (c *Chromium) Signal(sig syscall.Signal) error {
	process := chromedp.FromContext(c.ctx).Browser.Process()
	for _, pid := range descendants(process.Pid) {
		_ = syscall.Kill(pid, sig) // fails if the process has ended meanwhile
	}
	return process.Signal(sig)
}

// descendants are the processes that a process has started, and those that these have started.
func descendants(of int) []int {
	children := map[int][]int{}
	files, _ := filepath.Glob("/proc/[0-9]*/stat") // fails only for a bad pattern
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		fields := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])
		if err != nil || len(fields) < 2 {
			continue
		}
		if parent, err := strconv.Atoi(string(fields[1])); err == nil {
			children[parent] = append(children[parent], pid)
		}
	}
	var out []int
	for next := children[of]; len(next) > 0; next = next[1:] {
		out = append(out, next[0])
		next = append(next, children[next[0]]...)
	}
	return out
}
