// Command benchpage measures the page in Debian's Chromium, on a daemon with 1000 jobs of other copy tools, 200 of
// which run and change four times a second.
//
//	first row     from the begin of the navigation until the first job is drawn, with an empty cache
//	sizes         of what the first screen loads, and of the whole page, after gzip
//	work          script, style and layout of the tab's main thread, milliseconds of CPU in a second
//	tabs          eight tabs: how many of them show changes, and how many streams the daemon has
//	memory        of the tab's heap, after that
//
// It writes the figures between two marks of docs/benchmarks.md.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/vmferry/vmferry/scripts/document"
	"github.com/vmferry/vmferry/web/browser"
)

// options is what the command line says.
type options struct {
	vmferryd string        // path
	out      string        // document that the figures go to; "" for none
	running  int           // jobs that run
	listed   int           // jobs in the list
	span     time.Duration // of the measurement of work
}

const (
	every = 250 * time.Millisecond // between two changes of a job
	tabs  = 8
)

func main() {
	var o options
	flag.StringVar(&o.vmferryd, "vmferryd", "bin/vmferryd", "the daemon to measure")
	flag.StringVar(&o.out, "out", "docs/benchmarks.md", "write the figures into this document ('' only prints them)")
	flag.IntVar(&o.running, "running", 200, "jobs that run")
	flag.IntVar(&o.listed, "listed", 1000, "jobs in the list")
	flag.DurationVar(&o.span, "span", 15*time.Second, "how long the work of the tab is measured")
	flag.Parse()
	document.Run("benchpage", func(ctx context.Context, stdout io.Writer) error { return run(ctx, o, stdout) })
}

func run(ctx context.Context, o options, stdout io.Writer) (err error) {
	if o.vmferryd, err = filepath.Abs(o.vmferryd); err != nil {
		return err
	}
	path, err := browser.Find()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "bp")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	d, err := browser.StartDaemon(ctx, o.vmferryd, dir, "log: {level: warn}\n")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.End(syscall.SIGTERM)) }()
	c, err := browser.Start(ctx, path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	before := document.LoadAverage()
	figures, err := underLoad(ctx, o, d, c)
	if err != nil {
		return err
	}
	text := section(o, before, document.LoadAverage(), figures)
	_, _ = io.WriteString(stdout, text)
	return marks.Write(o.out, text)
}

// underLoad measures while the jobs change.
func underLoad(ctx context.Context, o options, d *browser.Daemon, c *browser.Chromium) (list []figure, err error) {
	load := &browser.Load{Client: d.Client, Running: o.running, Listed: o.listed, Every: every}
	if err := load.Post(ctx); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	var wait sync.WaitGroup
	var sent int64
	var failed error
	began := time.Now()
	wait.Go(func() { sent, failed = load.Run(ctx) })
	defer func() {
		cancel()
		wait.Wait()
		err = errors.Join(err, failed)
		list = append(list, figure{
			name: "changes that were posted", value: fmt.Sprintf("%.0f /s", float64(sent)/time.Since(began).Seconds()),
			wanted: fmt.Sprintf("%.0f /s", float64(o.running)/every.Seconds()),
		})
	}()
	for _, measure := range []func(context.Context, options, *browser.Daemon, *browser.Chromium) ([]figure, error){
		firstRow, sizes, work,
	} {
		some, err := measure(ctx, o, d, c)
		if err != nil {
			return list, err
		}
		list = append(list, some...)
	}
	return list, nil
}
