package job

// Limits are the limits of a node, over the disks of all its jobs. 0 is for no limit, except in Jobs.
type Limits struct {
	Jobs            int   `json:"jobs"`                     // that run at the same time; at least 1
	Disks           int   `json:"disks"`                    // that are copied at the same time
	Bandwidth       int64 `json:"bandwidth_total"`          // bytes per second over all disks
	HostDisks       int   `json:"disks_per_host"`           // that are read from one ESXi host at the same time
	HostConnections int   `json:"connections_per_host"`     // over which these disks are read
	HostBytes       int64 `json:"bytes_in_flight_per_host"` // requested from a host and not received yet
	HostBandwidth   int64 `json:"bandwidth_per_host"`       // bytes per second from one host
}

// Check refuses limits of a job that are out of range, or no limit at all. The error is of kind Invalid.
func (l Limited) Check() error {
	const op = "limit"
	switch {
	case l == Limited{}:
		return Errorf(op, Invalid, "Name a bandwidth, how many disks, or a patience", "nothing is to be changed")
	case l.Bandwidth != nil && (*l.Bandwidth < 0 || *l.Bandwidth > 0 && *l.Bandwidth < leastBandwidth):
		return Errorf(op, Invalid, "Use a rate of at least 64KiB, such as 200MiB, or 0 for no limit",
			"the bandwidth is %d", *l.Bandwidth)
	case l.Disks != nil && (*l.Disks < 0 || *l.Disks > maxDisks):
		return Errorf(op, Invalid, "Use 1 to 256, or 0 for no limit", "the number of disks is %d", *l.Disks)
	default:
		var o Options
		if l.Patience != nil {
			o.Patience = *l.Patience
		}
		if l.LastRoundPatience != nil {
			o.LastRoundPatience = *l.LastRoundPatience
		}
		return o.checkPatience()
	}
}

// VMware's limits, by its documentation for backup software: 52 NFC connections to a vCenter; 50 disks at the same time
// and 48 MiB of NFC buffers on an ESXi host.
const (
	hostDisks       = 50
	hostConnections = 52
	hostBytes       = 48 << 20
)

// StandardLimits are the limits of a node that is not configured otherwise.
func StandardLimits() Limits {
	return Limits{Jobs: 8, HostDisks: hostDisks, HostConnections: hostConnections, HostBytes: hostBytes}
}

const mostJobs = 1000

// Check refuses limits that are out of range or under which no job could run. Errors are of kind Invalid and name the
// key.
func (l Limits) Check() error {
	bad := func(key string, n int64, next string) error {
		return Errorf("check limits", Invalid, next, "limits.%s is %d", key, n)
	}
	if l.Jobs < 1 || l.Jobs > mostJobs {
		return bad("jobs", int64(l.Jobs), "Use 1 to 1000")
	}
	for key, n := range map[string]int{
		"disks": l.Disks, "disks_per_host": l.HostDisks, "connections_per_host": l.HostConnections,
	} {
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
	leastBandwidth = 64 << 10 // bytes per second; at a lower rate disks change faster than they are copied
	leastInFlight  = 1 << 20  // bytes
)

// HostUse is what the copies from one ESXi host use now.
type HostUse struct {
	Host          string `json:"host"`
	Disks         int    `json:"disks"`
	Waiting       int    `json:"disks_waiting"`
	Connections   int    `json:"connections"`
	BytesInFlight int64  `json:"bytes_in_flight"`
}
