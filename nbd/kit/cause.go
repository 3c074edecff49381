package kit

import (
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/nbd"
)

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
		trust = "Compare vcenter.thumbprint in the configuration with that of the vCenter's certificate"
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

// Cause says why a copy or verification from this server failed: what nbdkit has written since the request or the
// connection began that failed. It is nil if the failure is not the source's, if nbdkit has written nothing since that
// means a failure, and for a server that runs elsewhere. A text that is not known has the kind of the failure. Of
// several requests that were in flight together, it may be the reason of another one. Cause waits up to a second if the
// connection was lost: then nbdkit is about to end, and says why at its end.
func (s *Server) Cause(failure error) error {
	source, ok := nbd.SourceFailed(failure)
	if s.cmd == nil || !ok {
		return nil
	}
	if source.Lost && !s.ends(lastWords) {
		s.output.drain()
		return s.words(source.Since, false, failure)
	}
	if !s.ends(0) {
		s.output.drain() // nbdkit writes before it answers, so all of it is in the pipe
		return s.words(source.Since, false, failure)
	}
	if s.signalled() {
		return s.death() // what it wrote before is not the cause
	}
	if err := s.words(source.Since, true, failure); err != nil {
		return err
	}
	return s.death()
}

// failedStart says why a server ended before it listened.
func (s *Server) failedStart() error {
	if s.signalled() {
		return s.death()
	}
	if err := s.words(time.Time{}, true, nil); err != nil {
		return err
	}
	return s.death()
}

// ends says whether the process has ended and all of its output was read, or does within that time.
func (s *Server) ends(within time.Duration) bool {
	t := time.NewTimer(within)
	defer t.Stop()
	select {
	case <-s.done:
		return true
	default:
	}
	select {
	case <-s.done:
		return true
	case <-t.C:
		return false
	}
}

// words looks for the cause in what was written since then: the newest line that is known, else the last line of an
// error, with the kind of the failure, and of IO if there is none. nil if there is no such line.
func (s *Server) words(since time.Time, dead bool, failure error) error {
	const op = "serve disk"
	var last string
	for _, line := range s.output.since(since) {
		if strings.Contains(line, " debug: ") {
			continue
		}
		for _, c := range causes() {
			if strings.Contains(strings.ToLower(line), c.text) && (dead || !c.atEnd) {
				err := job.Errorf(op, c.kind, nextStep(c, line), "nbdkit: %s", plain(line))
				err.Peer = s.peer
				return err
			}
		}
		if last == "" && errorLine.MatchString(line) {
			last = line
		}
	}
	if last == "" {
		return nil
	}
	kind := job.KindOf(failure)
	if failure == nil {
		kind = job.Unavailable
	}
	err := job.Errorf(op, kind, job.NextOf(failure), "nbdkit: %s", plain(last))
	err.Peer = s.peer
	return err
}

// signalled says whether the process did not end by itself; valid when it is done.
func (s *Server) signalled() bool {
	status, ok := s.cmd.ProcessState.Sys().(syscall.WaitStatus)
	return ok && status.Signaled()
}

// death is the cause of a server that ended, and whose output has no line that is known.
func (s *Server) death() error {
	last := "no output on stderr"
	if lines := s.output.since(time.Time{}); len(lines) > 0 {
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

// errorLine begins a line in which nbdkit or a plugin of it tells of an error.
var errorLine = regexp.MustCompile(`^nbdkit: (?:[\w.-]+(?:\[\d+\])?: )?error: `)

// plain is a line of nbdkit without its own name, cut after 500 bytes.
func plain(line string) string {
	line = strings.TrimPrefix(line[len(errorLine.FindString(line)):], "nbdkit: ")
	const most = 500
	if len(line) > most {
		return line[:most] + "..."
	}
	return line
}
