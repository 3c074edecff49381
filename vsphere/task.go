package vsphere

import (
	"context"
	"errors"
	"time"

	"github.com/vmware/govmomi/task"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/vmferry/vmferry/job"
)

// A task is started once. Only the wait survives lost sessions and connections. It polls the task's state: govmomi's
// collector of updates reports a little sooner, but returns success for a wait that was cancelled, and its calls
// outlive the context.

// start begins a task. If the connection breaks it is unknown whether the task began: the caller must find out.
func (c *Client) start(ctx context.Context, op string,
	f func(context.Context) (types.ManagedObjectReference, error),
) (ref types.ManagedObjectReference, err error) {
	err = c.do(ctx, op, 0, func(ctx context.Context) (err error) {
		ref, err = f(ctx)
		return err
	})
	return ref, err
}

// wait returns the result of a task that succeeded, or its fault as an error. An error that matches errWait means that
// the task may still run.
func (c *Client) wait(ctx context.Context, op string, ref types.ManagedObjectReference) (types.AnyType, error) {
	failures := 0
	timer := time.NewTimer(firstPoll)
	defer timer.Stop()
	for pause := firstPoll; ; pause = min(mostPoll, pause+pause/4+1) {
		select {
		case <-ctx.Done():
			return nil, c.classify(op, errors.Join(errWait, context.Cause(ctx)))
		case <-timer.C:
		}
		info, err := c.taskInfo(ctx, op, ref)
		switch {
		case err == nil:
			failures = 0
		case ctx.Err() == nil && job.KindOf(err).Retryable() && failures < pollFailures:
			failures++
			pause = mostPoll
		default:
			return nil, &job.Error{Op: op, Kind: job.KindOf(err), Next: job.NextOf(err), Err: errors.Join(errWait, err)}
		}
		if result, done, err := c.outcome(op, info); done {
			return result, err
		}
		timer.Reset(pause)
	}
}

// errWait marks errors of a wait that ended before the task.
var errWait = errors.New("the wait ended before the task")

func (c *Client) taskInfo(ctx context.Context, op string, ref types.ManagedObjectReference) (types.TaskInfo, error) {
	var t mo.Task
	err := c.read(ctx, op, ref, &t, func() { t = mo.Task{} }, "info")
	return t.Info, err
}

func (c *Client) outcome(op string, info types.TaskInfo) (result types.AnyType, done bool, err error) {
	switch info.State {
	case types.TaskInfoStateSuccess:
		c.cfg.OnTask(op, 100)
		return info.Result, true, nil
	case types.TaskInfoStateError:
		return nil, true, c.classify(op, taskError(info))
	case types.TaskInfoStateRunning:
		c.cfg.OnTask(op, int(info.Progress))
	case types.TaskInfoStateQueued:
	}
	return nil, false, nil
}

func taskError(info types.TaskInfo) error {
	if info.Error == nil || info.Error.Fault == nil {
		return errors.New("the task failed and the vCenter gave no reason")
	}
	lf := *info.Error
	if lf.LocalizedMessage == "" {
		lf.LocalizedMessage = typeName(lf.Fault)
	}
	return task.Error{LocalizedMethodFault: &lf, Description: info.Description}
}

// run is start and wait, for a task without a result.
func (c *Client) run(ctx context.Context, op string,
	f func(context.Context) (types.ManagedObjectReference, error),
) error {
	ref, err := c.start(ctx, op, f)
	if err != nil {
		return err
	}
	_, err = c.wait(ctx, op, ref)
	return err
}
