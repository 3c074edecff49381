package app

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vmferry/vmferry/actors"
	apihttp "github.com/vmferry/vmferry/http"
	"github.com/vmferry/vmferry/http/rest"
	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
	"github.com/vmferry/vmferry/store"
)

// This file is what an OMA adds to a daemon: the nodes whose jobs it shows, and the way of commands to them.

// nodes are the configured nodes. Its methods may be called from many goroutines.
type nodes struct {
	list []*node
	oma  bool // this daemon runs no jobs itself

	mu   sync.Mutex
	keys map[string]string // idempotency keys and bodies -> the node that has the job
	old  []string          // the keys, oldest first
}

type node struct {
	cfg    Node
	client *rest.Client
}

const (
	nodeKeys  = 10_000           // idempotency keys whose nodes are known
	placeTime = 5 * time.Second  // of the question which node's vCenter has a VM
	paceTime  = 20 * time.Second // that a command is sent again while the node takes no more of them
	stateTime = 2 * time.Second  // of the question how a node is
)

func openNodes(end *ending, cfg Config) (*nodes, error) {
	n := &nodes{keys: map[string]string{}, oma: cfg.Role == OMA}
	for _, c := range cfg.Nodes {
		one, err := openNode(c)
		if err != nil {
			return nil, err
		}
		n.list = append(n.list, one)
	}
	end.with(func(context.Context) error {
		for _, one := range n.list {
			one.client.Close()
		}
		return nil
	})
	return n, nil
}

func openNode(c Node) (*node, error) {
	var options []rest.Option
	if c.TokenFile != "" {
		options = append(options, rest.WithTokenFile(c.TokenFile))
	}
	if c.CAFile != "" {
		pool, err := rest.ReadAuthorities(c.CAFile)
		if err != nil {
			return nil, err
		}
		options = append(options, rest.WithAuthorities(pool))
	}
	client, err := rest.NewClient(c.URL, options...)
	if err != nil {
		return nil, err
	}
	return &node{c, client}, nil
}

// watched are the nodes as the actors take them.
func (n *nodes) watched() []actors.WatchedNode {
	var out []actors.WatchedNode
	for _, one := range n.list {
		w := actors.WatchedNode{Name: one.cfg.Name}
		if one.cfg.Kind == string(report.LegacyNode) {
			w.Old, w.Jobs = one.client, one.cfg.Jobs
		} else {
			w.Peer = peer{one.client}
		}
		out = append(out, w)
	}
	return out
}

// peer is one of our nodes, as its Watcher needs it.
type peer struct{ client *rest.Client }

func (p peer) Follow(ctx context.Context, last string, each func(actors.PeerEvent)) error {
	return p.client.Stream(ctx, last, func(ev rest.StreamEvent) error {
		each(actors.PeerEvent(ev))
		return nil
	})
}

func (n *nodes) find(name string) *node {
	i := slices.IndexFunc(n.list, func(one *node) bool { return one.cfg.Name == name })
	if i < 0 {
		return nil
	}
	return n.list[i]
}

// ours are the nodes that take commands.
func (n *nodes) ours() []*node {
	return slices.DeleteFunc(slices.Clone(n.list), func(one *node) bool { return !one.commands() })
}

func (one *node) commands() bool { return one.cfg.Kind != string(report.LegacyNode) }

// names lists nodes for people.
func names(list []*node) string {
	var out []string
	for _, one := range list {
		out = append(out, one.cfg.Name)
	}
	return strings.Join(out, ", ")
}

// at says at which node an error arose. A problem that the node has answered stays as it is, unless it is about the
// token that this daemon has sent.
func (one *node) at(err error) error {
	if err == nil {
		return nil
	}
	kind := job.KindOf(err)
	p, answered := errors.AsType[*rest.Problem](err)
	if kind == job.Auth && (!answered || p.Code != string(job.Auth)) {
		return job.Errorf("ask node "+one.cfg.Name, job.Auth,
			"Put a token of that node into the file that nodes has as its token_file", "%v", err)
	}
	if answered {
		return err
	}
	if kind == job.Unavailable || kind == job.Timeout {
		return job.Errorf("ask node "+one.cfg.Name, kind, "Try again when vmferry get nodes shows it as connected",
			"%v", err)
	}
	return job.Errorf("ask node "+one.cfg.Name, kind, job.NextOf(err), "%w", err)
}

// paced sends a command again while the node says that this daemon sends too many of them: a request of a client may be
// for many jobs.
func (one *node) paced(ctx context.Context, send func() error) error {
	ctx, cancel := context.WithTimeout(ctx, paceTime)
	defer cancel()
	for {
		err := send()
		p, answered := errors.AsType[*rest.Problem](err)
		if !answered || p.Code != rest.CodeTooManyRequests {
			return one.at(err)
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return one.at(err)
		}
	}
}

// place finds the node that is to run a job of a VM: the named one, or the only one whose vCenter has the VM. Errors
// are NotFound (no such node, or no node has the VM), Conflict (several have it, or the node takes no commands), and
// Unavailable if none could say.
func (n *nodes) place(ctx context.Context, vm, name string) (*node, error) {
	const op = findNode
	if name != "" {
		return n.named(name)
	}
	list := n.ours()
	if len(list) == 0 {
		return nil, job.Errorf(op, job.Unavailable, "Name a VMA of vmferry in nodes, in the configuration",
			"no node runs jobs: this daemon has no vCenter of its own")
	}
	errs := whoKnows(ctx, list, vm)
	var have []*node
	var said []string
	missing, refusal := 0, error(nil)
	for i, err := range errs {
		switch {
		case err == nil:
			have = append(have, list[i])
		case job.KindOf(err) == job.NotFound:
			missing++
		case job.KindOf(err) == job.Conflict || job.KindOf(err) == job.Invalid:
			refusal = err
		}
		if err != nil {
			said = append(said, list[i].cfg.Name+": "+err.Error())
		}
	}
	switch {
	case len(have) == 1:
		return have[0], nil
	case len(have) > 1:
		return nil, job.Errorf(op, job.Conflict, "Name the one that is to run it: --node "+have[0].cfg.Name,
			"the VM can be reached through several nodes: %s", names(have))
	case refusal != nil:
		return nil, refusal
	case missing == len(list):
		return nil, job.Errorf(op, job.NotFound, "Check the name of the VM, or add the VMA of its vCenter to nodes",
			"no node's vCenter has the VM %q; asked: %s", vm, names(list))
	default:
		return nil, job.Errorf(op, job.Unavailable, "Look at vmferry get nodes",
			"no node could say that it has the VM: %s", strings.Join(said, "; "))
	}
}

const findNode = "find a node for the job"

// named is the node of that name, if it takes commands.
func (n *nodes) named(name string) (*node, error) {
	one := n.find(name)
	switch {
	case one == nil:
		return nil, job.Errorf(findNode, job.NotFound, "Use one of: "+names(n.ours()), "there is no node %q", name)
	case !one.commands():
		return nil, one.refuses()
	}
	return one, nil
}

// whoKnows asks each node whether its vCenter has a VM: nil for yes, in the order of the list.
func whoKnows(ctx context.Context, list []*node, vm string) []error {
	ctx, cancel := context.WithTimeout(ctx, placeTime)
	defer cancel()
	errs := make([]error, len(list))
	var all sync.WaitGroup
	for i, one := range list {
		all.Go(func() { errs[i] = one.client.KnowsVM(ctx, vm) })
	}
	all.Wait()
	return errs
}

// refuses is the error for a command to a node that takes none.
func (one *node) refuses() error {
	return job.Errorf("ask node "+one.cfg.Name, job.Conflict, "Use the tool that runs the job at that VMA",
		"node %s is an older VMA, which takes no commands", one.cfg.Name)
}

// keyed is the node that an earlier request with the key and body went to; nil for none.
func (n *nodes) keyed(o rest.SubmitOptions) *node {
	if o.IdempotencyKey == "" {
		return nil
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.find(n.keys[o.IdempotencyKey+" "+o.BodyHash])
}

func (n *nodes) remember(o rest.SubmitOptions, one *node) {
	key := o.IdempotencyKey + " " + o.BodyHash
	n.mu.Lock()
	defer n.mu.Unlock()
	if _, known := n.keys[key]; o.IdempotencyKey == "" || known {
		return
	}
	if len(n.old) >= nodeKeys {
		delete(n.keys, n.old[0])
		n.old = n.old[1:]
	}
	n.keys[key], n.old = one.cfg.Name, append(n.old, key)
}

// forwarding passes commands for jobs of other nodes to these nodes, and all others to this one.
type forwarding struct {
	commands
	nodes  *nodes
	memory *store.Memory
}

// Submit sends the job to a node, or takes it here if this daemon has a vCenter and no node is named.
func (f forwarding) Submit(ctx context.Context, spec job.Spec, o rest.SubmitOptions) (job.ID, bool, error) {
	if o.Node == "" && !f.nodes.oma && (f.vcenter.configured() == nil || len(f.nodes.list) == 0) {
		return f.commands.Submit(ctx, spec, o)
	}
	one := f.nodes.keyed(o)
	if one == nil {
		var err error
		if one, err = f.nodes.place(ctx, spec.VM, o.Node); err != nil {
			return "", false, err
		}
		// A job whose id another one has is not shown here, and no command reaches it.
		if r, err := f.memory.Report(ctx, o.ID); o.ID != "" && err == nil && r.Node != one.cfg.Name {
			return "", false, job.Errorf("submit", job.Conflict, "Leave the id out to get a new one",
				"job %s exists already, at %s", o.ID, whereIs(r))
		}
	}
	f.nodes.remember(o, one)
	r, existing, err := one.client.Submit(ctx, spec, rest.SubmitOptions{ID: o.ID, IdempotencyKey: o.IdempotencyKey})
	return r.JobID, existing, one.at(err)
}

// owner is the node of a job and its report; nil for a job of this node.
func (f forwarding) owner(ctx context.Context, id job.ID) (*node, report.Report, error) {
	r, err := f.memory.Report(ctx, id)
	if err != nil || r.Node == "" {
		return nil, r, nil //nolint:nilerr // a job that is not known is asked for here, which says so
	}
	one := f.nodes.find(r.Node)
	if one == nil {
		return nil, r, job.Errorf("find the node of the job", job.Conflict,
			"Delete the job here, or add the node again", "node %s is not configured any more", r.Node)
	}
	if !one.commands() {
		return one, r, one.refuses()
	}
	return one, r, nil
}

// Command passes the command on. A job that its node does not run any more, or that is at an older VMA and has ended or
// is lost, is deleted only here.
func (f forwarding) Command(ctx context.Context, id job.ID, c job.CommandReceived) error {
	one, r, err := f.owner(ctx, id)
	gone := r.Node != "" && (r.Status == job.Lost || err != nil && r.Status.Terminal())
	switch {
	case r.Node == "":
		return f.commands.Command(ctx, id, c)
	case c.Verb == job.Delete && gone:
		return f.node.UnwatchJob(ctx, r.Node, id)
	case err != nil:
		return err
	}
	if err := one.paced(ctx, func() error { return one.client.Ask(ctx, id, c) }); err != nil {
		return err
	}
	if c.Verb == job.Delete {
		return f.node.UnwatchJob(ctx, r.Node, id)
	}
	return nil
}

func (f forwarding) Limit(ctx context.Context, id job.ID, l job.Limited) error {
	one, r, err := f.owner(ctx, id)
	switch {
	case r.Node == "":
		return f.commands.Limit(ctx, id, l)
	case err != nil:
		return err
	}
	return one.paced(ctx, func() error { return one.client.ChangeLimits(ctx, id, l) })
}

func (f forwarding) Rehearse(ctx context.Context, id job.ID, disk job.DiskID) error {
	one, r, err := f.owner(ctx, id)
	switch {
	case r.Node == "":
		return f.commands.Rehearse(ctx, id, disk)
	case err != nil:
		return err
	}
	return one.at(one.client.RehearsePanic(ctx, id, disk))
}

// Events reads the journal of the node that runs the job.
func (f forwarding) Events(ctx context.Context, id job.ID) ([]apihttp.Event, error) {
	one, r, err := f.owner(ctx, id)
	switch {
	case r.Node == "":
		return f.commands.Events(ctx, id)
	case err != nil:
		return nil, err
	}
	list, err := one.client.Events(ctx, id)
	if err != nil {
		return nil, one.at(err)
	}
	out := make([]apihttp.Event, 0, len(list))
	for _, e := range list {
		text, err := json.Marshal(struct {
			Type string    `json:"type"`
			At   time.Time `json:"at"`
			Data any       `json:"data"`
		}{e.Type, e.At, e.Data})
		if err != nil {
			return nil, fmt.Errorf("read events: %w", err)
		}
		out = append(out, apihttp.Event{Seq: e.Seq, At: e.At, JSON: text})
	}
	return out, nil
}

// farSource asks the nodes what this daemon would ask its vCenter.
type farSource struct{ nodes *nodes }

// Inspect says what a node's vCenter has of a VM: its name, path, power state, and whether its changes are tracked.
func (s farSource) Inspect(ctx context.Context, vm string) (job.VM, error) {
	one, err := s.nodes.place(ctx, vm, "")
	if err != nil {
		return job.VM{}, err
	}
	c, err := one.client.CBTStatus(ctx, vm)
	return job.VM{Name: c.VMName, Path: c.VMPath, PowerState: c.PowerState, CBTEnabled: c.Enabled}, one.at(err)
}

// Preflight lets the node make the checks that would run the job.
func (s farSource) Preflight(ctx context.Context, spec job.Spec) ([]rest.Check, error) {
	one, err := s.nodes.place(ctx, spec.VM, "")
	if err != nil {
		return nil, err
	}
	r, err := one.client.Preflight(ctx, spec)
	return r.Checks, one.at(err)
}

// VMs gathers the VMs of all nodes. Those of a vCenter that several nodes have come once.
func (s farSource) VMs(ctx context.Context) (list []job.ListedVM, missing []string, err error) {
	asked := s.nodes.ours()
	lists, errs := make([]rest.VMList, len(asked)), make([]error, len(asked))
	var all sync.WaitGroup
	for i, one := range asked {
		all.Go(func() {
			l, err := one.client.VMs(ctx, "")
			lists[i], errs[i] = l, one.at(err)
		})
	}
	all.Wait()
	for i, l := range lists {
		if errs[i] != nil {
			missing = append(missing, asked[i].cfg.Name)
		}
		for _, vm := range l.VMs {
			list = append(list, listedVM(l.VCenter, vm))
		}
	}
	if len(missing) == len(asked) {
		return nil, nil, errors.Join(errs...)
	}
	slices.SortFunc(list, func(a, b job.ListedVM) int {
		return cmp.Or(cmp.Compare(a.Path, b.Path), cmp.Compare(a.Ref, b.Ref), cmp.Compare(a.VCenter, b.VCenter),
			cmp.Compare(a.UUID, b.UUID))
	})
	return slices.CompactFunc(list, func(a, b job.ListedVM) bool {
		return a.Path == b.Path && a.Ref == b.Ref && a.VCenter == b.VCenter && a.UUID == b.UUID
	}), missing, nil
}

// listedVM is a VM as the node of its vCenter lists it.
func listedVM(vcenter string, vm rest.VM) job.ListedVM {
	out := job.ListedVM{Folder: vm.Folder, Template: vm.Template, VM: job.VM{
		Ref: vm.Ref, UUID: vm.UUID, Name: vm.Name, Path: vm.Path, VCenter: vcenter, PowerState: vm.PowerState,
		Host: vm.Host, CBTEnabled: vm.CBTEnabled,
	}}
	for _, d := range vm.Disks {
		out.Disks = append(out.Disks, job.Disk{
			ID: d.DiskID, Label: d.Label, File: d.File, Capacity: d.Capacity, Unfit: d.Unfit,
		})
	}
	return out
}

// shownNodes are the nodes, as http shows them.
type shownNodes struct {
	nodes  *nodes
	node   *actors.Node
	memory *store.Memory
	link   optionalLink
}

func (s shownNodes) List(ctx context.Context) []rest.Node {
	ctx, cancel := context.WithTimeout(ctx, stateTime)
	defer cancel()
	health := s.node.Watched()
	out := make([]rest.Node, len(health))
	var all sync.WaitGroup
	for i, h := range health {
		one := s.nodes.find(h.Name)
		out[i] = rest.Node{
			Name: h.Name, Kind: h.Kind, URL: one.cfg.URL, State: string(h.State), Since: h.Since.UTC(),
			Reason: h.Reason,
			Jobs:   map[job.Status]int{},
		}
		if !h.SeenAt.IsZero() {
			at := h.SeenAt.UTC()
			out[i].SeenAt = &at
		}
		if one.commands() && h.State == actors.NodeConnected {
			all.Go(func() {
				if sys, err := one.client.System(ctx); err == nil {
					out[i].Version, out[i].VCenter = sys.Version, &sys.VCenterState
				}
			})
		}
	}
	for r := range s.memory.Each(false) {
		if i := slices.IndexFunc(out, func(n rest.Node) bool { return n.Name == r.Node }); i >= 0 {
			out[i].Jobs[r.Status]++
		}
	}
	all.Wait()
	return withLinks(out, s.link)
}

// Watch begins to ask an older VMA for a job.
func (s shownNodes) Watch(ctx context.Context, name string, id job.ID) error {
	if r, err := s.memory.Report(ctx, id); err == nil && r.Node != name {
		return job.Errorf("watch job", job.Conflict, "Delete that one, if it has ended",
			"job %s exists already, at %s", id, whereIs(r))
	}
	return s.node.WatchJob(ctx, name, id)
}

// whereIs says in words which node has a job.
func whereIs(r report.Report) string {
	if r.Node == "" {
		return "this node"
	}
	return "node " + r.Node
}
