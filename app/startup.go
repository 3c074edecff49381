package app

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	socketPathMost = 107 // bytes of the path of a unix socket, by the kernel's sockaddr_un
	// serverSocket has the length of the longest path of a server's socket below the folder run: an attempt's folder
	// has six digits of a digest and at most ten of MkdirTemp.
	serverSocket = "123456-1234567890/s"
)

// startable refuses a configuration with which jobs could not run on this machine: what can be known before the first
// job is said at the start. It changes nothing.
func startable(ctx context.Context, cfg Config) error {
	for _, f := range []func(context.Context, Config) (string, error){paths, writable, sourceTools} {
		var skipped skippedError
		if _, err := f(ctx, cfg); err != nil && !errors.As(err, &skipped) {
			return err
		}
	}
	return newVCenter(cfg, nil).check()
}

// paths checks the lengths of the paths of sockets.
func paths(_ context.Context, cfg Config) (string, error) {
	if path, ok := strings.CutPrefix(cfg.Listen, "unix:"); ok && len(path) > socketPathMost {
		return "", wrong("listen", "Choose a shorter path, as in unix:/run/vmferry/vmferry.sock",
			"the path of a socket has at most %d bytes, this one has %d", socketPathMost, len(path))
	}
	if !cfg.readsDisks() {
		return "", skippedError("no server is started for a source")
	}
	longest := filepath.Join(cfg.StateDir, "run", serverSocket)
	if more := len(longest) - socketPathMost; more > 0 {
		return "", wrong("state_dir", "Set state_dir to a path that is shorter by "+fmt.Sprint(more)+" bytes",
			"the sockets of servers below it would have paths of %d bytes, the kernel takes at most %d", len(longest),
			socketPathMost)
	}
	return fmt.Sprintf("sockets have paths of at most %d bytes, of %d", len(longest), socketPathMost), nil
}

// readsDisks says whether nbdkits are started for the sources.
func (cfg *Config) readsDisks() bool { return cfg.VCenter.URL != "" && cfg.Source.Transport != "nbd" }

// writable checks that this process may write to each folder of targets.
func writable(_ context.Context, cfg Config) (string, error) {
	for _, root := range cfg.Targets.Roots {
		if err := mayWrite(root); err != nil {
			return "", err
		}
	}
	return strings.Join(cfg.Targets.Roots, ", "), nil
}

// mayWrite checks a folder, or, if that has to be made, the nearest one above it. The devices below /dev are there
// already or never.
func mayWrite(root string) error {
	const key = "targets.roots"
	at := root
	info, err := os.Stat(at)
	for errors.Is(err, fs.ErrNotExist) && at != "/" {
		at = filepath.Dir(at)
		info, err = os.Stat(at)
	}
	if err != nil {
		return wrong(key, "Let the user that runs vmferry use "+root, "%w", err)
	}
	if !info.IsDir() {
		return wrong(key, "Name the folder of the volumes", "%s is not a folder", at)
	}
	if inside(root, "/dev") {
		if at == root {
			return nil
		}
		next := "Make the devices first"
		if underSystemd() {
			next += ", and let the unit see them: systemctl edit vmferry, with the lines [Service], " +
				"PrivateDevices=no, DeviceAllow=block-* rw and SupplementaryGroups=disk"
		}
		return wrong(key, next, "%s does not exist", root)
	}
	err = unix.Access(at, unix.W_OK|unix.X_OK)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, syscall.EROFS) && underSystemd():
		return wrong(key, "Let the unit write there: systemctl edit vmferry, with the lines [Service] and "+
			"ReadWritePaths="+root+", then systemctl restart vmferry",
			"%s is read-only for this service: the unit has ProtectSystem=strict and may write below "+
				"/var/lib/vmferry only", at)
	case errors.Is(err, syscall.EROFS):
		return wrong(key, "Mount it for writing, or name another folder", "%s is on a read-only file system", at)
	default:
		return wrong(key, "Let the user that runs vmferry write to "+at, "cannot write to %s: %w", at, err)
	}
}

func inside(path, dir string) bool {
	return path == dir || strings.HasPrefix(filepath.Clean(path), dir+"/")
}

// underSystemd says whether this process is a service of systemd.
func underSystemd() bool { return os.Getenv("INVOCATION_ID") != "" && os.Getenv("NOTIFY_SOCKET") != "" }

// sourceTools checks that nbdkit can read the sources: its plugin, and VMware's library.
func sourceTools(ctx context.Context, cfg Config) (string, error) {
	if !cfg.readsDisks() {
		return "", skippedError("no server is started for a source")
	}
	if s := cfg.Source; s.Transport == "vddk" || s.Transport == "auto" && s.VDDKLibDir != "" {
		return vddk(ctx, cfg)
	}
	return plugin("curl")(ctx, cfg)
}
