package sim

import (
	"errors"
	"math/rand/v2"
	"net/http"
	"os"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/vmferry/vmferry/job"
)

// change does something with a VM as a task would: a task that runs meanwhile is refused, and the VM does not write. At
// the end the vCenter shows the disks that the VM then has.
func (v *VCenter) change(op, vm string, do func(m *machine) error) error {
	m, err := v.machine(vm)
	if err != nil {
		return err
	}
	var failed error
	err = m.alone(op, func(ctx *simulator.Context) types.BaseMethodFault {
		m.stun.Lock()
		failed = do(m)
		m.stun.Unlock()
		m.refreshDevices(ctx)
		return nil
	})
	return errors.Join(err, failed)
}

// AddDisk adds a disk with the bytes of a raw image to a VM that may run, and returns its id: the first device key that
// is free. Its changes are tracked from the next snapshot on if those of the VM are. Errors are of kind NotFound,
// Invalid (the image, or the controller is full), Conflict (a task runs on the VM) or IO.
func (v *VCenter) AddDisk(vm, image string) (id job.DiskID, err error) {
	const op = "add a disk"
	if err := (&VM{Disks: []string{image}}).check(); err != nil {
		return "", &job.Error{Op: op, Kind: job.Invalid, Next: "Give a raw image", Err: err}
	}
	err = v.change(op, vm, func(m *machine) error {
		for key := firstDiskKey; key < firstDiskKey+mostDisks; key++ {
			if _, err := m.disk(job.NewDiskID(int32(key))); err == nil {
				continue
			}
			d, err := m.newDisk(int32(key), image)
			if err != nil {
				return &job.Error{Op: op, Kind: job.IO, Err: err}
			}
			id, m.pending = d.id, m.pending || m.wantsTracking()
			return nil
		}
		return job.Errorf(op, job.Invalid, "Remove a disk", "VM %s has %d disks already", m.name, mostDisks)
	})
	return id, err
}

// wantsTracking says whether changes of the VM's disks are tracked, or will be from the next stun on.
func (m *machine) wantsTracking() (on bool) {
	ctx := *m.v.model.Service.Context
	ctx.WithLock(m.obj, func() {
		on = m.obj.Config.ChangeTrackingEnabled != nil && *m.obj.Config.ChangeTrackingEnabled
	})
	return on
}

// RemoveDisk takes a disk off a VM that may run. Snapshots that have it keep it. Errors are of kind NotFound, and
// Conflict (a task runs on the VM).
func (v *VCenter) RemoveDisk(vm string, id job.DiskID) error {
	return v.change("remove "+string(id), vm, func(m *machine) error {
		d, err := m.disk(id)
		if err == nil {
			d.detached.Store(true)
		}
		return err
	})
}

// ReplaceDisk takes a disk off a VM and puts another one under the same key. Errors are those of AddDisk.
func (v *VCenter) ReplaceDisk(vm string, id job.DiskID, image string) error {
	op := "replace " + string(id)
	if err := (&VM{Disks: []string{image}}).check(); err != nil {
		return &job.Error{Op: op, Kind: job.Invalid, Next: "Give a raw image", Err: err}
	}
	return v.change(op, vm, func(m *machine) error {
		d, err := m.disk(id)
		if err != nil {
			return err
		}
		d.detached.Store(true)
		if _, err := m.newDisk(d.key, image); err != nil {
			d.detached.Store(false)
			return &job.Error{Op: op, Kind: job.IO, Err: err}
		}
		m.pending = m.pending || m.wantsTracking()
		return nil
	})
}

// GrowDisk makes a disk larger, by bytes that are zero. Change tracking goes on. Errors are of kind NotFound, Invalid
// (not larger, or no multiple of 512), Conflict (the disk has snapshots, or a task runs on the VM) or IO.
func (v *VCenter) GrowDisk(vm string, id job.DiskID, capacity int64) error {
	op := "grow " + string(id)
	return v.change(op, vm, func(m *machine) error {
		d, err := m.disk(id)
		if err != nil {
			return err
		}
		err = d.grow(capacity)
		switch {
		case err == nil:
			err = d.describe()
		case errors.Is(err, errHasSnapshots):
			return &job.Error{Op: op, Kind: job.Conflict, Next: "Remove its snapshots", Err: err}
		case errors.Is(err, errBadSize):
			return &job.Error{Op: op, Kind: job.Invalid, Err: err}
		}
		return diskError(op, err)
	})
}

// Revert gives all disks the bytes that the newest snapshot of the VM froze. Tracking goes back, too: later snapshots
// get change IDs that earlier ones had. Errors are of kind NotFound (no snapshot), Conflict (the snapshot has other
// disks than the VM, or a task runs on the VM) or IO.
func (v *VCenter) Revert(vm string) error {
	const op = "revert to the newest snapshot"
	return v.change(op, vm, func(m *machine) error {
		var disks []*disk
		for _, d := range m.attached() {
			if d.covered() {
				disks = append(disks, d)
			}
		}
		if len(disks) == 0 || disks[0].newest() == "" {
			return job.Errorf(op, job.NotFound, "", "VM %s has no snapshot", m.name)
		}
		for _, d := range disks[1:] {
			if d.newest() != disks[0].newest() {
				return job.Errorf(op, job.Conflict, "", "the newest snapshot of VM %s has other disks", m.name)
			}
		}
		for _, d := range disks {
			if err := d.revert(); err != nil {
				return diskError(op, err)
			}
		}
		return nil
	})
}

// changeRoutes offers what changes a VM over HTTP. rehearsal.go lists the requests.
func (v *VCenter) changeRoutes(handle func(string, func(http.ResponseWriter, *http.Request) error)) {
	type request struct {
		VM          string     `json:"vm"`
		Disk        job.DiskID `json:"disk"`
		Image       string     `json:"image"`
		Capacity    int64      `json:"capacity"`
		Seed        *uint64    `json:"seed"`
		Name        string     `json:"name"`
		Description string     `json:"description"`
	}
	on := func(what string, do func(req request) (any, error)) {
		handle("POST /rehearsal/"+what, func(w http.ResponseWriter, r *http.Request) error {
			var req request
			if err := decode(r, &req); err != nil {
				return err
			}
			body, err := do(req)
			if err != nil {
				return err
			}
			if body == nil {
				body = v.State()
			}
			return answer(w, body)
		})
	}
	// with calls f with the image of a request, or with one that is made for it.
	with := func(req request, f func(image string) error) error {
		if req.Image != "" {
			return f(req.Image)
		}
		image, err := v.newImage(req.Capacity, req.Seed)
		if err != nil {
			return err
		}
		return errors.Join(f(image), v.dropImage(image))
	}
	on("add-disk", func(req request) (any, error) {
		var id job.DiskID
		err := with(req, func(image string) (err error) {
			id, err = v.AddDisk(req.VM, image)
			return err
		})
		return map[string]any{"disk": id}, err
	})
	on("remove-disk", func(req request) (any, error) { return nil, v.RemoveDisk(req.VM, req.Disk) })
	on("replace-disk", func(req request) (any, error) {
		return nil, with(req, func(image string) error { return v.ReplaceDisk(req.VM, req.Disk, image) })
	})
	on("grow-disk", func(req request) (any, error) { return nil, v.GrowDisk(req.VM, req.Disk, req.Capacity) })
	on("revert", func(req request) (any, error) { return nil, v.Revert(req.VM) })
	on("snapshot", func(req request) (any, error) {
		ref, err := v.TakeSnapshot(req.VM, req.Name, req.Description)
		return map[string]any{"snapshot": ref}, err
	})
}

// newImage makes a raw image. Its bytes follow from the seed; without one they are zero.
func (v *VCenter) newImage(capacity int64, seed *uint64) (name string, err error) {
	const op = "make an image"
	if capacity <= 0 || capacity%sectorSize != 0 || seed != nil && capacity > mostWrite {
		return "", job.Errorf(op, job.Invalid, "Give an image, or a capacity that is a multiple of 512",
			"the capacity is %d", capacity)
	}
	f, err := os.CreateTemp(v.dir, "added-*.raw")
	if err != nil {
		return "", &job.Error{Op: op, Kind: job.IO, Err: err}
	}
	defer func() {
		if err = errors.Join(err, f.Close()); err != nil {
			err = &job.Error{Op: op, Kind: job.IO, Err: errors.Join(err, os.Remove(f.Name()))}
		}
	}()
	if err := f.Truncate(capacity); err != nil || seed == nil {
		return f.Name(), err
	}
	source := rand.NewChaCha8(seedKey(*seed))
	buf := make([]byte, min(capacity, writeStep))
	for off := int64(0); off < capacity; off += int64(len(buf)) {
		p := buf[:min(int64(len(buf)), capacity-off)]
		_, _ = source.Read(p) // never fails
		if _, err := f.WriteAt(p, off); err != nil {
			return "", err
		}
	}
	return f.Name(), nil
}

// dropImage removes an image that newImage made, unless a disk uses it in place.
func (v *VCenter) dropImage(name string) error {
	if v.opt.InPlace {
		v.madeLock.Lock()
		defer v.madeLock.Unlock()
		v.made = append(v.made, name) // Close removes it
		return nil
	}
	return os.Remove(name)
}
