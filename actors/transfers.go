package actors

import (
	"fmt"
	"slices"

	"github.com/asynkron/protoactor-go/actor"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/messages"
)

// transfers is the actor transfers, one on each node. It spawns the transfers that Disks request. It spawns a transfer
// only when the transfer before it at the same disk has ended, so a target never has two writers.
type transfers struct {
	*deps
	aggregator *actor.PID
	running    map[volume]run
	waiting    map[volume]request // until the transfer before it has ended
	enders     []ender
}

// ender waits until transfers of a job have ended.
type ender struct {
	messages.EndTransfers
	job *actor.PID
}

func (e ender) means(v volume) bool { return v.job == e.Job && (e.Disk == "" || e.Disk == v.disk) }

// volume is a disk of a job. Its target takes one writer.
type volume struct {
	job  job.ID
	disk job.DiskID
}

// run is a transfer and its Disk.
type run struct{ pid, disk *actor.PID }

// request is a Disk's request for a transfer.
type request struct {
	task job.TransferTask
	disk *actor.PID
}

func transfersProps(d *deps, aggregator *actor.PID) *actor.Props {
	return rootProps(d, transfersKind,
		&transfers{deps: d, aggregator: aggregator, running: map[volume]run{}, waiting: map[volume]request{}})
}

// HandleFailure makes this actor the supervisor of its transfers: a transfer that panics is stopped, and its Disk gets
// the reason. It is called by protoactor in this actor's mailbox.
func (t *transfers) HandleFailure(sys *actor.ActorSystem, sup actor.Supervisor, child *actor.PID,
	_ *actor.RestartStatistics, reason, _ any,
) {
	t.panicked(transferKind, child, reason)
	for _, r := range t.running {
		if r.pid.Equal(child) {
			sys.Root.Send(r.disk, messages.TransferCrashed{Reason: fmt.Sprint(reason)})
		}
	}
	sup.StopChildren(child)
}

func (t *transfers) Receive(c actor.Context) {
	switch m := c.Message().(type) {
	case messages.StartTransfer:
		t.start(c, request{m.Task, c.Sender()})
	case messages.EndTransfers:
		t.end(c, ender{m, c.Sender()})
	case messages.LimitJob:
		t.transfers.LimitJob(m.ID, m.Limits)
	case messages.Forget:
		t.transfers.Forget(m.ID)
	case *actor.Terminated:
		t.ended(c, m.Who)
	}
}

// end stops transfers whose Disks are gone, and answers when they have ended.
func (t *transfers) end(c actor.Context, e ender) {
	for v := range t.waiting {
		if e.means(v) {
			delete(t.waiting, v)
		}
	}
	for v, r := range t.running {
		if e.means(v) {
			c.Stop(r.pid)
		}
	}
	t.enders = append(t.enders, e)
	t.answerEnders(c)
}

// answerEnders answers those for which nothing runs any more.
func (t *transfers) answerEnders(c actor.Context) {
	t.enders = slices.DeleteFunc(t.enders, func(e ender) bool {
		for v := range t.running {
			if e.means(v) {
				return false
			}
		}
		c.Send(e.job, messages.TransfersOver{Job: e.Job, Disk: e.Disk})
		return true
	})
}

// start spawns a transfer. If the transfer before it still runs, it stops that one first: its Disk has ended, or the
// Job would not have begun another attempt.
func (t *transfers) start(c actor.Context, r request) {
	v := volume{r.task.Job, r.task.Disk.Disk.ID}
	if before, ok := t.running[v]; ok {
		t.waiting[v] = r
		c.Stop(before.pid)
		return
	}
	pid, err := c.SpawnNamed(transferProps(transferDeps{t.deps, t.aggregator, r.disk, r.task}), transferName(r.task))
	if err != nil {
		t.log.Error("a transfer could not be started", "job_id", v.job, "disk", v.disk, "err", err)
		c.Send(r.disk, messages.TransferEnded{
			Counters: r.task.Disk.Counters,
			Cause:    &job.Failure{Kind: job.Internal, Message: "start transfer: " + err.Error(), Next: reportFault},
		})
		return
	}
	t.running[v] = run{pid, r.disk}
	c.RequestWithCustomSender(r.disk, messages.TransferStarted{}, pid)
}

// ended spawns the transfer that waited for the end of this one.
func (t *transfers) ended(c actor.Context, pid *actor.PID) {
	for v, r := range t.running {
		if !r.pid.Equal(pid) {
			continue
		}
		delete(t.running, v)
		if next, ok := t.waiting[v]; ok {
			delete(t.waiting, v)
			t.start(c, next)
		}
		t.answerEnders(c)
		return
	}
}

// transferName is <job>/<disk>@<attempt>. No two transfers of a job have one name: news of the end of an actor goes by
// name, and reaches whichever actor has that name by then. So the attempt is named by its round and its kind, too.
func transferName(t job.TransferTask) string {
	name := fmt.Sprintf("%s/%s@%d.%d", t.Job, t.Disk.Disk.ID, t.Round, t.Disk.Attempt)
	if t.Verify != "" {
		name += "-verify"
	}
	return name
}
