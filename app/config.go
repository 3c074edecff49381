package app

import (
	"time"

	"github.com/vmferry/vmferry/job"
)

// Config is everything an operator can set. The tags are the keys of the file; an environment variable
// VMFERRY_<SECTION>_<KEY> overrides the file, a flag overrides both.
type Config struct {
	Role     Role   `koanf:"role"`
	Listen   string `koanf:"listen"`    // host:port on loopback, or unix:/path; "" for the role's port on 127.0.0.1
	StateDir string `koanf:"state_dir"` // absolute; "" for StandardStateDir

	VCenter VCenter `koanf:"vcenter"`
	Source  Source  `koanf:"source"`
	Targets Targets `koanf:"targets"`
	Redis   Redis   `koanf:"redis"`
	SQL     SQL     `koanf:"sql"`
	Remote  Remote  `koanf:"remote"`
	Limits  Limits  `koanf:"limits"`
	Report  Report  `koanf:"report"`
	Auth    Auth    `koanf:"auth"`
	Log     Log     `koanf:"log"`
}

// Role says which side of the ferry a daemon serves.
type Role string

// The roles.
const (
	VMA Role = "vma" // the source side: reads disks, runs transfers
	OMA Role = "oma" // the target side: owns volumes, history and page
	All Role = "all" // both in one process
)

// VCenter is where the VMs are. Without a URL the daemon runs and refuses jobs.
type VCenter struct {
	URL          string `koanf:"url"`
	User         string `koanf:"user"`
	PasswordFile string `koanf:"password_file"` // absolute; not readable by everybody
	Thumbprint   string `koanf:"thumbprint"`
	CAFile       string `koanf:"ca_file"`
}

// Source says how disks are read.
type Source struct {
	Transport  string `koanf:"transport"` // vddk, curl, nbd or auto
	VDDKLibDir string `koanf:"vddk_libdir"`
	VDDKPlugin string `koanf:"vddk_plugin"`
	VDDKConfig string `koanf:"vddk_config"`
	NBDURI     string `koanf:"nbd_uri"` // a template with {vm}, {disk} and {snapshot}
}

// Targets is what a job may write to.
type Targets struct {
	// absolute folders; the first takes disks without a target. None: <state_dir>/targets
	Roots []string `koanf:"roots"`
	URIs  []string `koanf:"uris"` // beginnings of NBD URIs
}

// Redis is where reports are shown besides the REST service. Without a URL there is none.
type Redis struct {
	URL          string `koanf:"url"`
	PasswordFile string `koanf:"password_file"`
}

// SQL is the database of an OMA.
type SQL struct {
	DSNFile string `koanf:"dsn_file"`
}

// Remote is how two nodes find each other.
type Remote struct {
	Listen    string   `koanf:"listen"`
	Advertise string   `koanf:"advertise"`
	Peers     []string `koanf:"peers"`
	TLS       TLS      `koanf:"tls"`
}

// TLS names a certificate, its key, and who signs those of the peers.
type TLS struct {
	CertFile string `koanf:"cert_file"`
	KeyFile  string `koanf:"key_file"`
	CAFile   string `koanf:"ca_file"`
}

// Limits hold the daemon back.
type Limits struct {
	Jobs int `koanf:"jobs"` // that run at the same time, 1 to 1000
	// that are copied at the same time; 0 for no limit, as in all below
	Disks              int  `koanf:"disks"`
	DisksPerHost       int  `koanf:"disks_per_host"`           // that are read from one ESXi host at the same time
	ConnectionsPerHost int  `koanf:"connections_per_host"`     // for that, over which
	BytesPerHost       Size `koanf:"bytes_in_flight_per_host"` // asked for and not yet there
	Bandwidth          Size `koanf:"bandwidth"`                // bytes per second of one job
	BandwidthTotal     Size `koanf:"bandwidth_total"`          // bytes per second of all jobs together
	BandwidthPerHost   Size `koanf:"bandwidth_per_host"`       // bytes per second from one ESXi host
}

// Report says how often reports leave the daemon; a change of phase or health always does.
type Report struct {
	Interval time.Duration `koanf:"interval"` // at least 100ms
	Percent  float64       `koanf:"percent"`  // or after so many percent, above 0 and up to 100
}

// Auth is who may use the REST service.
type Auth struct {
	TokensFile string `koanf:"tokens_file"`
}

// Log is how the daemon logs, on stderr.
type Log struct {
	Level  string `koanf:"level"`  // debug, info, warn or error
	Format string `koanf:"format"` // json, text, or auto: text on a terminal
}

// Size is a number of bytes, written as 1048576, 64KiB, 200MiB or 1.5GiB.
type Size int64

// UnmarshalText reads a size.
func (s *Size) UnmarshalText(text []byte) error {
	n, err := job.ParseSize(string(text))
	*s = Size(n)
	return err
}

func standardLimits() Limits {
	l := job.StandardLimits()
	return Limits{Jobs: l.Jobs, DisksPerHost: l.HostDisks, ConnectionsPerHost: l.HostConnections,
		BytesPerHost: Size(l.HostBytes)}
}

// ofNode are the limits of all jobs together.
func (l Limits) ofNode() job.Limits {
	return job.Limits{
		Jobs: l.Jobs, Disks: l.Disks, Bandwidth: int64(l.BandwidthTotal),
		HostDisks: l.DisksPerHost, HostConnections: l.ConnectionsPerHost, HostBytes: int64(l.BytesPerHost),
		HostBandwidth: int64(l.BandwidthPerHost),
	}
}

const (
	portVMA = "8081"
	portOMA = "8082"
)

// DefaultConfig is what holds where nobody sets anything.
func DefaultConfig() Config {
	return Config{
		Role:   All,
		Source: Source{Transport: "auto"},
		Limits: standardLimits(),
		Report: Report{Interval: 2 * time.Second, Percent: 1},
		Log:    Log{Level: "info", Format: "auto"},
	}
}
