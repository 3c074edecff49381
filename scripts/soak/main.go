// Command soak moves a VM of three disks again and again, and kills at random moments what takes part: the daemon, the
// servers of the sources, the servers of the targets, Redis. At the end every target must be equal to its source, and
// nothing may be left over.
//
//	start disks, a rehearsal vCenter, target servers, Redis, the daemon
//	until there were enough kills, and each job is done:
//	  run a full round, an incremental one, a cut-over; kill something every second or so
//	compare; look for leftovers; print one table
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"syscall"
	"time"
)

type options struct {
	vmferry string
	kills   int
	seed    int64
	dir     string
	only    *regexp.Regexp // of victims; nil for all
	keep    bool           // the scratch folder
}

const (
	exitFailed      = 1
	exitUsage       = 2
	exitInterrupted = 130
)

func main() {
	o := options{}
	flag.StringVar(&o.vmferry, "vmferry", "bin/vmferry", "the vmferry to try")
	flag.IntVar(&o.kills, "kills", 20, "how many kills")
	flag.Int64Var(&o.seed, "seed", time.Now().UnixNano()%1e6, "seed of all random choices")
	flag.StringVar(&o.dir, "dir", "", "make the scratch folder in this one (default the system's)")
	flag.Func("only", "kill only those whose line in the table matches this regular expression",
		func(text string) (err error) {
			o.only, err = regexp.Compile(text)
			return err
		})
	flag.BoolVar(&o.keep, "keep", false, "leave the scratch folder, with all logs")
	flag.Parse()
	if flag.NArg() > 0 || o.kills < 1 {
		fmt.Fprintln(os.Stderr, "soak: flags only, and at least one kill")
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
	if err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		return exitUsage
	}
	dir, err := os.MkdirTemp(o.dir, "vfsoak")
	if err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		return exitFailed
	}
	//nolint:gosec // repeatable by its seed
	s := &soak{
		vmferry: path, dir: dir, want: o.kills, only: o.only, random: rand.New(rand.NewPCG(uint64(o.seed), 1)),
		results: newResults(),
	}
	say("seed %d, %s", o.seed, dir)
	err = s.run(ctx)
	s.stack.end()
	if err == nil {
		err = s.leftovers(ctx)
	}
	s.results.write(out)
	switch {
	case ctx.Err() != nil:
		_ = os.RemoveAll(dir) // in a temporary folder
		fmt.Fprintln(os.Stderr, "soak: interrupted")
		return exitInterrupted
	case err != nil || s.results.failed():
		fmt.Fprintf(os.Stderr, "soak: failed: %v\n  logs and disks are in %s\n", err, dir)
		s.results.last(out)
		return exitFailed
	}
	s.results.last(out)
	if o.keep {
		return 0
	}
	if err := os.RemoveAll(dir); err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		return exitFailed
	}
	return 0
}

func say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, time.Now().Format("15:04:05.000 ")+format+"\n", args...)
}
