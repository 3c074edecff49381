package job

// Limits hold the disks of all jobs of a node back. 0 is for no limit.
type Limits struct {
	Jobs            int   `json:"jobs"`                     // that run at the same time
	Disks           int   `json:"disks"`                    // that are copied at the same time
	Bandwidth       int64 `json:"bandwidth_total"`          // bytes per second of all of them
	HostDisks       int   `json:"disks_per_host"`           // that are read from one ESXi host at the same time
	HostConnections int   `json:"connections_per_host"`     // for that, over which
	HostBytes       int64 `json:"bytes_in_flight_per_host"` // that were asked for and have not come yet
	HostBandwidth   int64 `json:"bandwidth_per_host"`       // bytes per second
}

// Check refuses limits of a job that cannot be meant; the error is of kind Invalid.
func (l Limited) Check() error {
	const op = "limit"
	switch {
	case l.Bandwidth == nil && l.Disks == nil:
		return Errorf(op, Invalid, "Name a bandwidth, or how many disks", "nothing is to be changed")
	case l.Bandwidth != nil && (*l.Bandwidth < 0 || *l.Bandwidth > 0 && *l.Bandwidth < leastBandwidth):
		return Errorf(op, Invalid, "Use a rate of at least 64KiB, such as 200MiB, or 0 for no limit",
			"the bandwidth is %d", *l.Bandwidth)
	case l.Disks != nil && (*l.Disks < 0 || *l.Disks > maxDisks):
		return Errorf(op, Invalid, "Use 1 to 256, or 0 for no limit", "the number of disks is %d", *l.Disks)
	default:
		return nil
	}
}

// What VMware's servers bear, by its documentation for backup software: a vCenter 52 NFC connections in all, an ESXi
// host
// 50 disks at the same time and 48 MiB of NFC buffers.
const (
	hostDisks       = 50
	hostConnections = 52
	hostBytes       = 48 << 20
)

// StandardLimits are those that hold where nobody sets any.
func StandardLimits() Limits {
	return Limits{Jobs: 8, HostDisks: hostDisks, HostConnections: hostConnections, HostBytes: hostBytes}
}

const mostJobs = 1000

// Check refuses limits under which nothing could run, or that cannot be meant. Errors are of kind Invalid and name the
// key.
func (l Limits) Check() error {
	bad := func(key string, n int64, next string) error {
		return Errorf("check limits", Invalid, next, "limits.%s is %d", key, n)
	}
	if l.Jobs < 1 || l.Jobs > mostJobs {
		return bad("jobs", int64(l.Jobs), "Use 1 to 1000")
	}
	for key, n := range map[string]int{"disks": l.Disks, "disks_per_host": l.HostDisks,
		"connections_per_host": l.HostConnections} {
		if n < 0 || n > maxDisks*mostJobs {
			return bad(key, int64(n), "Use 1 or more, or 0 for no limit")
		}
	}
	for key, n := range map[string]int64{"bandwidth_total": l.Bandwidth, "bandwidth_per_host": l.HostBandwidth} {
		if n != 0 && n < leastBandwidth {
			return bad(key, n, "Use at least 64KiB a second, or 0 for no limit")
		}
	}
	if n := l.HostBytes; n != 0 && n < leastInFlight {
		return bad("bytes_in_flight_per_host", n, "Use at least 1MiB, or 0 for no limit")
	}
	return nil
}

const (
	leastBandwidth = 64 << 10 // bytes a second; less is slower than disks change
	leastInFlight  = 1 << 20
)

// HostUse is what is in use of one ESXi host.
type HostUse struct {
	Host          string `json:"host"`
	Disks         int    `json:"disks"`
	Waiting       int    `json:"disks_waiting"`
	Connections   int    `json:"connections"`
	BytesInFlight int64  `json:"bytes_in_flight"`
}
