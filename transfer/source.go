package transfer

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/nbd/kit"
)

// Limits of waiting around a copy.
const (
	stopServer = 10 * time.Second
	renewEvery = 15 * time.Second // a session can end at any time; until it is renewed, reads are retried
)

// withSource runs f with a server in front of the frozen disk. If the source failed, the reason that the server
// gives comes before what f says: the server knows why it could not read.
func (a attempt) withSource(ctx context.Context, f func(context.Context, *kit.Server, job.Export) error) (err error) {
	export, err := a.Source.Export(ctx, a.task.VM, a.task.Snapshot, a.task.Disk.Disk.ID)
	if err != nil {
		return err
	}
	dir, err := a.runDir()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	server, err := kit.Serve(ctx, export, dir, a.log())
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	renewed := make(chan struct{})
	go func() { defer close(renewed); a.renew(ctx, server, export) }()
	err = f(ctx, server, export)
	if err != nil && ctx.Err() == nil {
		if cause := server.Cause(err); cause != nil {
			a.log().Info("the source's server gave the reason", "copy_err", err, "err", cause)
			err = cause
		}
	}
	cancel()
	<-renewed
	stopping, end := context.WithTimeout(context.WithoutCancel(ctx), stopServer)
	defer end()
	if serr := server.Stop(stopping); serr != nil {
		a.log().Warn("nbdkit did not end well", "err", serr)
	}
	return err
}

// renew hands the newest session cookie to a server that reads with one.
func (a attempt) renew(ctx context.Context, s *kit.Server, e job.Export) {
	for _, p := range e.Params {
		if !p.Renewed {
			continue
		}
		for ctx.Err() == nil {
			pause(ctx, renewEvery)
			if ctx.Err() != nil {
				return
			}
			cookie, err := a.Source.SessionCookie(ctx)
			if err == nil {
				err = s.Renew(p.Key, cookie)
			}
			if err != nil && ctx.Err() == nil {
				a.Log.Warn("the session cookie could not be renewed", "err", err)
			}
		}
	}
}

// pause waits, or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// runDir makes the private folder of an attempt. Its name is short, and gives nothing away.
func (a attempt) runDir() (string, error) {
	sum := sha256.Sum256([]byte(fmt.Sprintf("%s/%s", a.task.Job, a.task.Disk.Disk.ID)))
	if err := os.MkdirAll(a.RunDir, 0o700); err != nil {
		return "", job.SystemError("make run folder", "", err)
	}
	dir, err := os.MkdirTemp(a.RunDir, hex.EncodeToString(sum[:3])+"-")
	if err != nil {
		return "", job.SystemError("make run folder", "", err)
	}
	return dir, nil
}
