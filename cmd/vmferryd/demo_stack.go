package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/vmferry/vmferry/child"
	"github.com/vmferry/vmferry/cmd/internal/cli"
	"github.com/vmferry/vmferry/http/rest"
	"github.com/vmferry/vmferry/job"
)

// stack is what the demo runs: the rehearsal vCenter, Redis, MariaDB if it is installed, and the daemon.
type stack struct {
	redis   *redisServer
	history demoHistory
	vcenter *child.Process
	daemon  *child.Process

	sim     simulated
	serving serving
	client  *rest.Client
	store   *redis.Client
}

// simulated is what vmferry sim vcenter -o json writes when it is ready.
type simulated struct {
	URL          string `json:"url"`
	User         string `json:"user"`
	PasswordFile string `json:"password_file"`
	Thumbprint   string `json:"thumbprint"`
}

const (
	demoVM     = "web"
	answerTime = 30 * time.Second // most that the vCenter or Redis may take
)

// start starts everything.
func (k *stack) start(ctx context.Context, d *demo, redisServer string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if k.redis, err = startRedis(ctx, redisServer, d.dir, func(t string) { d.words("%s", t) }); err != nil {
		return err
	}
	k.store = redis.NewClient(&redis.Options{
		Network: "unix", Addr: k.redis.command.Socket, MaxRetries: 3, DisableIdentity: true,
	})
	if err := os.Mkdir(filepath.Join(d.dir, "vcenter"), 0o700); err != nil {
		return err
	}
	vcenter := program(d.dir, "vcenter", self, "sim", "vcenter", "--vm", demoVM, "--in-place", "--dir",
		filepath.Join(d.dir, "vcenter"), "-o", "json")
	vcenter.Answer = &k.sim
	for _, disk := range d.disks {
		vcenter.Argv = append(vcenter.Argv, "--disk", disk.image)
	}
	if k.vcenter, err = child.Start(ctx, vcenter); err != nil {
		return err
	}
	return k.serve(ctx, d.dir, self)
}

// serve starts the daemon, on its default port if that is free: then commands need no --server.
func (k *stack) serve(ctx context.Context, dir, self string) error {
	file := filepath.Join(dir, "vmferry.yaml")
	listen := "127.0.0.1:0"
	if l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:8081"); err == nil {
		listen = l.Addr().String()
		_ = l.Close() // it only showed that the port is free
	}
	config := fmt.Sprintf(`# Written by vmferry demo.
role: all
listen: %s
state_dir: %s
vcenter:
  url: %s
  user: %s
  password_file: %s
  thumbprint: "%s"
source:
  transport: curl
targets:
  roots: [%s]
redis:
  url: unix://%s
%s`, listen, filepath.Join(dir, "s"), k.sim.URL, k.sim.User, k.sim.PasswordFile, k.sim.Thumbprint,
		filepath.Join(dir, "targets"), k.redis.command.Socket, k.history.config())
	if err := os.Mkdir(filepath.Join(dir, "targets"), 0o750); err != nil {
		return err
	}
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return err
	}
	daemon := program(dir, "daemon", self, "serve", "--config", file, "-o", "json")
	daemon.Answer = &k.serving
	var err error
	if k.daemon, err = child.Start(ctx, daemon); err != nil {
		return err
	}
	k.client, err = rest.NewClient(k.serving.URL)
	return err
}

// stop ends everything. The daemon is first: it logs out of the vCenter, and writes its last reports to Redis
// and MariaDB.
func (k *stack) stop() error {
	var errs []error
	if k.client != nil {
		k.client.Close()
	}
	errs = append(errs, k.daemon.End(syscall.SIGTERM), k.vcenter.End(syscall.SIGTERM))
	if k.store != nil {
		errs = append(errs, k.store.Close())
	}
	errs = append(errs, k.redis.stop(), k.history.stop())
	*k = stack{sim: k.sim, serving: k.serving}
	return errors.Join(errs...)
}

// write writes to a disk as the VM's guest would.
func (k *stack) write(ctx context.Context, w guestWrite) error {
	body := map[string]any{"vm": demoVM, "disk": w.disk, "offset": w.offset, "length": w.length}
	if w.zero {
		body["data_base64"] = make([]byte, w.length) // encoding/json writes bytes in base64
	} else {
		body["seed"] = uint64(w.offset)
	}
	return k.rehearsal(ctx, http.MethodPost, "write", body, nil)
}

// snapshots counts the snapshots of the VM.
func (k *stack) snapshots(ctx context.Context) (int, error) {
	var state struct {
		VMs []struct {
			Snapshots []struct{} `json:"snapshots"`
		} `json:"vms"`
	}
	err := k.rehearsal(ctx, http.MethodGet, "state", nil, &state)
	n := 0
	for _, vm := range state.VMs {
		n += len(vm.Snapshots)
	}
	return n, err
}

// rehearsal sends the rehearsal vCenter an order that no real vCenter knows.
func (k *stack) rehearsal(ctx context.Context, method, what string, in, into any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, method, trimSDK(k.sim.URL)+"/rehearsal/"+what, bytes.NewReader(body))
	if err != nil {
		return err
	}
	password, err := os.ReadFile(k.sim.PasswordFile)
	if err != nil {
		return err
	}
	req.SetBasicAuth(k.sim.User, strings.TrimSpace(string(password)))
	//nolint:gosec // our own child on loopback, with a self-signed certificate
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport, Timeout: answerTime}).Do(req)
	if err != nil {
		return job.Errorf("ask the rehearsal vCenter", job.Unavailable, "", "%w", err)
	}
	defer func() { _ = resp.Body.Close() }() // read below, as far as it matters
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode >= http.StatusBadRequest {
		return job.Errorf("ask the rehearsal vCenter", job.Internal, "", "%s: %s",
			resp.Status, cli.OneLine(string(text)))
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(text, into)
}

// trimSDK is the vCenter's address without the path of its API.
func trimSDK(url string) string { return strings.TrimSuffix(strings.TrimSuffix(url, "/"), "/sdk") }
