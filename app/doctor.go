package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	apihttp "github.com/vmferry/vmferry/http"
	"github.com/vmferry/vmferry/http/rest"
	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/store"
)

// Check is the result of one check.
type Check struct {
	Name    string `json:"name"`
	State   string `json:"state"` // ok, failed, or skipped: not configured or not needed
	Message string `json:"message"`
	Next    string `json:"next"` // the next step; "" if there is none
}

// The states of a check.
const (
	CheckOK      = "ok"
	CheckFailed  = "failed"
	CheckSkipped = "skipped"
)

const checkTime = 15 * time.Second // the most that one check may take

// Doctor checks everything that a daemon with this configuration needs. It changes nothing, except that it makes and
// removes an empty file in each folder to see whether it can write there, and a test job in Redis.
func Doctor(ctx context.Context, cfg Config) []Check {
	steps := []struct {
		name string
		f    func(context.Context, Config) (string, error)
	}{
		{"nbdkit", func(ctx context.Context, _ Config) (string, error) {
			return program(ctx, "nbdkit", "nbdkit", "--version")
		}},
		{"nbdkit plugin file", plugin("file")},
		{"nbdkit plugin curl", func(ctx context.Context, cfg Config) (string, error) {
			if t := cfg.Source.Transport; t != "curl" && t != "auto" {
				return "", skippedError("source.transport is " + t)
			}
			return plugin("curl")(ctx, cfg)
		}},
		{"nbdkit plugin vddk", vddk},
		{"redis-server", forDemo("redis-server", "redis-server", "--version")},
		{"mkfs.ext4", forDemo("mkfs.ext4", "e2fsprogs", "-V")},
		{"paths", paths},
		{"certificate", checkExpiry},
		{"state_dir", func(_ context.Context, cfg Config) (string, error) { return folder(cfg.StateDir, "state_dir") }},
		{"journal", lookAtJournal},
		{"targets.roots", roots},
		{"redis", checkRedis},
		{"vcenter", checkVCenter},
	}
	var out []Check
	for _, s := range steps {
		ctx, cancel := context.WithTimeout(ctx, checkTime)
		text, err := s.f(ctx, cfg)
		cancel()
		out = append(out, checked(s.name, text, err))
	}
	return out
}

// skippedError is the reason why a check does not apply.
type skippedError string

func (e skippedError) Error() string { return string(e) }

func checked(name, text string, err error) Check {
	var skipped skippedError
	switch {
	case err == nil:
		return Check{Name: name, State: CheckOK, Message: text}
	case errors.As(err, &skipped):
		return Check{Name: name, State: CheckSkipped, Message: string(skipped)}
	default:
		return Check{Name: name, State: CheckFailed, Message: err.Error(), Next: job.NextOf(err)}
	}
}

// FindProgram looks for a program in PATH and in the folders of administrators' programs. The error names the Debian
// package.
func FindProgram(name, debian string) (string, error) {
	for _, dir := range append(filepath.SplitList(os.Getenv("PATH")), "/usr/sbin", "/sbin", "/usr/local/sbin") {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil && filepath.IsAbs(path) {
			return path, nil
		}
	}
	return "", job.Errorf("find "+name, job.Missing, "Install it: apt-get install "+debian, "%s is not installed", name)
}

// program runs a program with the flag that prints its version, and returns the first line.
func program(ctx context.Context, name, debian, flag string) (string, error) {
	path, err := FindProgram(name, debian)
	if err != nil {
		return "", err
	}
	text, err := exec.CommandContext(ctx, path, flag).CombinedOutput() //nolint:gosec // callers pass constant names
	if err != nil {
		return "", &job.Error{
			Op: "run " + path, Kind: job.Missing,
			Next: "Install it again: apt-get install --reinstall " + debian, Err: err,
		}
	}
	line, _, _ := strings.Cut(strings.TrimSpace(string(text)), "\n")
	return line, nil
}

// forDemo is program for programs that the daemon does not need.
func forDemo(name, debian, flag string) func(context.Context, Config) (string, error) {
	return func(ctx context.Context, _ Config) (string, error) {
		text, err := program(ctx, name, debian, flag)
		if job.KindOf(err) == job.Missing {
			return "", skippedError("not installed; only vmferry demo needs it (apt-get install " + debian + ")")
		}
		return text, err
	}
}

// plugin checks that nbdkit can load one of its own.
func plugin(name string) func(context.Context, Config) (string, error) {
	return func(ctx context.Context, _ Config) (string, error) {
		path, err := FindProgram("nbdkit", "nbdkit")
		if err != nil {
			return "", err
		}
		text, err := exec.CommandContext(ctx, path, "--dump-plugin", name).Output() //nolint:gosec // fixed arguments
		if err != nil {
			return "", &job.Error{
				Op: "load plugin", Kind: job.Missing, Next: "Install it: apt-get install nbdkit",
				Err: fmt.Errorf("nbdkit has no plugin %s", name),
			}
		}
		for line := range strings.SplitSeq(string(text), "\n") {
			if v, ok := strings.CutPrefix(line, "version="); ok {
				return v, nil
			}
		}
		return "found", nil
	}
}

func vddk(ctx context.Context, cfg Config) (string, error) {
	s := cfg.Source
	if s.Transport != "vddk" && (s.Transport != "auto" || s.VDDKLibDir == "") {
		return "", skippedError("source.transport is " + s.Transport + " and source.vddk_libdir is not set")
	}
	if found, err := filepath.Glob(filepath.Join(s.VDDKLibDir, "lib64", "libvixDiskLib.so*")); err != nil ||
		len(found) == 0 {
		return "", job.Errorf("find VDDK", job.Missing,
			"Unpack VMware's VDDK and set source.vddk_libdir to the folder that has lib64 in it",
			"no lib64/libvixDiskLib.so below %q", s.VDDKLibDir)
	}
	name := s.VDDKPlugin
	if name == "" {
		name = "vddk"
	}
	text, err := plugin(name)(ctx, cfg)
	if err != nil {
		return "", job.Errorf("load plugin", job.Missing,
			"Build nbdkit's vddk plugin, which Debian does not package, and set source.vddk_plugin to its path",
			"nbdkit has no plugin %s", name)
	}
	return text, nil
}

// folder checks that files can be made in dir, or in the nearest folder above it that exists. It returns dir and the
// free space there.
func folder(dir, key string) (string, error) {
	at := dir
	for {
		if _, err := os.Stat(at); err == nil || at == "/" {
			break
		}
		at = filepath.Dir(at)
	}
	next := "Let the user that runs vmferry write to it, or set " + key
	f, err := os.CreateTemp(at, ".vmferry-doctor-*")
	if err != nil {
		return "", job.SystemError("write to "+dir, next, err)
	}
	if err := errors.Join(f.Close(), os.Remove(f.Name())); err != nil {
		return "", job.SystemError("write to "+dir, next, err)
	}
	var fs syscall.Statfs_t
	if err := syscall.Statfs(at, &fs); err != nil {
		return "", job.SystemError("read the free space of "+at, next, err)
	}
	return fmt.Sprintf("%s, %s free", dir, job.FormatSize(int64(fs.Bavail)*fs.Bsize)), nil
}

func lookAtJournal(ctx context.Context, cfg Config) (string, error) {
	s, err := store.LookAtJournal(ctx, cfg.StateDir)
	if job.KindOf(err) == job.NotFound {
		return "", skippedError("there is none yet: the first start makes it")
	}
	if err != nil {
		return "", err
	}
	text := fmt.Sprintf("%s, tables of version %d", job.FormatSize(s.Size), s.Version)
	if s.Version < s.Known {
		text += fmt.Sprintf("; the next start keeps a copy and brings them to version %d", s.Known)
	}
	if len(s.Copies) > 0 {
		text += "; copies of earlier versions: " + strings.Join(s.Copies, ", ")
	}
	return text, nil
}

func roots(_ context.Context, cfg Config) (string, error) {
	var texts []string
	for _, r := range cfg.Targets.Roots {
		if err := mayWrite(r); err != nil {
			return "", err
		}
		if inside(r, "/dev") {
			texts = append(texts, r)
			continue
		}
		text, err := folder(r, "targets.roots")
		if err != nil {
			return "", err
		}
		texts = append(texts, text)
	}
	return strings.Join(texts, "; "), nil
}

func checkRedis(ctx context.Context, cfg Config) (text string, err error) {
	if !cfg.Redis.on() {
		return "", skippedError("redis.url is not set: reports are in the REST service only")
	}
	r, err := store.OpenRedis(cfg.Redis.ofStore())
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	note, err := r.Try(ctx)
	if err != nil {
		return "", err
	}
	text = "answers; a test report was written and removed"
	if note != "" {
		text += "; " + note
	}
	return text, nil
}

func checkVCenter(ctx context.Context, cfg Config) (_ string, err error) {
	v := newVCenter(cfg, slog.New(slog.DiscardHandler))
	if v.configured() != nil {
		return "", skippedError("vcenter.url is not set: the daemon runs and refuses jobs")
	}
	if err := refusedThere(ctx, cfg); err != nil {
		return "", err
	}
	c, err := v.client(ctx)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, v.Close(context.WithoutCancel(ctx))) }()
	return "logged in to " + c.Name() + " as " + cfg.VCenter.User, nil
}

// checkExpiry fails two weeks before the certificate ends, so that there is time for another one.
func checkExpiry(_ context.Context, cfg Config) (string, error) {
	if cfg.TLS.CertFile == "" {
		return "", skippedError("nothing is served over TLS")
	}
	c, err := apihttp.LoadCertificate(cfg.TLS.CertFile, cfg.TLS.KeyFile, slog.New(slog.DiscardHandler), nil)
	if err != nil {
		return "", err
	}
	const early = 14 * 24 * time.Hour
	if left := time.Until(c.Expires()); left < early {
		return "", wrong("tls.cert_file", "Write a new certificate and its key into the files; the daemon reads them "+
			"by itself", "%s ends at %s", cfg.TLS.CertFile, c.Expires().UTC().Format(time.RFC3339))
	}
	return "it is good until " + c.Expires().UTC().Format(time.RFC3339), nil
}

// refusedThere asks the daemon of this configuration, if it runs, whether the vCenter has refused the password: each
// more login with it could lock the account.
func refusedThere(ctx context.Context, cfg Config) error {
	address := cfg.Listen
	switch {
	case cfg.asksForTokens():
		address = "unix:" + filepath.Join(cfg.StateDir, "run", adminSocket)
	case !strings.HasPrefix(address, "unix:"):
		address = "http://" + address
	}
	c, err := rest.NewClient(address)
	if err != nil {
		return nil // the address is checked elsewhere
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	s, err := c.System(ctx)
	if err != nil || s.VCenterState.State != rest.VCenterWrongPassword {
		return nil // no daemon runs
	}
	return job.Errorf("ask the daemon at "+cfg.Listen, job.Auth, s.VCenterState.Next,
		"since %s: %s; the password is not tried again here", s.VCenterState.Since.Format(time.RFC3339),
		s.VCenterState.Message)
}

const askTime = 2 * time.Second // for the answer of a daemon on this machine
