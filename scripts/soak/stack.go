package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/vmferry/vmferry/child"
	"github.com/vmferry/vmferry/http/rest"
	"github.com/vmferry/vmferry/job"
)

// stack is everything that runs.
type stack struct {
	dir     string
	vcenter *child.Program
	redis   *child.Program
	daemon  *child.Program
	file    *child.Program // server of the third disk's target, a file
	memory  *child.Program // server of the second disk's target, memory that loses what was not flushed
	client  *rest.Client
	sim     struct {
		URL          string `json:"url"`
		User         string `json:"user"`
		PasswordFile string `json:"password_file"`
		Thumbprint   string `json:"thumbprint"`
	}
}

// furnish starts everything.
func (k *stack) furnish(ctx context.Context, vmferry, dir string, disks []disk) error {
	k.dir = dir
	at := func(name string) string { return filepath.Join(dir, name) }
	k.vcenter = child.NewProgram(dir, "vcenter", vmferry, "sim", "vcenter", "--vm", "web", "--in-place", "--dir",
		at("vc"),
		"-o", "json")
	k.vcenter.Answer = &k.sim
	for _, d := range disks {
		k.vcenter.Argv = append(k.vcenter.Argv, "--disk", d.image)
	}
	k.redis = child.NewProgram(dir, "redis", "redis-server", "--port", "0", "--unixsocket", at("redis.sock"), "--save",
		"",
		"--dir", dir)
	k.memory = child.NewProgram(dir, "memory", vmferry, "sim", "nbd", "--memory", fmt.Sprint(disks[1].size),
		"--volatile",
		"--listen", at("memory.sock"), "--control", at("memory.ctl"))
	k.file = child.NewProgram(dir, "file", "nbdkit", "-f", "-t", "1", "-U", at("file.sock"), "file", disks[2].copy)
	for _, p := range []*child.Program{k.redis, k.memory, k.file} {
		p.Socket = at(p.Name + ".sock")
	}
	if err := os.Mkdir(at("vc"), 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(disks[2].copy, nil, 0o600); err != nil {
		return err
	}
	if err := os.Truncate(disks[2].copy, disks[2].size); err != nil {
		return err
	}
	for _, p := range []*child.Program{k.vcenter, k.redis, k.memory, k.file} {
		if err := p.Start(ctx); err != nil {
			return err
		}
	}
	return k.serve(ctx, vmferry)
}

// serve writes the configuration and starts the daemon.
func (k *stack) serve(ctx context.Context, vmferry string) error {
	at := func(name string) string { return filepath.Join(k.dir, name) }
	config := fmt.Sprintf(`listen: unix:%s
state_dir: %s
vcenter: {url: %q, user: %q, password_file: %q, thumbprint: %q}
source: {transport: curl}
targets: {roots: [%s], uris: ["nbd+unix:///?socket=%s/"]}
redis: {url: "unix://%s"}
`, at("d.sock"), at("s"), k.sim.URL, k.sim.User, k.sim.PasswordFile, k.sim.Thumbprint, at("t"), k.dir, at("redis.sock"))
	if err := os.WriteFile(at("vmferry.yaml"), []byte(config), 0o600); err != nil {
		return err
	}
	if err := os.Mkdir(at("t"), 0o700); err != nil {
		return err
	}
	k.daemon = child.NewProgram(k.dir, "daemon", vmferry, "serve", "--config", at("vmferry.yaml"))
	k.daemon.Socket = at("d.sock")
	if err := k.daemon.Start(ctx); err != nil {
		return err
	}
	var err error
	k.client, err = rest.NewClient("unix:" + at("d.sock"))
	return err
}

// end stops everything by SIGTERM, the daemon first.
func (k *stack) end() {
	if k.client != nil {
		k.client.Close()
	}
	for _, p := range []*child.Program{k.daemon, k.file, k.memory, k.redis, k.vcenter} {
		endBy(p, syscall.SIGTERM)
	}
}

// ask sends one request to the rehearsal vCenter or to the memory target, and decodes the answer into into, if any.
func ask(ctx context.Context, c *http.Client, req func(context.Context) (*http.Request, error), into any) error {
	ctx, cancel := context.WithTimeout(ctx, readyTime)
	defer cancel()
	r, err := req(ctx)
	if err != nil {
		return err
	}
	resp, err := c.Do(r)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }() // the answer is read, as far as it matters
	if resp.StatusCode >= http.StatusBadRequest {
		return fmt.Errorf("%s answers %s", r.URL.Path, resp.Status)
	}
	if into == nil {
		return nil
	}
	return json.NewDecoder(resp.Body).Decode(into)
}

// vcenterAsk sends an order to the rehearsal vCenter.
func (k *stack) vcenterAsk(ctx context.Context, method, what string, body, into any) error {
	text, err := json.Marshal(body)
	if err != nil {
		return err
	}
	password, err := os.ReadFile(k.sim.PasswordFile)
	if err != nil {
		return err
	}
	//nolint:gosec // our own child on loopback
	t := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	defer t.CloseIdleConnections()
	return ask(ctx, &http.Client{Transport: t}, func(ctx context.Context) (*http.Request, error) {
		r, err := http.NewRequestWithContext(ctx, method, strings.TrimSuffix(k.sim.URL, "/sdk")+"/rehearsal/"+what,
			bytes.NewReader(text))
		if err == nil {
			r.SetBasicAuth(k.sim.User, strings.TrimSpace(string(password)))
		}
		return r, err
	}, into)
}

// write writes to a disk as the VM's guest would.
func (k *stack) write(ctx context.Context, id job.DiskID, off, length int64, seed uint64) error {
	return k.vcenterAsk(ctx, http.MethodPost, "write",
		map[string]any{"vm": "web", "disk": id, "offset": off, "length": length, "seed": seed}, nil)
}

// snapshots counts the snapshots of the VM.
func (k *stack) snapshots(ctx context.Context) (n int, err error) {
	var state struct {
		VMs []struct {
			Snapshots []struct{} `json:"snapshots"`
		} `json:"vms"`
	}
	err = k.vcenterAsk(ctx, http.MethodGet, "state", nil, &state)
	for _, vm := range state.VMs {
		n += len(vm.Snapshots)
	}
	return n, err
}

// powerCut makes the memory target lose what was not flushed, and closes its connections.
func (k *stack) powerCut(ctx context.Context) error {
	t := &http.Transport{DialContext: dialer(filepath.Join(k.dir, "memory.ctl"))}
	defer t.CloseIdleConnections()
	for _, what := range []string{"crash", "drop"} {
		err := ask(ctx, &http.Client{Transport: t, Timeout: time.Minute},
			func(ctx context.Context) (*http.Request, error) {
				return http.NewRequestWithContext(ctx, http.MethodPost, "http://sim/rehearsal/"+what, nil)
			}, nil)
		if err != nil {
			return err
		}
	}
	return nil
}
