package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/vmferry/vmferry/job"
)

const (
	mib = 1 << 20
	gib = 1 << 30

	leastSize = 8 * mib // of all data, however small the scale
)

// rig is the data, servers and devices of one workload. Its methods set it up. The first that fails keeps its error in
// err; the methods called after it do nothing.
type rig struct {
	ctx     context.Context //nolint:containedctx // the run of this workload, which the rig does not outlive
	b       *bench
	dir     string
	servers []*server
	devices []*os.File
	err     error
}

// newRig makes the folder of a rig.
func (b *bench) newRig(ctx context.Context, name string) (*rig, error) {
	r := &rig{ctx: ctx, b: b, dir: filepath.Join(b.dir, name)}
	return r, os.Mkdir(r.dir, 0o700)
}

// close takes the rig down. It works after errors, and after the end of ctx.
func (r *rig) close() error {
	for _, s := range r.servers {
		_ = s.End(syscall.SIGTERM) // nbdkit waits for clients without end; then it is killed, which is no failure
	}
	var errs []error
	for _, d := range r.devices {
		errs = append(errs, d.Close())
	}
	return errors.Join(append(errs, os.RemoveAll(r.dir))...)
}

// fail keeps the first error.
func (r *rig) fail(err error) {
	if r.err == nil {
		r.err = err
	}
}

// scaled is size by the scale, in whole MiB.
func (r *rig) scaled(size int64) int64 {
	return max(leastSize, int64(float64(size)*r.b.scale)/mib*mib)
}

// file returns the path of a file that other workloads may read, too.
func (r *rig) file(name string, write func(path string) error) string {
	if r.err != nil {
		return ""
	}
	if !r.b.data.have[name] {
		r.b.say("  making %s", name)
	}
	path, err := r.b.data.get(name, write)
	r.fail(err)
	return path
}

// disk is a file of random bytes.
func (r *rig) disk(size int64) content {
	n := r.scaled(size)
	path := r.file(fmt.Sprintf("noise-%d", n), func(p string) error { return writeNoise(r.ctx, p, n, 0) })
	return content{file: path, size: n}
}

// serve starts an nbdkit on a unix socket and returns its URI.
func (r *rig) serve(name string, args ...string) string { return r.start(name, false, args) }

// serveTCP starts an nbdkit on a free port of the loopback address.
func (r *rig) serveTCP(name string, args ...string) string { return r.start(name, true, args) }

func (r *rig) start(name string, tcp bool, args []string) string {
	if r.err != nil {
		return ""
	}
	s, err := startServer(r.ctx, r.dir, name, tcp, args)
	if err != nil {
		r.fail(err)
		return ""
	}
	r.servers = append(r.servers, s)
	return s.uri
}

// fill copies a file into a server and returns the server's URI.
func (r *rig) fill(uri string, c content) string {
	if r.err == nil {
		_, err := output(r.ctx, "nbdcopy", c.file, uri)
		r.fail(err)
	}
	return uri
}

// loopDevice makes a block device of a file on disk that has no holes. The device is gone when its file is closed, even
// if this process is killed.
func (r *rig) loopDevice(size int64) string {
	if r.err != nil {
		return ""
	}
	path := filepath.Join(r.dir, "disk")
	if err := writeNoise(r.ctx, path, size, 1); err != nil {
		r.fail(err)
		return ""
	}
	name, err := output(r.ctx, "losetup", "--find", "--show", "--direct-io=on", path)
	if err != nil {
		r.fail(skippedError{"no loop device can be made here: " + err.Error()})
		return ""
	}
	name = strings.TrimSpace(name)
	f, err := os.Open(name)
	if err == nil {
		r.devices = append(r.devices, f)
	}
	_, derr := output(context.WithoutCancel(r.ctx), "losetup", "--detach", name) // the kernel waits for the last close
	r.fail(errors.Join(err, derr))
	return name
}

// list writes a file of changed ranges.
func (r *rig) list(extents job.Extents) string {
	path := filepath.Join(r.dir, "changed.json")
	if r.err == nil {
		r.fail(writeList(path, extents))
	}
	return path
}

// need skips the workload if a program is not installed.
func (r *rig) need(program string) {
	if _, err := exec.LookPath(program); err != nil {
		r.fail(skippedError{program + " is not installed"})
	}
}

// fastest runs each tool once and returns the fastest.
func (r *rig) fastest(tools ...tool) tool {
	var best tool
	least := 0.0
	for _, t := range tools {
		if r.err != nil {
			break
		}
		s, err := together(r.ctx, t.commands)
		r.fail(err)
		r.b.say("  %s: %.2f s", t.name, s.wall)
		if best.name == "" || s.wall < least {
			best, least = t, s.wall
		}
	}
	return best
}
