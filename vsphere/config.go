package vsphere

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/vmware/govmomi/vim25/soap"

	"github.com/vmferry/vmferry/job"
)

// Config says which vCenter to connect to, as which user, and how its disks are read.
type Config struct {
	URL          string // https://vcenter.example.org, with or without /sdk
	User         string
	PasswordFile string // read again at each login; users other than its owner and group must have no access

	// Thumbprint pins the server's certificate: SHA-256 or SHA-1 over its DER form, in hexadecimal, with or without
	// colons. CAFile names the authorities to trust instead of the system's. The thumbprint decides if both are given.
	Thumbprint string
	CAFile     string

	// Refusals is shared by all clients for one vCenter: none repeats a password that another one was refused with. Nil
	// for a client that is alone.
	Refusals *Refusals

	KeepAlive time.Duration // how often the session is used so that it does not expire; 0 for 5m, negative for never
	Source    Transport
	Owner     string // the node's name for the description of its snapshots, see OurSnapshots; "" for none
	// RunDir is a folder of this process for the certificates that programs need which read disks. It is made when it
	// is missing. "" for a temporary folder.
	RunDir string

	Log *slog.Logger // nil for none
	// OnTask is called with the progress of a vCenter task in percent, from the method that waits for the task. So
	// several goroutines may call it at the same time. It must not block. Nil for none.
	OnTask func(op string, percent int)
}

// Transport says how disks are read.
type Transport struct {
	Kind       string // vddk, curl, nbd or auto; "" means auto
	VDDKLibDir string // where VMware's library is unpacked
	VDDKPlugin string // nbdkit's plugin, by name or path; "" means vddk
	VDDKConfig string // a configuration file for the library; "" for none
	NBDURI     string // a template: {vm}, {disk} and {snapshot} are replaced
}

// The kinds of transport.
const (
	transportVDDK = "vddk"
	transportCurl = "curl"
	transportNBD  = "nbd"
	transportAuto = "auto"
)

// effectiveKind is the configured kind. Auto means vddk if its library is configured, else curl.
func (t Transport) effectiveKind() string {
	switch {
	case t.Kind != transportAuto && t.Kind != "":
		return t.Kind
	case t.VDDKLibDir != "":
		return transportVDDK
	default:
		return transportCurl
	}
}

// Connections is the largest number of connections of one disk to its host.
func (t Transport) Connections() int {
	if t.effectiveKind() == transportVDDK {
		return vddkConnections
	}
	return curlConnections
}

// prepare fills in defaults and refuses a configuration that cannot work.
func (cfg *Config) prepare() (*url.URL, error) {
	const op = "check the vCenter configuration"
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.OnTask == nil {
		cfg.OnTask = func(string, int) {}
	}
	if cfg.Refusals == nil {
		cfg.Refusals = &Refusals{}
	}
	if cfg.KeepAlive == 0 {
		cfg.KeepAlive = standardKeepAlive
	}
	u, err := soap.ParseURL(cfg.URL)
	if err != nil || u == nil || u.Hostname() == "" {
		return nil, job.Errorf(op, job.Invalid, "Set vcenter.url, as in https://vcenter.example.org",
			"the vCenter's address is not a URL")
	}
	if u.Scheme != "https" {
		return nil, job.Errorf(op, job.Invalid, "Use an address that begins with https://",
			"%s would send the password in the clear", u.Redacted())
	}
	if _, set := u.User.Password(); u.User.Username() != "" || set && strings.Contains(cfg.URL, "@") {
		return nil, job.Errorf(op, job.Invalid, "Set vcenter.user and vcenter.password_file",
			"the vCenter's address holds a user or a password")
	}
	u.User = nil
	if cfg.User == "" {
		return nil, job.Errorf(op, job.Invalid, "Set vcenter.user", "no vCenter user is given")
	}
	if err := cfg.Source.check(); err != nil {
		return nil, err
	}
	return u, nil
}

func (t *Transport) check() error {
	const op = "check the source configuration"
	if t.Kind == "" {
		t.Kind = transportAuto
	}
	switch t.Kind {
	case transportVDDK:
		if t.VDDKLibDir == "" {
			return job.Errorf(op, job.Invalid, "Set source.vddk_libdir to where VMware's VDDK is unpacked",
				"transport vddk needs VMware's library")
		}
	case transportNBD:
		if t.NBDURI == "" {
			return job.Errorf(op, job.Invalid, "Set source.nbd_uri, as in nbd://host/{vm}-{disk}",
				"transport nbd needs a URI")
		}
	case transportCurl, transportAuto:
	default:
		return job.Errorf(op, job.Invalid, "Use vddk, curl, nbd or auto", "there is no transport %q", t.Kind)
	}
	return nil
}

// password reads the password file.
func (cfg *Config) password() (job.Secret, error) {
	const op = "read the vCenter password"
	if cfg.PasswordFile == "" {
		return job.Secret{}, job.Errorf(op, job.Invalid,
			"Set vcenter.password_file to a file that holds only the password", "no password file is given")
	}
	f, err := os.Open(cfg.PasswordFile)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return job.Secret{}, &job.Error{
			Op: op, Kind: job.Invalid,
			Next: "Write the password into that file and make it readable for this user only", Err: err,
		}
	case errors.Is(err, fs.ErrPermission):
		return job.Secret{}, &job.Error{
			Op: op, Kind: job.Invalid,
			Next: "Give the file to the user that runs vmferry: chown vmferry " + cfg.PasswordFile, Err: err,
		}
	case err != nil:
		return job.Secret{}, &job.Error{Op: op, Kind: job.Invalid, Err: err}
	}
	password, err := readPassword(f)
	if err := errors.Join(err, f.Close()); err != nil {
		return job.Secret{}, &job.Error{Op: op, Kind: job.Invalid, Next: passwordNext(err, cfg.PasswordFile), Err: err}
	}
	return password, nil
}

var errOpenToAll = errors.New("every user of this machine can read or change it")

func passwordNext(err error, file string) string {
	if errors.Is(err, errOpenToAll) {
		return "Run chmod 0600 " + file
	}
	return "Write the password, and nothing else, into " + file
}

func readPassword(f *os.File) (job.Secret, error) {
	info, err := f.Stat()
	if err != nil {
		return job.Secret{}, err
	}
	if !info.Mode().IsRegular() {
		return job.Secret{}, fmt.Errorf("%s is not a regular file", f.Name())
	}
	if info.Mode().Perm()&0o007 != 0 {
		return job.Secret{}, fmt.Errorf("password file %s has mode %04o: %w", f.Name(), info.Mode().Perm(),
			errOpenToAll)
	}
	text, err := io.ReadAll(io.LimitReader(f, passwordRead))
	if err != nil {
		return job.Secret{}, err
	}
	password, err := job.SecretFrom(text)
	if err != nil {
		return job.Secret{}, fmt.Errorf("password file %s: %w", f.Name(), err)
	}
	return password, nil
}

// Check refuses a configuration that cannot work. It reads the files that are named, and sends nothing.
func (cfg Config) Check() error {
	if _, err := cfg.prepare(); err != nil {
		return err
	}
	if _, err := cfg.password(); err != nil {
		return err
	}
	t, err := newTrust(cfg.Thumbprint)
	if err != nil {
		return err
	}
	_, err = t.config(cfg.CAFile)
	return err
}
