package sim

import (
	"context"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/vmferry/vmferry/job"
)

// FaultKind is what goes wrong.
type FaultKind string

// The kinds of fault.
const (
	// FaultSessions ends all sessions when it is injected. It is never pending.
	FaultSessions FaultKind = "sessions"
	// FaultQuiesce makes a snapshot task fail if it is asked to quiesce the guest.
	FaultQuiesce FaultKind = "quiesce"
	// FaultQuiesceIgnored takes the snapshot without quiescing, and says so only in the snapshot tree.
	FaultQuiesceIgnored FaultKind = "quiesce_ignored"
	// FaultTask makes a task fail: Op is the call that starts it, Fault the vSphere fault.
	FaultTask FaultKind = "task"
	// FaultTaskSlow makes a task take Delay longer.
	FaultTaskSlow FaultKind = "task_slow"
	// FaultCall refuses the call Op with the vSphere fault Fault.
	FaultCall FaultKind = "call"
	// FaultCallSlow delays the answer to the call Op.
	FaultCallSlow FaultKind = "call_slow"
	// FaultAnswerLost executes the call Op and breaks the connection instead of answering.
	FaultAnswerLost FaultKind = "answer_lost"
	// FaultStatus answers calls with the HTTP status Status.
	FaultStatus FaultKind = "status"
	// FaultFolder answers reads of datastore files with the HTTP status Status.
	FaultFolder FaultKind = "folder"
	// FaultFolderSlow delays each read of a datastore file.
	FaultFolderSlow FaultKind = "folder_slow"
	// FaultEmptyPages answers a query of changed areas with an empty page for each stretch that has none.
	FaultEmptyPages FaultKind = "empty_pages"
	// FaultConsolidation leaves disks that need consolidation after a snapshot's removal.
	FaultConsolidation FaultKind = "consolidation"
	// FaultPrivilege denies the privilege Op when privileges are checked.
	FaultPrivilege FaultKind = "privilege"
)

// Fault is one fault to inject.
type Fault struct {
	Kind   FaultKind     `json:"kind"`
	Op     string        `json:"op,omitempty"`    // a call as CreateSnapshot_Task, or a privilege; "" for any
	VM     string        `json:"vm,omitempty"`    // name; "" for any. Only for tasks and changed areas
	Fault  string        `json:"fault,omitempty"` // type of a vSphere fault, as NoPermission; "" for SystemError
	Status int           `json:"status,omitempty"`
	Delay  time.Duration `json:"-"`               // of the slow kinds
	Count  int           `json:"count,omitempty"` // how many times; 0 for once, negative until it is cleared
}

func kinds() []FaultKind {
	return []FaultKind{
		FaultSessions, FaultQuiesce, FaultQuiesceIgnored, FaultTask, FaultTaskSlow, FaultCall, FaultCallSlow,
		FaultAnswerLost, FaultStatus, FaultFolder, FaultFolderSlow, FaultEmptyPages, FaultConsolidation, FaultPrivilege,
	}
}

// opInject is the operation that errors about faults name.
const opInject = "inject a fault"

// check refuses a fault that could never apply.
func (f *Fault) check() error {
	if !slices.Contains(kinds(), f.Kind) {
		names := make([]string, 0, len(kinds()))
		for _, k := range kinds() {
			names = append(names, string(k))
		}
		return job.Errorf(opInject, job.Invalid, "Use one of "+strings.Join(names, ", "),
			"there is no fault %q", f.Kind)
	}
	if (f.Kind == FaultStatus || f.Kind == FaultFolder) && (f.Status < 400 || f.Status > 599) {
		return job.Errorf(opInject, job.Invalid, "Use a status from 400 to 599",
			"%d is not the status of an HTTP error", f.Status)
	}
	if _, err := f.method(); err != nil {
		return err
	}
	if f.Delay < 0 {
		return job.Errorf(opInject, job.Invalid, "", "the delay is negative")
	}
	if f.Count == 0 {
		f.Count = 1
	}
	return nil
}

// method makes the vSphere fault.
func (f *Fault) method() (types.BaseMethodFault, error) {
	name := f.Fault
	if name == "" {
		name = "SystemError"
	}
	t, ok := types.TypeFunc()(name)
	if ok {
		if fault, ok := reflect.TypeAssert[types.BaseMethodFault](reflect.New(t)); ok {
			return fault, nil
		}
	}
	return nil, job.Errorf(opInject, job.Invalid,
		"Use a name from the vSphere API, as NoPermission or TaskInProgress", "there is no vSphere fault %q", name)
}

// faults are the pending faults.
type faults struct {
	mu      sync.Mutex
	pending []Fault
}

func (s *faults) add(f Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pending = append(s.pending, f)
}

func (s *faults) clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pending = nil
}

// take finds a pending fault of that kind that applies, and counts it down. "" matches any op and any VM.
func (s *faults) take(kind FaultKind, op, vm string) (Fault, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.IndexFunc(s.pending, func(f Fault) bool {
		return f.Kind == kind && (f.Op == "" || op == "" || f.Op == op) && (f.VM == "" || vm == "" || f.VM == vm)
	})
	if i < 0 {
		return Fault{}, false
	}
	f := s.pending[i]
	if s.pending[i].Count--; s.pending[i].Count == 0 {
		s.pending = slices.Delete(s.pending, i, i+1)
	}
	return f, true
}

func (s *faults) list() []Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.pending)
}

// Inject adds a pending fault; FaultSessions acts at once. The error is of kind Invalid.
func (v *VCenter) Inject(f Fault) error {
	if err := f.check(); err != nil {
		return err
	}
	if f.Kind == FaultSessions {
		return v.endSessions()
	}
	v.faults.add(f)
	return nil
}

// ClearFaults removes all pending faults.
func (v *VCenter) ClearFaults() { v.faults.clear() }

// endSessions ends every session, as an administrator or a restart of the vCenter would.
func (v *VCenter) endSessions() error {
	ctx := *v.model.Service.Context
	ctx.Session = &simulator.Session{Registry: simulator.NewRegistry(), Map: v.model.Map()}
	manager := v.model.Map().SessionManager()
	view, ok := ctx.Session.Get(manager.Reference()).(*simulator.SessionManager)
	if !ok {
		return job.Errorf("end all sessions", job.Internal, "", "the simulator has no list of sessions")
	}
	for _, s := range view.SessionList {
		// The call fails for a session that has ended meanwhile, which does no harm.
		manager.TerminateSession(&ctx, &types.TerminateSession{SessionId: []string{s.Key}})
	}
	return nil
}

// pause waits for d, or until ctx ends or the vCenter is closed.
func (v *VCenter) pause(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	case <-v.closing:
	}
}
