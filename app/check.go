package app

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/nbd"
	"github.com/vmferry/vmferry/store/history"
)

const mostExternalJobs = 100_000 // each takes about 10 KiB of memory

// wrong is an error about one key.
func wrong(key, next, format string, args ...any) error {
	return job.Errorf("check configuration: "+key, job.Invalid, next, format, args...)
}

// check refuses a configuration that cannot work, before anything is started.
func (cfg *Config) check() error {
	if !slices.Contains([]Role{VMA, OMA, All}, cfg.Role) {
		return wrong("role", "Use vma, oma or all", "%q is not a role", cfg.Role)
	}
	if !filepath.IsAbs(cfg.StateDir) {
		return wrong("state_dir", "Write the whole path, starting with /", "%q is not an absolute path", cfg.StateDir)
	}
	for _, f := range []func() error{
		cfg.checkSides, cfg.checkVCenter, cfg.checkTargets, cfg.checkTLS, cfg.checkRedis, cfg.checkSQL,
		cfg.checkNumbers, cfg.checkLog, cfg.checkListen, cfg.checkTunnel, cfg.checkNodes, cfg.checkAuth,
		cfg.checkWebhooks, cfg.checkLink,
	} {
		if err := f(); err != nil {
			return err
		}
	}
	return nil
}

func (cfg *Config) checkVCenter() error {
	v := cfg.VCenter
	if !slices.Contains([]string{"vddk", "curl", "nbd", "auto"}, cfg.Source.Transport) {
		return wrong("source.transport", "Use vddk, curl, nbd or auto", "%q is not a transport", cfg.Source.Transport)
	}
	if v.URL == "" {
		if v != (VCenter{}) {
			return wrong("vcenter.url", "Set vcenter.url, as in https://vcenter.example.org",
				"the vCenter's address is missing, but other keys of vcenter are set")
		}
		return nil
	}
	u, err := url.Parse(v.URL)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil {
		return wrong("vcenter.url", "Write it as in https://vcenter.example.org, without user and password",
			"this is not an https address")
	}
	if v.User == "" {
		return wrong("vcenter.user", "Set vcenter.user", "no user is set for the vCenter")
	}
	if v.PasswordFile == "" {
		return wrong("vcenter.password_file",
			"Write the password into a file with mode 0600 and set vcenter.password_file to its path",
			"no password file is set for the vCenter")
	}
	if cfg.Source.Transport == "vddk" && cfg.Source.VDDKLibDir == "" {
		return wrong("source.vddk_libdir", "Set source.vddk_libdir to the folder of VMware's unpacked VDDK",
			"transport vddk needs VMware's library")
	}
	if cfg.Source.Transport == "nbd" && cfg.Source.NBDURI == "" {
		return wrong("source.nbd_uri", "Set source.nbd_uri, as in nbd://host/{vm}-{disk}",
			"transport nbd needs an address")
	}
	return checkSecretFile("vcenter.password_file", v.PasswordFile)
}

// checkSecretFile refuses a file that every user can read or change.
func checkSecretFile(key, path string) error {
	if !filepath.IsAbs(path) {
		return wrong(key, "Write the whole path, starting with /", "%q is not an absolute path", path)
	}
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return wrong(key,
			"Write the password, and nothing else, into that file and make it readable for its user only (chmod 0600)",
			"%s does not exist", path)
	case err != nil:
		return wrong(key, "Give the file to the user that runs vmferry", "%w", err)
	case !info.Mode().IsRegular():
		return wrong(key, "Name a file that holds the password", "%s is not a regular file", path)
	case info.Mode().Perm()&0o007 != 0:
		return wrong(key, "Type: chmod 0600 "+path, "every user of this machine can read or change %s (mode %04o)",
			path, info.Mode().Perm())
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return wrong(key, "Give the file to the user that runs vmferry", "%w", err)
	}
	if _, err := job.SecretFrom(text); err != nil {
		return wrong(key, "Write the password, and nothing else, into that file", "%s: %w", path, err)
	}
	return nil
}

func (cfg *Config) checkTargets() error {
	for _, r := range cfg.Targets.Roots {
		if !filepath.IsAbs(r) {
			return wrong("targets.roots", "Write whole paths, starting with /", "%q is not an absolute path", r)
		}
		if filepath.Clean(r) == "/" {
			return wrong("targets.roots",
				"Name the folder of the volumes, as in /var/lib/vmferry/targets or /dev/vmferry",
				"/ would allow jobs to write to any file")
		}
	}
	if _, err := cfg.Targets.allow().CheckURIs(); err != nil {
		return wrong("targets.uris",
			"Use prefixes such as nbds://storage.example.org/ or nbd+unix:///?socket=/run/exports/",
			"no NBD URI: %w", err)
	}
	return nil
}

// checkTLS refuses certificates and keys that can't be used, and a source whose servers could not be verified.
func (cfg *Config) checkTLS() error {
	for _, side := range []struct {
		section string
		tls     nbd.TLS
	}{{"source", cfg.Source.tls()}, {"targets", cfg.Targets.tls()}} {
		for key, path := range map[string]string{
			"tls_certificates": side.tls.Certificates, "tls_psk_file": side.tls.PSKFile,
		} {
			if path != "" && !filepath.IsAbs(path) {
				return wrong(side.section+"."+key, "Write the whole path, starting with /",
					"%q is not an absolute path", path)
			}
		}
		if err := side.tls.Check(); err != nil {
			return wrong(side.section, job.NextOf(err), "%w", err)
		}
	}
	if uri := cfg.Source.NBDURI; strings.HasPrefix(uri, "nbds") {
		if err := cfg.Source.tls().Covers(strings.NewReplacer("{", "", "}", "").Replace(uri)); err != nil {
			return wrong("source.nbd_uri", "Set source.tls_certificates or source.tls_psk_file, or "+
				"source.tls_unverified to take any server", "%w", err)
		}
	}
	return nil
}

func (cfg *Config) checkRedis() error {
	r := cfg.Redis
	if !r.on() {
		if r.PasswordFile != "" || r.CAFile != "" || r.Master != "" || r.SentinelPasswordFile != "" {
			return wrong("redis.url", "Set redis.url, as in unix:///run/redis/redis.sock or redis://127.0.0.1:6379/0",
				"other keys of redis are set, but no address")
		}
		return nil
	}
	if err := r.checkURL(); err != nil {
		return err
	}
	for _, s := range r.Sentinels {
		if host, port, err := net.SplitHostPort(s); err != nil || host == "" || port == "" {
			return wrong("redis.sentinels", "Write each as in sentinel1.example.org:26379", "%q is not host:port", s)
		}
	}
	if (len(r.Sentinels) > 0) != (r.Master != "") || r.SentinelPasswordFile != "" && len(r.Sentinels) == 0 {
		return wrong("redis.master", "Set both redis.sentinels and redis.master, or none of the keys for Sentinels",
			"Sentinels are known by their addresses and the name of their master")
	}
	for key, path := range map[string]string{
		"redis.password_file": r.PasswordFile, "redis.sentinel_password_file": r.SentinelPasswordFile,
	} {
		if path == "" {
			continue
		}
		if err := checkSecretFile(key, path); err != nil {
			return err
		}
	}
	return nil
}

func (r Redis) checkURL() error {
	u, err := url.Parse(r.URL)
	if err != nil || r.URL != "" && !slices.Contains([]string{"redis", "rediss", "unix"}, u.Scheme) {
		return wrong("redis.url", "Write it as in unix:///run/redis/redis.sock or redis://127.0.0.1:6379/0",
			"this is not the address of a Redis")
	}
	if _, set := u.User.Password(); set {
		return wrong("redis.url", "Move the password into a file and set redis.password_file",
			"the address holds a password")
	}
	return nil
}

func (cfg *Config) checkSQL() error {
	s := cfg.SQL
	if !slices.Contains([]string{history.SQLite, history.MariaDB, NoSQL}, s.Driver) {
		return wrong("sql.driver", "Use sqlite, mariadb or none, or leave it out", "%q is not a database", s.Driver)
	}
	if (s.Driver == history.MariaDB) != (s.DSNFile != "") {
		return wrong("sql.dsn_file", "Set sql.dsn_file for MariaDB, and for nothing else",
			"driver %s and the file with MariaDB's address do not go together", s.Driver)
	}
	if s.DSNFile == "" {
		return nil
	}
	return checkSecretFile("sql.dsn_file", s.DSNFile)
}

func (cfg *Config) checkNumbers() error {
	if err := cfg.Limits.ofNode().Check(); err != nil {
		return err
	}
	key, n := bandwidthKey, cfg.Limits.BandwidthPerJob
	if cfg.Limits.Bandwidth != 0 {
		key, n = oldBandwidthKey, cfg.Limits.Bandwidth
	}
	if n < 0 {
		return wrong(key, "Use a rate such as 200MiB, or 0 for no limit", "%d is negative", n)
	}
	if n := cfg.Limits.ExternalJobs; n < 1 || n > mostExternalJobs {
		return wrong("limits.external_jobs", fmt.Sprintf("Use 1 to %d", mostExternalJobs), "%d is out of range", n)
	}
	if d := cfg.Report.ExternalKeep; d < time.Minute || d > 365*24*time.Hour {
		return wrong("report.external_keep", "Use 1m to 8760h", "%v is out of range", d)
	}
	for key, d := range map[string]time.Duration{
		"limits.patience": cfg.Limits.Patience, "limits.last_round_patience": cfg.Limits.LastRoundPatience,
	} {
		if err := job.CheckPatience(key, d); err != nil {
			return err
		}
	}
	if d := cfg.Report.Interval; d < 100*time.Millisecond || d > time.Hour {
		return wrong("report.interval", "Use 100ms to 1h", "%v is out of range", d)
	}
	if p := cfg.Report.Percent; !(p > 0 && p <= 100) {
		return wrong("report.percent", "Use a number above 0 and up to 100", "%v is out of range", p)
	}
	return nil
}

func (cfg *Config) checkLog() error {
	if !slices.Contains([]string{"debug", "info", "warn", "error"}, cfg.Log.Level) {
		return wrong("log.level", "Use debug, info, warn or error", "%q is not a level", cfg.Log.Level)
	}
	if !slices.Contains([]string{"auto", "json", "text"}, cfg.Log.Format) {
		return wrong("log.format", "Use json, text or auto", "%q is not a format", cfg.Log.Format)
	}
	return nil
}
