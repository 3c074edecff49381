package http

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/vmferry/vmferry/job"
)

const (
	readHeaderTimeout = 5 * time.Second
	idleTimeout       = 2 * time.Minute
	maxHeaderBytes    = 16 << 10
	socketMode        = 0o660 // users who may use the daemon are in its group
)

// NewServer makes a server with the limits that every listener needs. Its Shutdown closes h, which ends the event
// streams. It has no write timeout: streams set a deadline for each write.
func NewServer(h *Handler, log *slog.Logger) *http.Server {
	s := &http.Server{
		Handler: h, BaseContext: markOpen, ConnContext: markPeer,
		ReadHeaderTimeout: readHeaderTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeaderBytes,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug), // errors of clients while they connect
	}
	s.RegisterOnShutdown(h.Close)
	return s
}

// Local says whether an address, "host:port" or "unix:/path", can be reached only from this machine.
func Local(addr string) bool {
	if strings.HasPrefix(addr, "unix:") {
		return true
	}
	host, _, err := net.SplitHostPort(addr)
	return err == nil && loopback(host)
}

// Listen opens "host:port" on a loopback address, or "unix:/path" with mode 0660. Any other address is Invalid: others
// are served by ListenTLS. A socket file that no process serves any more is replaced.
func Listen(addr string) (net.Listener, error) {
	const op = "listen"
	if path, ok := strings.CutPrefix(addr, "unix:"); ok {
		return listenUnix(path)
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, job.Errorf(op, job.Invalid, "Write it as 127.0.0.1:8081 or unix:/run/vmferry/vmferry.sock",
			"%q is not an address: %w", addr, err)
	}
	if !loopback(host) {
		return nil, job.Errorf(op, job.Invalid, "Set tls.cert_file and tls.key_file, or listen on 127.0.0.1 or a unix "+
			"socket", "%s is not a loopback address: without TLS only loopback is served", addr)
	}
	return listenTCP(host, port)
}

// ListenTLS opens "host:port" on any address, for a server's ServeTLS.
func ListenTLS(addr string) (net.Listener, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, job.Errorf("listen", job.Invalid, "Write it as 0.0.0.0:8443 or vma.example.org:8443",
			"%q is not an address: %w", addr, err)
	}
	return listenTCP(host, port)
}

func listenTCP(host, port string) (net.Listener, error) {
	l, err := net.Listen("tcp", net.JoinHostPort(host, port)) //nolint:noctx // opening a listener does not block
	if err != nil {
		return nil, job.Errorf("listen", job.Unavailable, "Stop what listens there, or choose another address", "%w",
			err)
	}
	return l, nil
}

// ListenPrivate opens a unix socket that only the user of this process can use, and root: mode 0600, in a folder that
// no other user may enter.
func ListenPrivate(path string) (net.Listener, error) {
	l, err := listenUnix(path)
	if err != nil {
		return nil, err
	}
	const mode = 0o600
	if err := os.Chmod(path, mode); err != nil {
		return nil, errors.Join(job.Errorf("listen", job.Permission, "", "%w", err), l.Close())
	}
	return l, nil
}

func loopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

func listenUnix(path string) (net.Listener, error) {
	const op = "listen"
	const longest = 107 // bytes that fit into a socket address on Linux
	if path == "" || len(path) > longest {
		return nil, job.Errorf(op, job.Invalid, fmt.Sprintf("Use a path of at most %d bytes", longest),
			"%q can't be the path of a socket", path)
	}
	if err := removeDeadSocket(path); err != nil {
		return nil, err
	}
	l, err := net.Listen("unix", path) //nolint:noctx // opening a listener does not block
	if err != nil {
		return nil, job.Errorf(op, job.Unavailable, "Make the folder, and let the daemon write there", "%w", err)
	}
	if err := os.Chmod(path, socketMode); err != nil {
		return nil, errors.Join(job.Errorf(op, job.Permission, "", "%w", err), l.Close())
	}
	return l, nil
}

// removeDeadSocket removes the socket of a killed daemon. It fails if path is no socket, or if the socket answers.
func removeDeadSocket(path string) error {
	const op = "listen"
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return job.Errorf(op, job.Permission, "", "%w", err)
	}
	if info.Mode().Type() != fs.ModeSocket {
		return job.Errorf(op, job.Conflict, "Choose another path", "%s exists and is not a socket", path)
	}
	c, err := net.DialTimeout("unix", path, time.Second) //nolint:noctx // bounded by its own second
	if err == nil {
		return errors.Join(job.Errorf(op, job.Conflict, "Stop the daemon that serves it, or choose another path",
			"%s is in use", path), c.Close())
	}
	if err := os.Remove(path); err != nil {
		return job.Errorf(op, job.Permission, "", "%w", err)
	}
	return nil
}
