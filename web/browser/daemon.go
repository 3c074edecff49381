package browser

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/vmferry/vmferry/child"
	"github.com/vmferry/vmferry/http/rest"
)

const (
	endTime  = 20 * time.Second // between SIGTERM and SIGKILL
	wallTime = 200 * time.Millisecond
)

// Daemon is a running vmferryd.
type Daemon struct {
	URL       string       // http://127.0.0.1:port
	SecureURL string       // https://..., if it has a certificate
	Client    *rest.Client // at URL

	program, dir string
	config       string // all keys but listen
	process      *child.Process
}

// StartDaemon starts the daemon of a program. Its state, its log and its configuration are in dir, which is there and
// whose path is short. The configuration is YAML without listen and state_dir.
func StartDaemon(ctx context.Context, program, dir, config string) (*Daemon, error) {
	d := &Daemon{program: program, dir: dir, config: config}
	return d, d.start(ctx, "127.0.0.1:0")
}

func (d *Daemon) start(ctx context.Context, listen string) error {
	file := filepath.Join(d.dir, "vmferry.yaml")
	text := fmt.Sprintf("listen: %s\nstate_dir: %s\n%s", listen, filepath.Join(d.dir, "s"), d.config)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return err
	}
	var ready struct {
		URL       string `json:"url"`
		SecureURL string `json:"secure_url"`
	}
	p, err := child.Start(ctx, child.Command{
		Name: "vmferryd", Argv: []string{d.program, "serve", "--config", file, "-o", "json"}, Env: child.Environment(),
		Log: filepath.Join(d.dir, "daemon.log"), Grace: endTime, Answer: &ready,
	})
	if err != nil {
		return err
	}
	d.process, d.URL, d.SecureURL = p, ready.URL, ready.SecureURL
	d.Client, err = rest.NewClient(d.URL)
	return err
}

// PID is that of the daemon.
func (d *Daemon) PID() int { return d.process.PID() }

// End ends the daemon with a signal.
func (d *Daemon) End(sig syscall.Signal) error {
	d.Client.Close()
	return d.process.End(sig)
}

// Again starts the daemon at the same address, after End, with another program if that is not "".
func (d *Daemon) Again(ctx context.Context, program string) error {
	if program != "" {
		d.program = program
	}
	return d.start(ctx, strings.TrimPrefix(d.URL, "http://"))
}

// VM is a VM of a rehearsal vCenter.
type VM struct {
	Name  string
	Disks []int64 // sizes in bytes
}

// VCenter is a rehearsal vCenter.
type VCenter struct {
	Config  string // section of a daemon's configuration
	process *child.Process
}

// StartVCenter starts a rehearsal vCenter whose disks are full of noise, in dir.
func StartVCenter(ctx context.Context, program, dir string, vms ...VM) (*VCenter, error) {
	argv := []string{program, "sim", "vcenter", "--in-place", "--dir", filepath.Join(dir, "v"), "-o", "json"}
	if err := os.Mkdir(filepath.Join(dir, "v"), 0o700); err != nil {
		return nil, err
	}
	for i, vm := range vms {
		argv = append(argv, "--vm", vm.Name)
		for k, size := range vm.Disks {
			image := filepath.Join(dir, fmt.Sprintf("%d-%d.raw", i, k))
			if err := noise(image, size, byte(16*i+k)); err != nil {
				return nil, err
			}
			argv = append(argv, "--disk", image)
		}
	}
	var ready struct {
		Config string `json:"config"`
	}
	p, err := child.Start(ctx, child.Command{
		Name: "vcenter", Argv: argv, Env: child.Environment(), Log: filepath.Join(dir, "rehearsal.log"), Grace: endTime,
		Answer: &ready,
	})
	if err != nil {
		return nil, err
	}
	return &VCenter{Config: ready.Config, process: p}, nil
}

// End ends the vCenter.
func (v *VCenter) End() error { return v.process.End(syscall.SIGTERM) }

// noise writes a file of bytes that hold no runs of zeros. The size is a whole number of MiB.
func noise(path string, size int64, seed byte) (err error) {
	block, err := aes.NewCipher(bytes.Repeat([]byte{seed + 1}, aes.BlockSize))
	if err != nil {
		return err
	}
	stream := cipher.NewCTR(block, make([]byte, aes.BlockSize)) //nolint:gosec // noise, no secret
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	buf := make([]byte, 1<<20)
	for ; size > 0; size -= int64(len(buf)) {
		clear(buf)
		stream.XORKeyStream(buf, buf)
		if _, err := f.Write(buf); err != nil {
			return err
		}
	}
	return nil
}

// Reachable says whether something listens at the daemon's address.
func (d *Daemon) Reachable(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, wallTime)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", strings.TrimPrefix(d.URL, "http://"))
	if err != nil {
		return false
	}
	_ = conn.Close() // it only showed that something listens
	return true
}
