package volumes

import (
	"time"

	"github.com/vmferry/vmferry/job"
)

// LeaveOrphans lets exports survive this process, as if no death signal reached them.
func LeaveOrphans(v *Volumes) { v.orphans = true }

// Throttle lets the writes of exports wait in their servers: they pass so many bytes per second on to the file.
func Throttle(v *Volumes, rate int64) { v.throttle = rate }

// SetClock replaces the wall clock.
func SetClock(v *Volumes, now func() time.Time) { v.now, v.leases.now = now, now }

// ServerOf is the process that serves a volume; the zero value if none does.
func ServerOf(v *Volumes, volume string) job.LeaseServer {
	if g := v.leases.find(volume); g != nil {
		return g.now().Server
	}
	return job.LeaseServer{}
}

// Over is closed when the lease of a volume is free; nil if it is.
func Over(v *Volumes, volume string) <-chan struct{} {
	if g := v.leases.find(volume); g != nil {
		return g.free
	}
	return nil
}

// BootID is the kernel's id of this boot.
func BootID() string { return bootID() }
