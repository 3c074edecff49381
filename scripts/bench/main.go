// Command bench compares `vmferry copy` with nbdcopy, qemu-img and a blocking loop on this machine.
//
//	for each workload:
//	  set up a rig: data, nbdkit servers, a target; all tools get the same
//	  one pass of each tool that is not timed; the target's content is checked
//	  for each rival: pairs of passes, ours first, then theirs first, ...; the content is checked after each
//	  take the rig down
//	write the medians of the pairs' ratios, and the demands on them
//
// The time of a pass is that of a whole process, from its start to its end.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
)

// options is what the command line says.
type options struct {
	vmferry string         // path
	before  string         // path of an earlier vmferry, the only rival then; "" for the other tools
	pairs   int            // of passes, for each rival
	scale   float64        // of all sizes
	only    *regexp.Regexp // of names of workloads; nil for all
	out     string         // path of the report; "" for none
	dir     string         // where the scratch folder goes; "" for the system's
}

const (
	exitFailed      = 1 // a workload could not be finished, or a tool copied wrongly
	exitUsage       = 2
	exitInterrupted = 130
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == blockingMode {
		os.Exit(blockingMain(os.Args[2:], os.Stderr))
	}
	o := define(flag.CommandLine)
	flag.Parse()
	if err := o.complete(flag.CommandLine); err != nil {
		_, _ = fmt.Fprintf(os.Stderr, "bench: %v\n", err)
		os.Exit(exitUsage)
	}
	//nolint:forbidigo // the root of all
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, *o, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// define defines the flags.
func define(f *flag.FlagSet) *options {
	o := &options{}
	f.StringVar(&o.vmferry, "vmferry", "bin/vmferry", "the vmferry to measure")
	f.StringVar(&o.before, "before", "",
		"compare only with this earlier vmferry, and want no more than a tenth more time")
	f.IntVar(&o.pairs, "pairs", 5, "pairs of passes for each rival; more where their ratios differ")
	f.Float64Var(&o.scale, "scale", 1, "make all sizes smaller by this factor, to try the bench itself")
	f.Func("only", "run only workloads whose name matches this regular expression", func(text string) (err error) {
		o.only, err = regexp.Compile(text)
		return err
	})
	f.StringVar(&o.out, "out", "docs/benchmarks.md",
		"write the report there ('' only prints it; so do -only, -scale and -before, unless -out is given)")
	f.StringVar(&o.dir, "dir", "",
		"make the scratch folder in this one, on a real disk with 25 GB to spare (default the system's)")
	return o
}

// complete checks the flags.
func (o *options) complete(f *flag.FlagSet) (err error) {
	if f.NArg() > 0 || o.pairs < 1 || o.scale <= 0 || o.scale > 1 {
		return errors.New("flags only, at least one pair, and a scale of more than 0 and at most 1")
	}
	given := map[string]bool{}
	f.Visit(func(f *flag.Flag) { given[f.Name] = true })
	if !given["out"] && (given["only"] || given["scale"] || given["before"]) {
		o.out = "" // a part of the report must not replace all of it
	}
	if o.vmferry, err = filepath.Abs(o.vmferry); err != nil {
		return err
	}
	if o.before != "" {
		if o.before, err = filepath.Abs(o.before); err != nil {
			return err
		}
	}
	if o.dir == "" {
		return nil
	}
	o.dir, err = filepath.Abs(o.dir)
	return err
}

func run(ctx context.Context, o options, stdout, stderr io.Writer) int {
	failed, err := measure(ctx, o, stdout, stderr)
	switch {
	case ctx.Err() != nil:
		_, _ = fmt.Fprintln(stderr,
			"bench: interrupted; what had been finished is on standard output, and no file was written")
		return exitInterrupted
	case err != nil:
		_, _ = fmt.Fprintf(stderr, "bench: %v\n", err)
		return exitFailed
	case failed:
		return exitFailed
	}
	return 0
}

// measure runs the workloads and writes the report. failed says that a workload failed.
func measure(ctx context.Context, o options, stdout, stderr io.Writer) (failed bool, err error) {
	b, err := newBench(ctx, o, stderr)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	m := machineOf(ctx, b.vmferry.path)
	outcomes := b.run(ctx, workloads())
	if len(outcomes) == 0 && ctx.Err() != nil {
		return false, ctx.Err()
	}
	for _, u := range outcomes {
		failed = failed || u.failed()
	}
	text := report(b, m, outcomes)
	if _, err := io.WriteString(stdout, text); err != nil || o.out == "" || ctx.Err() != nil {
		return failed, err
	}
	old, err := os.ReadFile(o.out)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return failed, err
	}
	text += othersSection(string(old))
	return failed, os.WriteFile(o.out, []byte(text), 0o644) //nolint:gosec // a document for everybody
}

// othersSection is the part of the document that scripts/benchapi has written, with a blank line before it; "" if there
// is none.
func othersSection(document string) string {
	const begin, end = "<!-- benchapi: written by make bench-api -->", "<!-- benchapi: end -->\n"
	_, rest, found := strings.Cut(document, begin)
	part, _, ended := strings.Cut(rest, end)
	if !found || !ended {
		return ""
	}
	return "\n" + begin + part + end
}
