// Command tamper moves VMs, while other processes write to the targets, swap, move, link, truncate and restore them at
// random moments. After each round that a job says is done, every byte of the target must be that of the disk as the
// round's snapshot froze it. What differs is judged by what was recorded: when the target was touched, where, and what
// the job did then (judge.go has the rules).
//
//	for each seed: make a plan (plan.go), then play it (play.go):
//	  one or two VMs, targets (a file, a loop device, an export), jobs with rounds and commands, acts at moments
//	  after each round: compare (compare.go), judge (judge.go), count (score.go)
//
// A run is one job. The last line of the output is for programs. The seeds of a batch share a rehearsal vCenter and a
// daemon.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

type options struct {
	vmferry string
	seeds   int
	first   uint64
	dir     string
	workers int
	keep    bool // the scratch folder
}

const (
	exitFailed      = 1
	exitUsage       = 2
	exitInterrupted = 130
)

func main() {
	o := options{}
	flag.StringVar(&o.vmferry, "vmferry", "bin/vmferry", "the vmferry to try")
	flag.IntVar(&o.seeds, "seeds", 10, "how many seeds to play")
	flag.Uint64Var(&o.first, "first", 1, "the first seed; the others follow it")
	flag.StringVar(&o.dir, "dir", "", "make the scratch folder in this one (default the system's)")
	flag.IntVar(&o.workers, "workers", 4, "seeds that are played at the same time")
	flag.BoolVar(&o.keep, "keep", false, "leave the scratch folder, with all logs")
	flag.Parse()
	if flag.NArg() > 0 || o.seeds < 1 || o.workers < 1 {
		fmt.Fprintln(os.Stderr, "tamper: flags only, and at least one seed and one worker")
		os.Exit(exitUsage)
	}
	//nolint:forbidigo // the root of all
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, o, os.Stdout)
	stop()
	os.Exit(code)
}

func run(ctx context.Context, o options, out io.Writer) int {
	path, err := filepath.Abs(o.vmferry)
	if err == nil {
		o.vmferry = path
		o.dir, err = os.MkdirTemp(o.dir, "vftamper")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "tamper:", err)
		return exitFailed
	}
	began := time.Now()
	t := &tamper{options: o, score: newScore(o.seeds)}
	say("seeds %d to %d, %s", o.first, o.first+uint64(o.seeds)-1, o.dir)
	err = t.run(ctx)
	t.score.write(out)
	say("it took %v", time.Since(began).Round(time.Second))
	code := 0
	switch {
	case ctx.Err() != nil:
		fmt.Fprintln(os.Stderr, "tamper: interrupted")
		code = exitInterrupted
	case err != nil:
		fmt.Fprintln(os.Stderr, "tamper: failed:", err)
		code = exitFailed
	case t.score.failed():
		code = exitFailed
	}
	if o.keep {
		fmt.Fprintln(os.Stderr, "tamper: logs and disks are in", o.dir)
	} else if err := os.RemoveAll(o.dir); err != nil {
		fmt.Fprintln(os.Stderr, "tamper:", err)
		code = max(code, exitFailed)
	}
	if code != exitInterrupted {
		t.score.last(out)
	}
	return code
}

func say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, time.Now().Format("15:04:05.000 ")+format+"\n", args...)
}
