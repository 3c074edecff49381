package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/vmferry/vmferry/child"
	"github.com/vmferry/vmferry/http/rest"
	"github.com/vmferry/vmferry/job"
)

// stack is what the seeds of a batch share: a rehearsal vCenter with all their VMs, and a daemon.
type stack struct {
	dir      string
	vmferry  string
	vcenter  *child.Program
	daemon   *child.Program
	client   *rest.Client
	web      *http.Client // for the rehearsal vCenter
	password string
	sim      struct {
		URL          string `json:"url"`
		User         string `json:"user"`
		PasswordFile string `json:"password_file"`
		Thumbprint   string `json:"thumbprint"`
	}
}

// furnish makes the images and starts everything.
func (k *stack) furnish(ctx context.Context, plans []plan) error {
	for _, name := range []string{"", "vc", "i", "t"} {
		if err := os.Mkdir(k.at(name), 0o700); err != nil {
			return err
		}
	}
	// Tasks take a moment, so that there is time to tamper while a snapshot is taken or removed.
	k.vcenter = child.NewProgram(k.dir, "vcenter", k.vmferry, "sim", "vcenter", "--in-place", "--dir", k.at("vc"),
		"--task-time", "60ms", "-o", "json")
	k.vcenter.Answer = &k.sim
	for _, p := range plans {
		if err := makeImages(k.dir, p); err != nil {
			return err
		}
		for _, name := range p.names {
			k.vcenter.Argv = append(k.vcenter.Argv, "--vm", name)
			for d := range p.benches {
				k.vcenter.Argv = append(k.vcenter.Argv, "--disk", imageOf(k.dir, name, d))
			}
		}
	}
	if err := k.vcenter.Start(ctx); err != nil {
		return err
	}
	password, err := os.ReadFile(k.sim.PasswordFile)
	if err != nil {
		return err
	}
	k.password = strings.TrimSpace(string(password))
	//nolint:gosec // our own child on loopback
	k.web = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	return k.serve(ctx)
}

func (k *stack) at(name string) string { return filepath.Join(k.dir, name) }

// serve writes the configuration and starts the daemon. Fewer disks are copied at the same time than there are jobs, so
// that some wait.
func (k *stack) serve(ctx context.Context) error {
	config := fmt.Sprintf(`listen: unix:%s
state_dir: %s
vcenter: {url: %q, user: %q, password_file: %q, thumbprint: %q}
source: {transport: curl}
targets: {roots: [%s, /dev], uris: ["nbd+unix:///?socket=%s/"]}
limits: {jobs: 4, disks: 4}
`, k.at("d.sock"), k.at("s"), k.sim.URL, k.sim.User, k.sim.PasswordFile, k.sim.Thumbprint, k.at("t"), k.at("t"))
	if err := os.WriteFile(k.at("vmferry.yaml"), []byte(config), 0o600); err != nil {
		return err
	}
	k.daemon = child.NewProgram(k.dir, "daemon", k.vmferry, "serve", "--config", k.at("vmferry.yaml"))
	k.daemon.Socket = k.at("d.sock")
	if err := k.daemon.Start(ctx); err != nil {
		return err
	}
	var err error
	k.client, err = rest.NewClient("unix:" + k.at("d.sock"))
	return err
}

// end stops everything by SIGTERM, the daemon first.
func (k *stack) end() {
	if k.client != nil {
		k.client.Close()
	}
	endBy(k.daemon, syscall.SIGTERM)
	if k.web != nil {
		k.web.CloseIdleConnections()
	}
	endBy(k.vcenter, syscall.SIGTERM)
}

// vcenterAsk sends an order to the rehearsal vCenter. The answer goes into into: a *[]byte, or what JSON is decoded
// into, or nil.
func (k *stack) vcenterAsk(ctx context.Context, method, what string, body, into any) (err error) {
	ctx, cancel := context.WithTimeout(ctx, readyTime)
	defer cancel()
	text, err := json.Marshal(body)
	if err != nil {
		return err
	}
	r, err := http.NewRequestWithContext(ctx, method, strings.TrimSuffix(k.sim.URL, "/sdk")+"/rehearsal/"+what,
		bytes.NewReader(text))
	if err != nil {
		return err
	}
	r.SetBasicAuth(k.sim.User, k.password)
	resp, err := k.web.Do(r)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, resp.Body.Close()) }()
	got, err := io.ReadAll(resp.Body)
	switch {
	case err != nil:
		return err
	case resp.StatusCode >= http.StatusBadRequest:
		return fmt.Errorf("%s answers %s: %s", r.URL.Path, resp.Status, got)
	case into == nil:
		return nil
	}
	if raw, ok := into.(*[]byte); ok {
		*raw = got
		return nil
	}
	return json.Unmarshal(got, into)
}

// image reads a disk as its guest sees it.
func (k *stack) image(ctx context.Context, vm string, id job.DiskID) (b []byte, err error) {
	q := url.Values{"vm": {vm}, "disk": {string(id)}}
	err = k.vcenterAsk(ctx, http.MethodGet, "image?"+q.Encode(), nil, &b)
	return b, err
}
