package sim

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"time"

	"github.com/vmware/govmomi/vim25/types"

	"github.com/vmferry/vmferry/job"
)

const (
	mostBody  = 24 << 20 // bytes of a request
	mostWrite = 1 << 30  // bytes that one request makes from a seed
	writeStep = 1 << 20  // bytes of one write of those
)

// rehearsalRoutes offers the methods of VCenter over HTTP, for the user and password of the vCenter:
//
//	GET    /rehearsal/state
//	GET    /rehearsal/image?vm=&disk=[&snapshot=]   the bytes, live or as a snapshot froze them
//	POST   /rehearsal/write      {"vm","disk","offset","length","seed"} or {"vm","disk","offset","data_base64"}
//	POST   /rehearsal/reset-cbt  {"vm"}
//	POST   /rehearsal/add-disk      {"vm","image"} or {"vm","capacity","seed"}
//	POST   /rehearsal/remove-disk   {"vm","disk"}
//	POST   /rehearsal/replace-disk  {"vm","disk","image"} or {"vm","disk","capacity","seed"}: same key
//	POST   /rehearsal/grow-disk     {"vm","disk","capacity"}
//	POST   /rehearsal/snapshot      {"vm","name","description"}: as another program or node takes it
//	POST   /rehearsal/revert        {"vm"}: to its newest snapshot
//	POST   /rehearsal/fault      {"kind","op","vm","fault","status","delay","count"}
//	DELETE /rehearsal/fault
func (v *VCenter) rehearsalRoutes(mux *http.ServeMux) {
	handle := func(pattern string, f func(http.ResponseWriter, *http.Request) error) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			if !v.requireLogin(w, r) {
				return
			}
			r.Body = http.MaxBytesReader(w, r.Body, mostBody)
			if err := f(w, r); err != nil {
				fail(w, err)
			}
		})
	}
	handle("GET /rehearsal/state", func(w http.ResponseWriter, _ *http.Request) error { return answer(w, v.State()) })
	handle("GET /rehearsal/image", v.serveImage)
	handle("POST /rehearsal/write", v.serveWrite)
	handle("POST /rehearsal/reset-cbt", func(w http.ResponseWriter, r *http.Request) error {
		var req struct {
			VM string `json:"vm"`
		}
		if err := decode(r, &req); err != nil {
			return err
		}
		if err := v.ResetCBT(req.VM); err != nil {
			return err
		}
		return answer(w, v.State())
	})
	v.changeRoutes(handle)
	handle("POST /rehearsal/fault", v.serveFault)
	handle("DELETE /rehearsal/fault", func(w http.ResponseWriter, _ *http.Request) error {
		v.ClearFaults()
		return answer(w, v.State())
	})
}

func decode(r *http.Request, into any) error {
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	err := d.Decode(into)
	if err == nil {
		if _, more := d.Token(); !errors.Is(more, io.EOF) {
			err = errors.New("more than one JSON value")
		}
	}
	if err != nil {
		return &job.Error{Op: "read the request", Kind: job.Invalid, Err: err}
	}
	return nil
}

func answer(w http.ResponseWriter, body any) error {
	w.Header().Set("Content-Type", "application/json")
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	_ = e.Encode(body) // fails only if the client has gone away
	return nil
}

func fail(w http.ResponseWriter, err error) {
	status := http.StatusInternalServerError
	switch job.KindOf(err) {
	case job.Invalid:
		status = http.StatusBadRequest
	case job.NotFound:
		status = http.StatusNotFound
	case job.Conflict:
		status = http.StatusConflict
	default:
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{
		"error": err.Error(), "code": string(job.KindOf(err)), "next": job.NextOf(err),
	})
}

func (v *VCenter) serveWrite(w http.ResponseWriter, r *http.Request) error {
	var req struct {
		VM     string     `json:"vm"`
		Disk   job.DiskID `json:"disk"`
		Offset int64      `json:"offset"`
		Length int64      `json:"length"`
		Seed   *uint64    `json:"seed"`
		Data   string     `json:"data_base64"`
	}
	if err := decode(r, &req); err != nil {
		return err
	}
	const op = "write as the guest"
	if req.Data != "" {
		data, err := base64.StdEncoding.DecodeString(req.Data)
		if err != nil || req.Length != 0 && req.Length != int64(len(data)) {
			return job.Errorf(op, job.Invalid, "", "data_base64 is not base64, or not of that length")
		}
		if err := v.GuestWrite(req.VM, req.Disk, req.Offset, data); err != nil {
			return err
		}
		return answer(w, map[string]any{"written": len(data)})
	}
	if req.Length <= 0 || req.Length > mostWrite {
		return job.Errorf(op, job.Invalid, "Give a length from 1 to 1073741824, or data_base64",
			"the length is %d", req.Length)
	}
	seed := rand.Uint64() //nolint:gosec // bytes for a rehearsal
	if req.Seed != nil {
		seed = *req.Seed
	}
	if err := v.GuestScribble(req.VM, req.Disk, req.Offset, req.Length, seed); err != nil {
		return err
	}
	return answer(w, map[string]any{"written": req.Length, "seed": seed})
}

// GuestScribble writes length bytes that follow from the seed, as the VM's guest would. If it fails it may have written
// some of them, unless the error is of kind Invalid or NotFound.
func (v *VCenter) GuestScribble(vm string, id job.DiskID, off, length int64, seed uint64) error {
	_, d, err := v.disk(vm, id)
	if err != nil {
		return err
	}
	if off < 0 || length < 0 || length > d.capacity.Load()-off {
		return diskError("write as the guest of "+vm, errBeyondEnd)
	}
	source := rand.NewChaCha8(seedKey(seed))
	buf := make([]byte, min(length, writeStep))
	for length > 0 {
		p := buf[:min(length, writeStep)]
		_, _ = source.Read(p) // never fails
		if err := v.GuestWrite(vm, id, off, p); err != nil {
			return err
		}
		off, length = off+int64(len(p)), length-int64(len(p))
	}
	return nil
}

// seedKey makes a key of the random source from a seed.
func seedKey(seed uint64) (key [32]byte) {
	for i := range key {
		key[i] = byte(seed >> (8 * (i % 8)))
	}
	return key
}

func (v *VCenter) serveFault(w http.ResponseWriter, r *http.Request) error {
	var req struct {
		Fault
		Delay string `json:"delay"`
	}
	if err := decode(r, &req); err != nil {
		return err
	}
	f := req.Fault
	if req.Delay != "" {
		d, err := time.ParseDuration(req.Delay)
		if err != nil {
			return &job.Error{Op: opInject, Kind: job.Invalid, Next: "Write the delay as in 1.5s", Err: err}
		}
		f.Delay = d
	}
	if err := v.Inject(f); err != nil {
		return err
	}
	return answer(w, v.State())
}

func (v *VCenter) serveImage(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	image, err := v.FrozenReader(q.Get("vm"), q.Get("snapshot"), job.DiskID(q.Get("disk")))
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	http.ServeContent(w, r, "", time.Time{}, io.NewSectionReader(image, 0, image.Size()))
	return nil
}

// State describes the rehearsal vCenter at one moment.
type State struct {
	URL        string    `json:"url"`
	User       string    `json:"user"`
	Thumbprint string    `json:"thumbprint"`
	VMs        []VMState `json:"vms"`
	Faults     []Fault   `json:"faults"`
}

// VMState describes one VM.
type VMState struct {
	Name       string          `json:"name"`
	Path       string          `json:"path"`
	Ref        string          `json:"ref"`
	PowerState string          `json:"power_state"`
	CBTEnabled bool            `json:"cbt_enabled"` // the VM's setting; see DiskState.Tracked
	Disks      []DiskState     `json:"disks"`
	Snapshots  []SnapshotState `json:"snapshots"`
}

// DiskState describes one disk.
type DiskState struct {
	ID         job.DiskID `json:"id"`
	Image      string     `json:"image"` // path on this machine
	File       string     `json:"file"`  // on the datastore
	Capacity   int64      `json:"capacity"`
	Allocated  int64      `json:"allocated"`   // bytes in blocks that hold data of the image or were ever written
	Tracked    bool       `json:"tracked"`     // tracking has started
	Overlays   int        `json:"overlays"`    // one for each snapshot
	OverlaySum int64      `json:"overlay_sum"` // bytes in them
}

// SnapshotState describes one snapshot.
type SnapshotState struct {
	Ref         string `json:"ref"`
	Name        string `json:"name"`
	Description string `json:"description"`
	Quiesced    bool   `json:"quiesced"`
}

// State describes the vCenter, its VMs and the pending faults.
func (v *VCenter) State() State {
	s := State{
		URL: v.URL(), User: v.opt.User, Thumbprint: v.Thumbprint(), VMs: []VMState{},
		Faults: append([]Fault{}, v.faults.list()...),
	}
	for _, m := range v.machines {
		s.VMs = append(s.VMs, m.state())
	}
	return s
}

// Snapshots lists the snapshots of a VM, parents first.
func (v *VCenter) Snapshots(vm string) ([]SnapshotState, error) {
	m, err := v.machine(vm)
	if err != nil {
		return nil, err
	}
	return m.state().Snapshots, nil
}

func (m *machine) state() VMState {
	s := VMState{Name: m.name, Path: m.path, Ref: m.ref.Value, Disks: []DiskState{}, Snapshots: []SnapshotState{}}
	ctx := *m.v.model.Service.Context
	ctx.WithLock(m.obj, func() {
		s.PowerState = string(m.obj.Runtime.PowerState)
		s.CBTEnabled = m.obj.Config.ChangeTrackingEnabled != nil && *m.obj.Config.ChangeTrackingEnabled
		if m.obj.Snapshot != nil {
			s.Snapshots = listTree(s.Snapshots, m.obj.Snapshot.RootSnapshotList)
		}
	})
	for _, d := range m.attached() {
		d.mu.RLock()
		ds := DiskState{
			ID: d.id, Image: d.image, File: d.file, Capacity: d.capacity.Load(), Tracked: d.tracking.on,
			Overlays: len(d.layers),
		}
		ds.Allocated = min(d.capacity.Load(), d.allocated.count()*blockSize)
		for _, l := range d.layers {
			ds.OverlaySum += l.dirty.count() * blockSize
		}
		d.mu.RUnlock()
		s.Disks = append(s.Disks, ds)
	}
	return s
}

func listTree(out []SnapshotState, tree []types.VirtualMachineSnapshotTree) []SnapshotState {
	for _, t := range tree {
		out = append(out, SnapshotState{
			Ref: t.Snapshot.Value, Name: t.Name, Description: strings.TrimSpace(t.Description), Quiesced: t.Quiesced,
		})
		out = listTree(out, t.ChildSnapshotList)
	}
	return out
}
