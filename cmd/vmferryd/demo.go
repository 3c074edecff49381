package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/vmferry/vmferry/app"
	"github.com/vmferry/vmferry/cmd/internal/cli"
	"github.com/vmferry/vmferry/job"
)

const demoHelp = `Rehearses a whole migration on this machine, with the programs of a real one: the daemon of vmferry
serve, a real redis-server, a real MariaDB if mariadb-server-core is installed, and one job as vmferry run starts it.
Only the vCenter is a rehearsal vCenter (vmferry sim vcenter).

It makes disks with file systems and files, moves them while a guest "runs", kills the reader of one disk in the
middle, writes as the guest, moves only what has changed, and compares source and target by SHA-256, outside the copy
engine.

Exit code 0 only if all disks are equal. Ctrl-C at any time removes everything. The demo needs nbdkit, redis-server and
e2fsprogs; it names the package of a program that is missing.`

const demoExample = `  vmferry demo
  vmferry demo --keep --size 4GiB          then: vmferry watch, curl, redis-cli, in another terminal
  vmferry demo -o json | jq '.disks[].equal'`

type demoFlags struct {
	dir       string
	disks     int
	size      string
	bandwidth string
	keep      bool
}

func newDemoCommand(s cli.Streams) *cobra.Command {
	c := cli.DaemonCommands()["demo"]
	c.Long, c.Example, c.Args = demoHelp, demoExample, cobra.NoArgs
	f, show, out := &demoFlags{}, cli.ProgressFlag(c), cli.OutputFlag(c, cli.AsTable, cli.AsJSON, cli.AsYAML)
	c.Flags().StringVar(&f.dir, "dir", "",
		"folder in which the demo makes a folder of its own (default: the folder for temporary files)")
	c.Flags().IntVar(&f.disks, "disks", 2, fmt.Sprintf("how many disks the VM has, 1 to %d", mostDemoDisks))
	c.Flags().StringVar(&f.size, "size", "1GiB", "size of each disk, from 64MiB")
	c.Flags().StringVar(&f.bandwidth, "bandwidth", "",
		"limit the first round to this many bytes per second, as in 100MiB")
	c.Flags().BoolVar(&f.keep, "keep", false, "leave everything running until Ctrl-C")
	c.RunE = func(c *cobra.Command, _ []string) error {
		d, err := f.demo(s, out)
		if err != nil {
			return err
		}
		if d.view, err = show.View(s); err != nil {
			return err
		}
		return d.run(c.Context())
	}
	return c
}

func (f *demoFlags) demo(s cli.Streams, out *cli.Output) (*demo, error) {
	size, err := job.ParseSize(f.size)
	switch {
	case err != nil:
		return nil, err
	case size < leastDemoDisk || size%(1<<20) != 0:
		return nil, cli.Usage("--size is at least 64MiB and a whole number of MiB, not %s", f.size)
	case f.disks < 1 || f.disks > mostDemoDisks:
		return nil, cli.Usage("--disks is 1 to %d, not %d", mostDemoDisks, f.disks)
	}
	d := &demo{
		Streams: s, out: out, size: size, count: f.disks, keep: f.keep, parent: f.dir,
		paint: cli.Paint(s.Coloured(s.Err)),
	}
	if f.bandwidth != "" {
		if d.hold, err = job.ParseSize(f.bandwidth); err != nil {
			return nil, err
		}
	}
	return d, nil
}

// demo is one run of the demo.
type demo struct {
	cli.Streams
	out    *cli.Output
	paint  cli.Paint
	view   cli.View
	parent string
	size   int64 // of each disk, bytes
	count  int
	keep   bool
	hold   int64 // limit of the first round in bytes per second; 0: choose one

	dir   string
	disks []demoDisk
	stack stack
	tell  sync.Mutex
}

// words writes a line of words above what the view shows. Several goroutines may call it.
func (d *demo) words(format string, args ...any) {
	d.tell.Lock()
	defer d.tell.Unlock()
	d.view.Say(fmt.Sprintf(format, args...))
}

// run does everything, and ends everything that it started.
func (d *demo) run(ctx context.Context) (err error) {
	began := time.Now()
	if err := d.prepare(ctx); err != nil {
		return d.end(ctx, err)
	}
	result, err := d.rehearse(ctx)
	d.view.Close()
	if err != nil {
		return d.end(ctx, err)
	}
	d.words("")
	d.words("The whole demo took %s.", time.Since(began).Round(100*time.Millisecond))
	if d.keep {
		d.keepRunning(ctx, result)
	}
	if err := d.stack.stop(); err != nil {
		return err
	}
	d.lastWords(result)
	if err := d.write(result); err != nil {
		return err
	}
	return result.verdict()
}

// end stops everything after a failure. The files stay, except after Ctrl-C.
func (d *demo) end(ctx context.Context, err error) error {
	d.view.Close()
	err = errors.Join(err, d.stack.stop())
	if d.dir == "" {
		return err
	}
	if ctx.Err() != nil {
		d.Say("stopped; the demo's folder is removed")
		return errors.Join(cli.Exit(cli.ExitInterrupted, nil), os.RemoveAll(d.dir))
	}
	d.Say("the demo's files are in %s; logs are in %s", d.dir, filepath.Join(d.dir, "*.log"))
	return err
}

// prepare finds the programs, makes the disks and starts everything.
func (d *demo) prepare(ctx context.Context) error {
	programs := map[string]string{}
	for _, p := range [][2]string{
		{"nbdkit", "nbdkit"},
		{"redis-server", "redis-server"},
		{"mkfs.ext4", "e2fsprogs"},
		{"debugfs", "e2fsprogs"},
	} {
		path, err := app.FindProgram(p[0], p[1])
		if err != nil {
			return err
		}
		programs[p[0]] = path
	}
	if err := d.makeDir(); err != nil {
		return err
	}
	d.words("%s", d.paint.Bold("vmferry demo: moves a VM, with real numbers"))
	d.words("Making %d disks of %s with file systems and files in them, in %s", d.count, job.FormatSize(d.size), d.dir)
	d.disks = demoDisks(d.dir, d.count, d.size)
	group, making := errgroup.WithContext(ctx)
	group.Go(func() error { return d.startHistory(making) })
	group.Go(func() error {
		for _, k := range d.disks {
			if err := k.make(making, programs["mkfs.ext4"]); err != nil {
				return err
			}
		}
		return nil
	})
	if err := group.Wait(); err != nil {
		return err
	}
	return d.stack.start(ctx, d, programs["redis-server"])
}

// longestDir is the longest path, in bytes, of the demo's folder: paths of sockets in it must not exceed 107 bytes.
const longestDir = 60

// makeDir makes the demo's folder, where there is room for it.
func (d *demo) makeDir() error {
	const op = "make the demo's folder"
	if d.parent != "" {
		abs, err := filepath.Abs(d.parent)
		if err != nil {
			return &job.Error{Op: op, Kind: job.Invalid, Err: err}
		}
		if err := os.MkdirAll(abs, 0o750); err != nil {
			return &job.Error{Op: op, Kind: job.Permission, Next: "Name another folder with --dir", Err: err}
		}
		d.parent = abs
	}
	dir, err := os.MkdirTemp(d.parent, "vmferry-demo-")
	if err != nil {
		return &job.Error{Op: op, Kind: job.Permission, Next: "Name another folder with --dir", Err: err}
	}
	d.dir = dir
	if len(dir) > longestDir {
		return errors.Join(job.Errorf(op, job.Invalid, "Name a folder with a shorter path with --dir, as in --dir /tmp",
			"the path %s is too long for the sockets in the folder", dir), d.discard())
	}
	var fs syscall.Statfs_t
	if err := syscall.Statfs(dir, &fs); err != nil {
		return errors.Join(&job.Error{Op: op, Kind: job.IO, Err: err}, d.discard())
	}
	need := d.need()
	if free := int64(fs.Bavail) * fs.Bsize; free < need {
		return errors.Join(job.Errorf(op, job.NoSpace,
			"Name a folder with more room with --dir, or make the disks smaller with --size",
			"the demo needs %s and %s has %s", job.FormatSize(need), filepath.Dir(dir), job.FormatSize(free)),
			d.discard())
	}
	return nil
}

// discard removes the demo's folder.
func (d *demo) discard() error {
	dir := d.dir
	d.dir = ""
	return os.RemoveAll(dir)
}

// need is the bytes of the sources, the targets, and the files of one disk while it is made.
func (d *demo) need() int64 {
	sum := int64(64<<20 + historyBytes)
	for _, k := range demoDisks("", d.count, d.size) {
		sum += int64(2 * k.fill * float64(d.size))
	}
	return sum + d.size
}
