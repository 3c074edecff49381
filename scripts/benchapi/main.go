// Command benchapi measures what the daemon's API costs: external jobs, lists, metrics and event streams.
//
//	start the daemon on loopback, with nothing but itself
//	  posts for 10 jobs, then for all jobs: CPU of the daemon for each
//	  reads of one job, pages of the list, metrics: CPU for each
//	  its greatest memory
//	start another one
//	  1000 event streams, 200 of which are never read; posts; time from a post to its event at each reader
//	  its greatest memory
//	write the figures between two marks of docs/benchmarks.md
//
// CPU is the daemon's user and system time, by /proc/PID/stat, divided by the number of requests. So it holds all that
// the daemon does meanwhile: the journal, the ticks, the garbage collection.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/vmferry/vmferry/scripts/document"
)

// options is what the command line says.
type options struct {
	vmferryd string // path
	out      string // document that the figures go to; "" for none
	jobs     int    // external jobs
	clients  int    // event streams
	silent   int    // those of them that are never read
}

func main() {
	var o options
	flag.StringVar(&o.vmferryd, "vmferryd", "bin/vmferryd", "the daemon to measure")
	flag.StringVar(&o.out, "out", "docs/benchmarks.md", "write the figures into this document ('' only prints them)")
	flag.IntVar(&o.jobs, "jobs", 10_000, "external jobs")
	flag.IntVar(&o.clients, "clients", 1000, "event streams")
	flag.IntVar(&o.silent, "silent", 200, "event streams that are never read")
	flag.Parse()
	document.Run("benchapi", func(ctx context.Context, stdout io.Writer) error { return run(ctx, o, stdout) })
}

func run(ctx context.Context, o options, stdout io.Writer) (err error) {
	if o.vmferryd, err = filepath.Abs(o.vmferryd); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "benchapi")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	load := document.LoadAverage()
	var all []figure
	for _, part := range []struct {
		name    string
		measure func(context.Context, options, *daemon) ([]figure, error)
	}{{"jobs", measureJobs}, {"streams", measureStreams}} {
		figures, err := onDaemon(ctx, o, filepath.Join(dir, part.name), part.measure)
		if err != nil {
			return fmt.Errorf("%s: %w", part.name, err)
		}
		all = append(all, figures...)
	}
	text := section(o, load, document.LoadAverage(), all)
	_, _ = io.WriteString(stdout, text)
	return marks.Write(o.out, text)
}

// onDaemon measures on a daemon of its own.
func onDaemon(ctx context.Context, o options, dir string,
	measure func(context.Context, options, *daemon) ([]figure, error),
) (figures []figure, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	d, err := startDaemon(ctx, o, dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, d.end()) }()
	return measure(ctx, o, d)
}
