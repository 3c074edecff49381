package app

import (
	"time"

	"github.com/vmferry/vmferry/actors"
	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/nbd"
	"github.com/vmferry/vmferry/store"
	"github.com/vmferry/vmferry/volumes"
)

// Config is everything that an operator can set. The tags are the keys of the file; an environment variable
// VMFERRY_<SECTION>_<KEY> overrides the file, a flag overrides both.
type Config struct {
	Role     Role   `koanf:"role"`
	Listen   string `koanf:"listen"`    // host:port, or unix:/path; "" for the role's port on 127.0.0.1
	StateDir string `koanf:"state_dir"` // absolute; "" for StandardStateDir

	TLS  TLS  `koanf:"tls"`
	Auth Auth `koanf:"auth"`
	// TunnelListen is where a tunnel from the OMA ends, in the form of Listen; "" for nowhere.
	TunnelListen string `koanf:"tunnel_listen"`
	Nodes        []Node `koanf:"nodes"` // VMAs whose jobs this daemon shows
	Link         Link   `koanf:"link"`

	VCenter VCenter `koanf:"vcenter"`
	Source  Source  `koanf:"source"`
	Targets Targets `koanf:"targets"`
	Redis   Redis   `koanf:"redis"`
	SQL     SQL     `koanf:"sql"`
	Limits  Limits  `koanf:"limits"`
	Report  Report  `koanf:"report"`
	Log     Log     `koanf:"log"`

	Webhooks []Webhook `koanf:"webhooks"` // only in the file

	Deprecated []Deprecation `koanf:"-"` // old keys that are set; Start warns of each
}

// Role says which side of a migration a daemon serves.
type Role string

// The roles.
const (
	VMA Role = "vma" // the source side: reads disks, runs transfers
	OMA Role = "oma" // the target side: shows the jobs of its nodes, has their history and the page
	All Role = "all" // both in one process
)

// TLS is the certificate with which addresses are served that others can reach.
type TLS struct {
	Listen   string `koanf:"listen"`    // host:port of a second address, beside Config.Listen; "" for none
	CertFile string `koanf:"cert_file"` // absolute, as KeyFile; PEM. Both are read again when they change
	KeyFile  string `koanf:"key_file"`
}

// Auth says who may send requests. An address that is not loopback and no unix socket always asks for tokens.
type Auth struct {
	Required          bool          `koanf:"required"` // ask for tokens at loopback addresses and unix sockets too
	Hosts             []string      `koanf:"hosts"`    // more names under which the daemon answers
	Session           time.Duration `koanf:"session"`  // how long a login in a browser lasts, 1m to 720h
	RequestsPerSecond float64       `koanf:"requests_per_second"`
}

// VCenter is the vCenter of the VMs. Without a URL the daemon runs and refuses jobs.
type VCenter struct {
	URL          string `koanf:"url"`
	User         string `koanf:"user"`
	PasswordFile string `koanf:"password_file"` // absolute; must not be readable by every user
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

	// Of the servers at a NBDURI of scheme nbds: a folder with ca-cert.pem, or a file with a line USER:KEY. Absolute.
	TLSCertificates string `koanf:"tls_certificates"`
	TLSPSKFile      string `koanf:"tls_psk_file"`
	TLSUnverified   bool   `koanf:"tls_unverified"`
}

func (s Source) tls() nbd.TLS {
	return nbd.TLS{Certificates: s.TLSCertificates, PSKFile: s.TLSPSKFile, Unverified: s.TLSUnverified}
}

// Targets are the places that jobs may write to.
type Targets struct {
	// Roots are absolute folders. Disks without a target go to the first. None: <state_dir>/targets.
	Roots []string `koanf:"roots"`
	URIs  []string `koanf:"uris"` // NBD URIs, and patterns of them: see volumes.Allow

	// Of servers of targets of scheme nbds, as in Source.
	TLSCertificates string `koanf:"tls_certificates"`
	TLSPSKFile      string `koanf:"tls_psk_file"`
	TLSUnverified   bool   `koanf:"tls_unverified"`
}

func (t Targets) tls() nbd.TLS {
	return nbd.TLS{Certificates: t.TLSCertificates, PSKFile: t.TLSPSKFile, Unverified: t.TLSUnverified}
}

func (t Targets) allow() volumes.Allow {
	return volumes.Allow{Roots: t.Roots, URIs: t.URIs, TLS: t.tls()}
}

// Redis is a Redis that reports are published to. Without a URL and without Sentinels there is none.
type Redis struct {
	URL          string `koanf:"url"` // with Sentinels without a host, or ""
	PasswordFile string `koanf:"password_file"`
	CAFile       string `koanf:"ca_file"` // "" for the system's authorities; needs rediss://

	Sentinels            []string `koanf:"sentinels"` // host:port of each
	Master               string   `koanf:"master"`    // its name in the Sentinels' configuration
	SentinelPasswordFile string   `koanf:"sentinel_password_file"`
}

// SQL is the database that keeps the history of jobs, in the tables of the older chain.
type SQL struct {
	// sqlite (history.db in the state directory), mariadb or none. "": mariadb with a DSNFile; else none for role vma,
	// sqlite for others
	Driver  string `koanf:"driver"`
	DSNFile string `koanf:"dsn_file"` // absolute; must not be readable by every user
	Alter   bool   `koanf:"alter"`    // tables of the older chain may get the columns and the index that they lack
}

// NoSQL is the driver of a daemon that keeps no history.
const NoSQL = "none"

// on says whether a history is kept. Load has put a driver in the place of "".
func (s SQL) on() bool { return s.Driver != NoSQL && s.Driver != "" }

// on says whether a Redis is configured.
func (r Redis) on() bool { return r.URL != "" || len(r.Sentinels) > 0 }

// ofStore is the configuration as the store takes it.
func (r Redis) ofStore() store.RedisConfig {
	return store.RedisConfig{
		URL: r.URL, PasswordFile: r.PasswordFile, CAFile: r.CAFile, Sentinels: r.Sentinels, Master: r.Master,
		SentinelPasswordFile: r.SentinelPasswordFile,
	}
}

// Limits are the limits of the daemon. 0 is no limit, except for Jobs and ExternalJobs.
type Limits struct {
	Jobs               int  `koanf:"jobs"`                     // running jobs, 1 to 1000
	Disks              int  `koanf:"disks"`                    // disks that are copied at once
	DisksPerHost       int  `koanf:"disks_per_host"`           // disks that are read from one ESXi host at once
	ConnectionsPerHost int  `koanf:"connections_per_host"`     // connections to one ESXi host
	BytesPerHost       Size `koanf:"bytes_in_flight_per_host"` // bytes requested from one ESXi host, not yet received
	BandwidthPerJob    Size `koanf:"bandwidth_per_job"`        // bytes per second of one job
	Bandwidth          Size `koanf:"bandwidth"`                // old key of BandwidthPerJob: Load moves the value there
	BandwidthTotal     Size `koanf:"bandwidth_total"`          // bytes per second of all jobs together
	BandwidthPerHost   Size `koanf:"bandwidth_per_host"`       // bytes per second from one ESXi host
	ExternalJobs       int  `koanf:"external_jobs"`            // jobs of other copy tools that are known, 1 to 100 000
	// how long a job waits for what is unavailable, 1s to 720h; and the same in a last round after a committed one
	Patience          time.Duration `koanf:"patience"`
	LastRoundPatience time.Duration `koanf:"last_round_patience"`
}

// Report says how often the report of a job is stored in the journal. A change of phase or health is always stored.
type Report struct {
	Interval time.Duration `koanf:"interval"` // 100ms to 1h
	Percent  float64       `koanf:"percent"`  // or after this progress, above 0 and up to 100
	// ExternalKeep is how long the job of another copy tool is known after the tool's last update, 1m to 8760h.
	ExternalKeep time.Duration `koanf:"external_keep"`
}

// Log is the log of the daemon, on stderr.
type Log struct {
	Level  string `koanf:"level"`  // debug, info, warn or error
	Format string `koanf:"format"` // json, text, or auto: text on a terminal
}

// Webhook is a program that is told what happens to jobs.
type Webhook struct {
	URL        string   `koanf:"url"`         // http or https, any address
	Events     []string `koanf:"events"`      // failed, waiting_cutover, completed; none: all
	SecretFile string   `koanf:"secret_file"` // absolute; its content signs what is sent
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
	return Limits{
		Jobs: l.Jobs, DisksPerHost: l.HostDisks, ConnectionsPerHost: l.HostConnections,
		BytesPerHost: Size(l.HostBytes), ExternalJobs: actors.StandardExternalJobs,
		Patience: job.StandardPatience, LastRoundPatience: job.StandardLastRoundPatience,
	}
}

// ofNode returns the limits of the whole node.
func (l Limits) ofNode() job.Limits {
	return job.Limits{
		Jobs: l.Jobs, Disks: l.Disks, Bandwidth: int64(l.BandwidthTotal), HostDisks: l.DisksPerHost,
		HostConnections: l.ConnectionsPerHost, HostBytes: int64(l.BytesPerHost),
		HostBandwidth: int64(l.BandwidthPerHost),
	}
}

const (
	portVMA = "8081"
	portOMA = "8082"
)

// DefaultConfig returns the value of every key that is not set.
func DefaultConfig() Config {
	return Config{
		Role:   All,
		Auth:   Auth{Session: 12 * time.Hour, RequestsPerSecond: 100},
		Source: Source{Transport: "auto"},
		Limits: standardLimits(),
		Report: Report{Interval: 2 * time.Second, Percent: 1, ExternalKeep: actors.StandardExternalKeep},
		Log:    Log{Level: "info", Format: "auto"},
	}
}
