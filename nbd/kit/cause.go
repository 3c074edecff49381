package kit

import (
	"bytes"
	"fmt"
	"strings"
	"sync"
	"syscall"

	"github.com/vmferry/vmferry/job"
)

// ring keeps the end of what a process wrote, without the secrets that it was given.
type ring struct {
	mu      sync.Mutex
	text    []byte
	secrets [][]byte
}

const ringSize = 64 << 10 // bytes

func (r *ring) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.text = append(r.text, p...)
	for _, s := range r.secrets {
		r.text = bytes.ReplaceAll(r.text, s, []byte("***"))
	}
	if over := len(r.text) - ringSize; over > 0 {
		r.text = append(r.text[:0], r.text[over:]...)
	}
	return len(p), nil
}

func (r *ring) hide(secret string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.secrets = append(r.secrets, []byte(secret))
}

// lines are the whole lines, the newest first.
func (r *ring) lines() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []string
	for line := range bytes.Lines(r.text) {
		if line = bytes.TrimSpace(line); len(line) > 0 {
			out = append([]string{string(line)}, out...)
		}
	}
	return out
}

// cause is a text that nbdkit, VDDK or curl write, and what it means.
type cause struct {
	text string // in lower case
	kind job.Kind
	next string

	atEnd bool // it is a failure only if the process ended
}

// causes are looked for in this order in each line, the newest line first.
func causes() []cause {
	const (
		reach = "Check that this machine reaches the ESXi host by name on port 902, and the vCenter on port 443"
		trust = "Compare the thumbprint in the configuration with that of the vCenter's certificate"
		login = "Check user and password of the vCenter connection"
	)
	return []cause{
		{"cannot open plugin", job.Missing, "", false},
		{"cannot open filter", job.Missing, "Install a newer Debian package nbdkit, which has the filters", false},
		{"libvixdisklib.so", job.Missing, "Install VMware's VDDK and name its folder in source.vddk_libdir", false},
		{"incorrect user name or password", job.Auth, login, false},
		{"cannot complete login", job.Auth, login, false},
		{"returned error: 401", job.Auth, login, false},
		{"actual thumbprint", job.Auth, trust, false},
		{"expectedthumbprint", job.Auth, trust, false},
		{"ssl certificate problem", job.Auth, trust, false},
		{"ssl peer certificate", job.Auth, trust, false},
		{"returned error: 403", job.Permission, "Give the user the right to read the datastore's files", false},
		{"returned error: 404", job.NotFound, "Check that the snapshot and its disk files still exist", false},
		{
			"you do not have access rights", job.Permission,
			"Give the user the right VirtualMachine.Provisioning.DiskRandomRead", false,
		},
		{
			"failed to allocate", job.Unavailable,
			"Run fewer disks at once, or ask for less in one request: the ESXi host has no memory left for transfers",
			false,
		},
		{"host address lookup", job.Unavailable, reach, false},
		{"could not resolve host", job.Unavailable, reach, false},
		{"connection refused", job.Unavailable, reach, false},
		{"couldn't connect to server", job.Unavailable, reach, false},
		{"returned error: 5", job.Unavailable, "", false},
		{"timeout was reached", job.Timeout, "", false},
		{"no such file or directory", job.NotFound, "", true},
		{"permission denied", job.Permission, "", true},
		{"unknown parameter", job.Invalid, "", true},
	}
}

// Cause says why the server ended or could not read, as far as its output tells. It is nil for a server that runs and
// has written nothing that means a failure, and for one that runs elsewhere.
func (s *Server) Cause() error {
	if s.cmd == nil {
		return nil
	}
	dead := false
	select {
	case <-s.done:
		dead = true
	default:
	}
	if dead && s.signalled() {
		return s.death() // what it wrote before is not the cause
	}
	for _, line := range s.output.lines() {
		for _, c := range causes() {
			if strings.Contains(strings.ToLower(line), c.text) && (dead || !c.atEnd) &&
				!strings.Contains(line, " debug: ") {
				return &job.Error{
					Op: "serve disk", Kind: c.kind, Next: nextStep(c, line), Peer: s.peer,
					Err: fmt.Errorf("nbdkit: %s", plain(line)),
				}
			}
		}
	}
	if !dead {
		return nil
	}
	return s.death()
}

// signalled says whether the process did not end by itself; valid when it is done.
func (s *Server) signalled() bool {
	status, ok := s.cmd.ProcessState.Sys().(syscall.WaitStatus)
	return ok && status.Signaled()
}

// death is the cause of a server that ended, and whose output has no line that is known.
func (s *Server) death() error {
	last := "no output on stderr"
	if lines := s.output.lines(); len(lines) > 0 {
		last = "last line: " + plain(lines[0])
	}
	state := s.cmd.ProcessState
	if status, ok := state.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		// It was killed, or aborted in one of the known ways: a new process can succeed.
		err := job.Errorf("serve disk", job.Unavailable, "", "nbdkit was ended by signal %q; %s", status.Signal(), last)
		err.Peer = job.PeerSource
		return err
	}
	return job.Errorf("serve disk", job.Unavailable, "", "nbdkit ended: %s; %s", state, last)
}

// nextStep names the package of a plugin that is missing.
func nextStep(c cause, line string) string {
	if c.text != "cannot open plugin" {
		return c.next
	}
	_, rest, _ := strings.Cut(line, "'")
	name, _, _ := strings.Cut(rest, "'")
	if strings.Contains(name, "vddk") {
		return "Install the Debian package nbdkit-plugin-vddk (Debian 13, component contrib), " +
			"or name the plugin's file in source.vddk_plugin"
	}
	return "Install the Debian package that has nbdkit's plugin " + name + ": nbdkit, or nbdkit-plugin-" + name
}

// plain is a line of nbdkit without its own name, cut after 500 bytes.
func plain(line string) string {
	line = strings.TrimPrefix(strings.TrimPrefix(line, "nbdkit: "), "error: ")
	const most = 500
	if len(line) > most {
		return line[:most] + "..."
	}
	return line
}
