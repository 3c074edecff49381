package app

import (
	"cmp"
	"context"
	"time"

	"github.com/vmferry/vmferry/actors"
	apihttp "github.com/vmferry/vmferry/http"
	"github.com/vmferry/vmferry/http/rest"
	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
	"github.com/vmferry/vmferry/store"
	"github.com/vmferry/vmferry/webhook"
)

// This file gives the node the interfaces that http needs.

// reports is the in-process projection.
type reports struct{ *store.Memory }

func (r reports) Subscribe(after report.Version) (snapshot []*report.Report, missed []report.Change, resumed bool,
	sub apihttp.Subscription,
) {
	return r.Memory.Subscribe(after)
}

// commands passes commands to the node, within the limits of the configuration.
type commands struct {
	node       *actors.Node
	journal    *store.Journal
	vcenter    *vcenter
	refusal    func(context.Context, job.Spec) error // why a job can never work; nil while that is not known
	limits     Limits                                // of the configuration
	configured job.Limits                            // of the node, as the configuration has them
}

func (c commands) Submit(ctx context.Context, spec job.Spec, s rest.SubmitOptions) (job.ID, bool, error) {
	if s.Node != "" {
		return "", false, job.Errorf("find node", job.NotFound, "Leave the node out, or ask an OMA",
			"this daemon watches no nodes")
	}
	if err := c.vcenter.configured(); err != nil {
		return "", false, err
	}
	o := &spec.Options
	o.Bandwidth = cmp.Or(o.Bandwidth, int64(c.limits.BandwidthPerJob))
	o.Patience = cmp.Or(o.Patience, c.limits.Patience)
	o.LastRoundPatience = cmp.Or(o.LastRoundPatience, c.limits.LastRoundPatience)
	if err := c.within(spec.Options.Bandwidth); err != nil {
		return "", false, err
	}
	if err := c.refused(ctx, spec, s); err != nil {
		return "", false, err
	}
	return c.node.Submit(ctx, spec, s.ID, s.IdempotencyKey, s.BodyHash)
}

// refused is refusal for a request that has not come before, also not while it was looked at: the job of the first
// request may be what is in the way of the second.
func (c commands) refused(ctx context.Context, spec job.Spec, o rest.SubmitOptions) error {
	if c.repeated(ctx, o) {
		return nil
	}
	if err := c.refusal(ctx, spec); err != nil && !c.repeated(ctx, o) {
		return err
	}
	return nil
}

// repeated says whether the request has come before: then the answer is the job that it made, or the reason why that
// can't be, whatever its VM and targets are by now.
func (c commands) repeated(ctx context.Context, o rest.SubmitOptions) bool {
	if o.IdempotencyKey == "" {
		return false
	}
	_, found, err := c.journal.Lookup(ctx, store.Key{Name: o.IdempotencyKey, BodyHash: o.BodyHash}, time.Now())
	return found || err != nil
}

func (c commands) Command(ctx context.Context, id job.ID, command job.CommandReceived) error {
	return c.node.Command(ctx, id, command)
}

func (c commands) Limit(ctx context.Context, id job.ID, l job.Limited) error {
	if l.Bandwidth != nil {
		if err := c.within(*l.Bandwidth); err != nil {
			return err
		}
	}
	if l.Patience != nil && *l.Patience == 0 {
		l.Patience = &c.limits.Patience
	}
	if l.LastRoundPatience != nil && *l.LastRoundPatience == 0 {
		l.LastRoundPatience = &c.limits.LastRoundPatience
	}
	return c.node.Limit(ctx, id, l)
}

func (c commands) Rehearse(ctx context.Context, id job.ID, disk job.DiskID) error {
	return c.node.Rehearse(ctx, id, disk)
}

func (c commands) Limits() (job.Limits, []job.HostUse) { return c.node.Limits() }

// SetLimits stores the new limits before they take effect, so that they hold after a restart too.
func (c commands) SetLimits(ctx context.Context, l *job.Limits) error {
	now := c.configured
	if l != nil {
		now = *l
	}
	if err := now.Check(); err != nil {
		return err
	}
	if err := c.journal.SetLimits(ctx, l); err != nil {
		return err
	}
	return c.node.SetLimits(now)
}

// within refuses a bandwidth above the configured limit of a job. 0, no limit, is above it too.
func (c commands) within(bandwidth int64) error {
	if most := int64(c.limits.BandwidthPerJob); most > 0 && (bandwidth == 0 || bandwidth > most) {
		return job.Errorf("set bandwidth", job.Invalid, "Ask for at most "+job.FormatSize(most)+
			"/s, or raise "+bandwidthKey+" in the configuration", "this is above the daemon's limit for a job")
	}
	return nil
}

func (c commands) ExternalUpdate(ctx context.Context, id job.ID, u report.Update) error {
	return c.node.ExternalUpdate(ctx, id, u)
}

func (c commands) Events(ctx context.Context, id job.ID) ([]apihttp.Event, error) {
	saved, err := c.journal.Events(ctx, id)
	if err != nil {
		return nil, err
	}
	out := make([]apihttp.Event, len(saved))
	for i, e := range saved {
		out[i] = apihttp.Event{Seq: e.Seq, At: e.At, JSON: e.JSON}
	}
	return out, nil
}

// system returns the state of the daemon.
type system struct {
	role    Role
	started time.Time
	node    *actors.Node
	vcenter *vcenter
	nodes   *nodes
	hooks   *webhook.Sender
	link    optionalLink
}

// State says that the daemon is ready where jobs are accepted: they are while the vCenter is away, since jobs can wait.
func (s system) State(context.Context) apihttp.SystemState {
	out := apihttp.SystemState{
		Role: string(s.role), StartedAt: s.started, Ready: s.vcenter.configured() == nil, Sinks: []rest.Sink{},
		VCenter: s.vcenter.state(), Actors: apihttp.ActorState(s.node.Stats()),
		Webhooks: webhookStates(s.hooks),
	}
	if s.role == OMA {
		out.Ready = len(s.nodes.list) > 0
		out.VCenter.Message, out.VCenter.Next = "an OMA has no vCenter: its nodes have ("+names(s.nodes.ours())+")", ""
		if !out.Ready {
			out.Reason = "no nodes are configured"
		}
	}
	if v := out.VCenter; v.State.Down() {
		out.Reason = v.Message
	}
	for _, l := range s.link.status() {
		out.Links = append(out.Links, apihttp.LinkState{Node: l.Name, Link: *linkOf(l)})
	}
	for _, h := range s.node.Sinks() {
		sink := rest.Sink{Name: h.Name, OK: !h.Down, Message: h.Err, Next: h.Next}
		if h.Down {
			since := h.Since
			sink.Since, sink.LagSeconds = &since, time.Since(since).Seconds()
		}
		out.Sinks = append(out.Sinks, sink)
	}
	return out
}
