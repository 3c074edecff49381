package http

import (
	"cmp"
	"context"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/vmferry/vmferry/http/rest"
	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
)

const (
	vmsKept = 30 * time.Second // how long a list of VMs is good, unless a request asks for a new one
	vmsRead = 25 * time.Second // to read one
)

type (
	vmsInput struct {
		Q       string `query:"q" maxLength:"1024" doc:"Part of the VM's name or path, or its UUID or moref"`
		Limit   int    `query:"limit" default:"100" minimum:"1" maximum:"500"`
		Cursor  string `query:"cursor" maxLength:"4096" doc:"From the Link header of the previous page"`
		Refresh bool   `query:"refresh" doc:"Ask the vCenter again, even if the list is not old"`
	}
	vmsOutput struct {
		Link string `header:"Link" doc:"rel=next leads to the next page; it is missing on the last one"`
		Body rest.VMList
	}
)

// inventory keeps the list of VMs for a while. One goroutine reads it at a time; the others wait for that one. Its
// methods may be called from many goroutines.
type inventory struct {
	reading chan struct{} // holds one token; who has it may read

	mu     sync.Mutex
	list   []job.ListedVM
	readAt time.Time
}

func newInventory() *inventory {
	i := &inventory{reading: make(chan struct{}, 1)}
	i.reading <- struct{}{}
	return i
}

func (i *inventory) kept() ([]job.ListedVM, time.Time) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.list, i.readAt
}

// get returns the list, and when it was read: not before the time after.
func (i *inventory) get(ctx context.Context, s Source, after time.Time, now func() time.Time) (
	[]job.ListedVM, time.Time, error,
) {
	if list, at := i.kept(); at.After(after) {
		return list, at, nil
	}
	select {
	case <-i.reading:
	case <-ctx.Done():
		return nil, time.Time{}, job.Errorf("list VMs", job.KindOf(ctx.Err()), "", "%w", ctx.Err())
	}
	defer func() { i.reading <- struct{}{} }()
	if list, at := i.kept(); at.After(after) {
		return list, at, nil // another request has read it meanwhile
	}
	ctx, cancel := context.WithTimeout(ctx, vmsRead)
	defer cancel()
	at := now()
	list, err := s.VMs(ctx)
	if err != nil {
		return nil, time.Time{}, err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.list, i.readAt = list, at
	return list, at, nil
}

func (h *Handler) registerVMs(api huma.API) {
	register(api, op("listVMs", http.MethodGet, rest.VMsPath, "The VMs of the vCenter",
		"With their disks, and whether a job moves them. The list is kept for 30 s; age_seconds says how old it is. "+
			"503 if no vCenter is configured, or if it does not answer."), h.listVMs)
}

func (h *Handler) listVMs(ctx context.Context, in *vmsInput) (*vmsOutput, error) {
	if h.source == nil {
		return nil, noVCenter()
	}
	after := h.now().Add(-vmsKept)
	if in.Refresh {
		after = h.now().Add(-time.Nanosecond)
	}
	list, at, err := h.inventory.get(ctx, h.source, after, h.now)
	if err != nil {
		return nil, err
	}
	out := &vmsOutput{Body: rest.VMList{
		ReadAt: at.UTC(), AgeSeconds: max(0, h.now().Sub(at).Seconds()), VMs: []rest.VM{},
	}}
	if len(list) > 0 {
		out.Body.VCenter = list[0].VCenter
	}
	q := strings.ToLower(in.Q)
	fit := make([]*job.ListedVM, 0, len(list))
	for i := range list {
		if wantsVM(&list[i], q) {
			fit = append(fit, &list[i])
		}
	}
	out.Body.Total = len(fit)
	if ref, path, ok := strings.Cut(in.Cursor, " "); ok {
		i, found := slices.BinarySearchFunc(fit, job.ListedVM{VM: job.VM{Ref: ref, Path: path}},
			func(vm *job.ListedVM, at job.ListedVM) int {
				return cmp.Or(cmp.Compare(vm.Path, at.Path), cmp.Compare(vm.Ref, at.Ref))
			})
		if found {
			i++
		}
		fit = fit[i:]
	}
	if len(fit) > in.Limit {
		last := fit[in.Limit-1]
		out.Link = "<" + in.next(last.Ref+" "+last.Path) + `>; rel="next"`
		fit = fit[:in.Limit]
	}
	jobs := h.jobsOfVMs()
	for _, vm := range fit {
		out.Body.VMs = append(out.Body.VMs, jobs.vm(vm))
	}
	return out, nil
}

// next is the address of the page that follows a cursor: the reference of the last VM of a page, a space, and its path.
func (in *vmsInput) next(cursor string) string {
	q := url.Values{"limit": {strconv.Itoa(in.Limit)}, "cursor": {cursor}}
	if in.Q != "" {
		q.Set("q", in.Q)
	}
	return rest.VMsPath + "?" + q.Encode()
}

func wantsVM(vm *job.ListedVM, q string) bool {
	return q == "" || strings.Contains(strings.ToLower(vm.Name), q) || strings.Contains(strings.ToLower(vm.Path), q) ||
		strings.EqualFold(vm.UUID, q) || strings.EqualFold(vm.Ref, q)
}

// vmJobs are the jobs of VMs, by UUID, and by what a job that has not looked at its VM yet was asked for.
type vmJobs struct{ active, last map[string]job.ID }

func (h *Handler) jobsOfVMs() vmJobs {
	out := vmJobs{map[string]job.ID{}, map[string]job.ID{}}
	for r := range h.reports.Each(true) { // a later job replaces an earlier one
		if r.Origin == report.External {
			continue
		}
		names := []string{strings.ToLower(r.VM.UUID)}
		if r.VM.UUID == "" {
			names = []string{r.VM.Path, strings.ToLower(r.VM.Path)}
		}
		for _, n := range names {
			out.last[n] = r.JobID
			if !r.Status.Terminal() {
				out.active[n] = r.JobID
			}
		}
	}
	return out
}

func (j vmJobs) vm(vm *job.ListedVM) rest.VM {
	out := rest.VM{
		Ref: vm.Ref, UUID: vm.UUID, Name: vm.Name, Path: vm.Path, Folder: vm.Folder, PowerState: vm.PowerState,
		Host: vm.Host, CBTEnabled: vm.CBTEnabled, Template: vm.Template, Disks: make([]rest.VMDisk, 0, len(vm.Disks)),
		JobID: j.of(j.active, vm), LastJobID: j.of(j.last, vm),
	}
	for _, d := range vm.Disks {
		out.BytesCapacity += d.Capacity
		out.Disks = append(out.Disks, rest.VMDisk{
			DiskID: d.ID, Label: d.Label, File: d.File, Capacity: d.Capacity, Unfit: d.Unfit,
		})
	}
	return out
}

func (vmJobs) of(jobs map[string]job.ID, vm *job.ListedVM) *job.ID {
	names := []string{strings.ToLower(vm.UUID), vm.Path, vm.Ref, vm.Name}
	i := slices.IndexFunc(names, func(n string) bool { return n != "" && jobs[n] != "" })
	if i < 0 {
		return nil
	}
	id := jobs[names[i]]
	return &id
}
