package kit

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/nbd"
)

const (
	serveStart = 30 * time.Second     // for an nbdkit to listen
	servePoll  = 5 * time.Millisecond // between looks for its pidfile
	serveStop  = 3 * time.Second      // between SIGTERM and SIGKILL: nbdkit waits for clients without end
	servePipes = time.Second          // for what its own children still write, once it is dead
	lastWords  = time.Second          // for nbdkit to end, once a connection to it is lost
	renewEvery = 10                   // seconds after which a renewed secret is read again at the latest
	// Bytes of the path of a unix socket, by the kernel's sockaddr_un.
	socketPathMost = 107
	serverThreads  = 4  // of one nbdkit
	fixedServer    = 34 // nbdkit 1.34 no longer aborts when a client vanishes in the middle of a read
)

// Server is one nbdkit that serves one export, or the address of a server that runs already. All methods are safe for
// concurrent use.
type Server struct {
	uri  string
	peer job.Peer // that it reads from
	done chan struct{}

	// All below are only for a server of our own.
	dir    string
	cmd    *exec.Cmd
	output *output         // the end of what it wrote on stdout and stderr
	files  map[string]bool // keys of renewed secrets

	mu      sync.Mutex
	stopped bool
}

// Installed says whether Serve can start servers: nil, or an error of kind Missing that names the package.
func Installed() error {
	_, err := lookFor()
	return err
}

func lookFor() (string, error) {
	program, err := exec.LookPath("nbdkit")
	if err != nil {
		return "", job.Errorf("find nbdkit", job.Missing, "Install the Debian package nbdkit",
			"nbdkit is not installed: %w", err)
	}
	return program, nil
}

// Serve starts an nbdkit for e on a unix socket in dir, and returns when it listens. dir must belong to this export
// alone; it is made if it does not exist, and must be closed to others. If e has a URI, nothing is started.
//
// ctx bounds the start only; the server lives until Stop, or until this process ends. Secrets go into files in dir that
// Stop removes. Errors: Missing if nbdkit, the plugin or a filter is not installed, Invalid for a dir that can't be
// used, or what Cause says if it ended early.
func Serve(ctx context.Context, e job.Export, dir string, log *slog.Logger) (*Server, error) {
	if e.URI != "" {
		if _, err := nbd.ParseURI(e.URI); err != nil {
			return nil, nbd.Classify("serve export", err)
		}
		return &Server{uri: e.URI, done: make(chan struct{})}, nil
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	s, err := start(ctx, e, dir, log)
	return s, nbd.Ended(ctx, "start nbdkit", err)
}

func start(ctx context.Context, e job.Export, dir string, log *slog.Logger) (*Server, error) {
	program, err := lookFor()
	if err != nil {
		return nil, err
	}
	if err := privateDir(dir); err != nil {
		return nil, err
	}
	s := &Server{
		uri: nbd.SocketURI(filepath.Join(dir, "s")), peer: job.PeerSource, done: make(chan struct{}),
		dir: dir, files: map[string]bool{},
	}
	var written *os.File
	if s.output, written, err = newOutput(); err != nil {
		return nil, err
	}
	if e.Transport == "vddk" {
		s.peer = job.PeerHost
	}
	args, err := s.arguments(e, threads(ctx, program))
	if err == nil {
		err = s.run(ctx, program, args, written)
	}
	err = errors.Join(err, written.Close())
	if err != nil {
		s.output.close(0)
		return nil, errors.Join(err, s.clean())
	}
	log.Debug("nbdkit started", "pid", s.cmd.Process.Pid, "args", args)
	go func() {
		_ = s.cmd.Wait() // why it ended stands in ProcessState
		s.output.close(servePipes)
		close(s.done)
	}()
	if err := s.listening(ctx); err != nil {
		return nil, errors.Join(err, s.Stop(context.WithoutCancel(ctx)))
	}
	return s, nil
}

// run starts the process. It writes into that file.
func (s *Server) run(ctx context.Context, program string, args []string, to *os.File) error {
	//nolint:gosec // no shell; options and keys are checked
	s.cmd = exec.CommandContext(context.WithoutCancel(ctx), program, args...)
	s.cmd.Env = slices.DeleteFunc(os.Environ(), unwanted)
	s.cmd.Stderr, s.cmd.Stdout = to, to
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a Ctrl-C is for us: we end it after the last read
	return s.cmd.Start()
}

// unwanted says whether a variable would change where nbdkit connects to, or break VDDK's own libraries.
func unwanted(variable string) bool {
	name, _, _ := strings.Cut(variable, "=")
	return strings.HasSuffix(strings.ToLower(name), "_proxy") || name == "LD_LIBRARY_PATH"
}

// privateDir makes the folder, or checks that no other user can look into it.
func privateDir(dir string) error {
	if n := len(filepath.Join(dir, "s")); n > socketPathMost {
		return job.Errorf("use folder "+dir, job.Invalid, "Choose a state folder with a shorter path",
			"the path of a socket has at most %d bytes, this one would have %d", socketPathMost, n)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	if !info.IsDir() || info.Mode().Perm()&0o077 != 0 {
		return job.Errorf("use folder "+dir, job.Invalid, "Close it to others with chmod 700",
			"it must be a folder that only its owner can use, not %v", info.Mode())
	}
	return nil
}

// threads is how many an nbdkit of that version can have without harm.
func threads(ctx context.Context, program string) int {
	out, err := exec.CommandContext(ctx, program, "--version").Output()
	if err != nil {
		return 1
	}
	m := regexp.MustCompile(`nbdkit (\d+)\.(\d+)`).FindStringSubmatch(string(out))
	if m == nil {
		return 1
	}
	major, _ := strconv.Atoi(m[1]) // digits, by the pattern
	minor, _ := strconv.Atoi(m[2])
	if major == 1 && minor < fixedServer {
		return 1
	}
	return serverThreads
}

// arguments builds the command line; secrets are written into files on the way.
func (s *Server) arguments(e job.Export, threads int) ([]string, error) {
	args := []string{
		"--exit-with-parent", "--foreground", "--readonly", "--unix", filepath.Join(s.dir, "s"), "--pidfile",
		filepath.Join(s.dir, "pid"),
	}
	if !slices.ContainsFunc(e.Options, func(o string) bool {
		return strings.HasPrefix(o, "-t") || strings.HasPrefix(o, "--threads")
	}) {
		args = append(args, "--threads="+strconv.Itoa(threads))
	}
	for _, f := range e.Filters {
		args = append(args, "--filter="+f)
	}
	args = append(args, e.Options...)
	if e.Plugin == "" || strings.HasPrefix(e.Plugin, "-") {
		return nil, job.Errorf("check export", job.Invalid, "", "%q is not an nbdkit plugin", e.Plugin)
	}
	args = append(args, e.Plugin)
	for _, p := range e.Params {
		a, err := s.parameter(p)
		if err != nil {
			return nil, err
		}
		args = append(args, a...)
	}
	return args, nil
}

var plainKey = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_-]*$`)

func (s *Server) parameter(p job.Param) ([]string, error) {
	if !plainKey.MatchString(p.Key) {
		return nil, job.Errorf("check export", job.Invalid, "", "%q is not a key of an nbdkit parameter", p.Key)
	}
	if p.Secret.Empty() {
		return []string{p.Key + "=" + p.Value}, nil
	}
	file := s.secretFile(p.Key)
	if err := s.keep(p.Key, p.Secret); err != nil {
		return nil, err
	}
	if !p.Renewed {
		return []string{p.Key + "=+" + file}, nil
	}
	s.files[p.Key] = true
	quoted := "'" + strings.ReplaceAll(file, "'", `'\''`) + "'"
	return []string{p.Key + "-script=cat " + quoted, fmt.Sprintf("%s-script-renew=%d", p.Key, renewEvery)}, nil
}

func (s *Server) secretFile(key string) string { return filepath.Join(s.dir, "secret-"+key) }

// keep puts a secret into its file, whole or not at all, and out of sight of logs.
func (s *Server) keep(key string, secret job.Secret) error {
	s.output.hide(secret)
	if err := nbd.WriteDurably(s.secretFile(key), []byte(secret.Reveal())); err != nil { // made with mode 0600
		return fmt.Errorf("hand %s over: %w", key, err)
	}
	return nil
}

// listening waits for the pidfile: nbdkit writes it when its socket can be connected to.
func (s *Server) listening(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, serveStart)
	defer cancel()
	tick := time.NewTicker(servePoll)
	defer tick.Stop()
	for {
		select {
		case <-s.done:
			return s.failedStart()
		case <-ctx.Done():
			return fmt.Errorf("wait until it listens: %w", context.Cause(ctx))
		case <-tick.C:
			if _, err := os.Stat(filepath.Join(s.dir, "pid")); err == nil {
				return nil
			}
		}
	}
}

// URI is where the export can be read.
func (s *Server) URI() string { return s.uri }

// PID is that of our own nbdkit; 0 for a server that runs elsewhere.
func (s *Server) PID() int {
	if s.cmd == nil {
		return 0
	}
	return s.cmd.Process.Pid
}

// Done is closed when our nbdkit has ended, for whatever reason; for a server that runs elsewhere, at Stop.
func (s *Server) Done() <-chan struct{} { return s.done }

// Renew hands a newer secret to the running server, which reads it again within 10 s. The error is of kind
// Invalid if there is no renewed parameter of that key.
func (s *Server) Renew(key string, secret job.Secret) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.files[key] || s.stopped {
		return job.Errorf("renew "+key, job.Invalid, "", "this server takes no newer %s", key)
	}
	return nbd.Classify("renew "+key, s.keep(key, secret))
}

// Stop ends the server and removes its socket and secrets. Clients should have disconnected before. The server gets 3 s
// to end after SIGTERM, or until ctx ends, and is killed then. Stop can be called again.
func (s *Server) Stop(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return nil
	}
	s.stopped = true
	if s.cmd == nil {
		close(s.done)
		return nil
	}
	s.end(ctx)
	return nbd.Classify("clean up after nbdkit", s.clean())
}

func (s *Server) end(ctx context.Context) {
	t := time.NewTimer(serveStop)
	defer t.Stop()
	_ = s.cmd.Process.Signal(syscall.SIGTERM) // fails only if it has ended
	select {
	case <-s.done:
		return
	case <-t.C:
	case <-ctx.Done():
	}
	_ = s.cmd.Process.Kill()
	<-s.done
}

// clean removes what we and nbdkit put into the folder, not the folder.
func (s *Server) clean() error {
	files, err := filepath.Glob(filepath.Join(globQuote(s.dir), "secret-*"))
	for _, f := range append(files, filepath.Join(s.dir, "s"), filepath.Join(s.dir, "pid")) {
		if e := os.Remove(f); e != nil && !errors.Is(e, fs.ErrNotExist) {
			err = errors.Join(err, e)
		}
	}
	return err
}

func globQuote(path string) string {
	return strings.NewReplacer(`\`, `\\`, "*", `\*`, "?", `\?`, "[", `\[`).Replace(path)
}
