package sim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vmferry/vmferry/job"
)

// Server is a running rehearsal server. It is safe for concurrent use.
type Server struct {
	opt      Options
	log      *slog.Logger
	disk     Backend
	faults   faultSet
	listener net.Listener
	control  *http.Server
	sessions sync.WaitGroup // of all connections, and of the goroutines that listen
	memory   memory
	closing  chan struct{} // closed by Close

	// power is held for reading by each request that acts on the disk, and for writing by Crash: no request that was
	// begun before a crash changes the disk after it.
	power sync.RWMutex

	mu    sync.Mutex
	open  map[*session]struct{}
	state State // without the fields that State() reads elsewhere
	ended bool
}

// Start listens. ctx bounds only the start; Close ends the server.
//
// Errors are of kind Invalid (the options) or Unavailable (the address is taken).
func Start(ctx context.Context, opt Options) (*Server, error) {
	if err := opt.prepare(); err != nil {
		return nil, err
	}
	s := &Server{opt: opt, log: opt.Log, disk: opt.Backend, open: map[*session]struct{}{}, closing: make(chan struct{})}
	if err := s.SetFaults(opt.Faults...); err != nil {
		return nil, err
	}
	var err error
	if s.listener, err = listen(ctx, opt.Listen); err != nil {
		return nil, err
	}
	if opt.Control != "" {
		l, err := listen(ctx, opt.Control)
		if err != nil {
			return nil, errors.Join(err, s.listener.Close())
		}
		s.control = &http.Server{
			Handler: s.Handler(), ReadHeaderTimeout: headerTimeout,
			ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelWarn),
		}
		s.sessions.Go(func() { _ = s.control.Serve(l) }) // the error only says that it was closed
	}
	s.sessions.Go(s.accept)
	return s, nil
}

func listen(ctx context.Context, place string) (net.Listener, error) {
	const op = "start the rehearsal server"
	network := "tcp"
	if isSocket(place) {
		network = "unix"
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, network, place)
	if err != nil {
		next := "Name another address or socket"
		if network == "unix" && errors.Is(err, unix.EADDRINUSE) {
			next = "Remove the socket if no program listens there any more"
		}
		return nil, &job.Error{Op: op, Kind: job.Unavailable, Next: next, Err: err}
	}
	if network == "unix" {
		if err := os.Chmod(place, 0o600); err != nil {
			return nil, job.SystemError(op, "", errors.Join(err, l.Close()))
		}
	}
	return l, nil
}

// accept takes connections until the listener is closed.
func (s *Server) accept() {
	for {
		conn, err := s.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // for example, no file descriptor was free: a later try may succeed
			s.log.Warn("a connection was not accepted", "err", err)
			select {
			case <-time.After(acceptPause):
			case <-s.closing:
			}
			continue
		}
		c := newSession(s, conn)
		if !s.register(c) {
			_ = conn.Close() // the client is told nothing
			continue
		}
		s.sessions.Go(func() {
			defer s.unregister(c)
			c.serve()
		})
	}
}

// register adds a connection; false if there are as many as there may be, or the server is closed.
func (s *Server) register(c *session) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state.Accepted++
	if s.ended || s.opt.Connections > 0 && len(s.open) >= s.opt.Connections {
		s.state.Refused++
		return false
	}
	c.number = s.state.Accepted
	s.open[c] = struct{}{}
	return true
}

func (s *Server) unregister(c *session) {
	c.cut()
	c.work.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, c)
}

// Close ends the server and all its connections. It does not flush the disk. A second call does nothing.
func (s *Server) Close() error {
	s.mu.Lock()
	again := s.ended
	s.ended = true
	s.mu.Unlock()
	if again {
		return nil
	}
	close(s.closing)
	err := s.listener.Close()
	if s.control != nil {
		err = errors.Join(err, s.control.Close())
	}
	s.Drop()
	s.sessions.Wait()
	return err
}

// Drop closes all connections. The server accepts new ones. Requests that were begun are still executed.
func (s *Server) Drop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.open {
		c.cut()
	}
}

// Crash does what a power failure of a server does: all connections end, no request that was begun takes effect any
// more, and the disk loses what was not flushed, if it is one that can lose anything. Then the server serves again.
func (s *Server) Crash() {
	s.power.Lock()
	defer s.power.Unlock()
	s.mu.Lock()
	for c := range s.open {
		c.dead.Store(true)
		c.cut()
	}
	s.state.Crashes++
	s.mu.Unlock()
	if v, ok := s.disk.(volatile); ok {
		v.Crash()
	}
}

// SetFaults replaces all faults and starts counting anew. Connections and requests that an earlier fault was chosen for
// keep it. The error is of kind Invalid; then nothing is changed.
func (s *Server) SetFaults(faults ...Fault) error { return s.faults.set(faults) }

// URI names the export for clients.
func (s *Server) URI() string {
	export := url.PathEscape(s.opt.Export)
	if isSocket(s.opt.Listen) {
		// Unlike in forms, a plus must not stand for a space: libnbd does not decode it.
		return "nbd+unix:///" + export + "?socket=" + strings.ReplaceAll(url.QueryEscape(s.opt.Listen), "+", "%20")
	}
	return "nbd://" + s.listener.Addr().String() + "/" + export
}

// State is what the rehearsal server has and has seen.
type State struct {
	URI         string            `json:"uri"`
	Size        int64             `json:"bytes_size"`
	Connections int               `json:"connections"` // now
	Accepted    int               `json:"accepted"`    // ever
	Refused     int               `json:"refused"`     // because there were too many
	Commands    map[Command]int64 `json:"commands"`    // requests that were received, by command
	Read        int64             `json:"bytes_read"`  // bytes that clients requested, as in the next two
	Written     int64             `json:"bytes_written"`
	Zeroed      int64             `json:"bytes_zeroed"`
	Unflushed   int64             `json:"bytes_unflushed"` // what a crash would lose now
	Crashes     int               `json:"crashes"`
	Faults      []Fault           `json:"faults"`
	// Violations are what clients did against the protocol: the first 100 different ones.
	Violations []string `json:"violations"`
}

// State describes the server at this moment.
func (s *Server) State() State {
	s.mu.Lock()
	st := s.state
	st.Connections = len(s.open)
	st.Commands = maps.Clone(st.Commands)
	st.Violations = append([]string{}, st.Violations...)
	s.mu.Unlock()
	st.URI, st.Size, st.Faults = s.URI(), s.disk.Size(), s.faults.all()
	if v, ok := s.disk.(volatile); ok {
		st.Unflushed = v.Unflushed()
	}
	if st.Commands == nil {
		st.Commands = map[Command]int64{}
	}
	return st
}

// violation records what a client did against the protocol.
func (s *Server) violation(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	text := fmt.Sprintf(format, args...)
	if len(s.state.Violations) < mostMessages && !slices.Contains(s.state.Violations, text) {
		s.state.Violations = append(s.state.Violations, text)
	}
}

// count counts a request.
func (s *Server) count(r *request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state.Commands == nil {
		s.state.Commands = map[Command]int64{}
	}
	s.state.Commands[r.command]++
	switch n := int64(r.n); r.command {
	case Read:
		s.state.Read += n
	case Write:
		s.state.Written += n
	case Zero:
		s.state.Zeroed += n
	default:
	}
}

// Disk is the Backend of the options.
func (s *Server) Disk() Backend { return s.disk }

// memory is a pool of buffers for the data of requests.
type memory struct{ pool sync.Pool }

func (m *memory) get(n int) []byte {
	if b, ok := m.pool.Get().(*[]byte); ok && cap(*b) >= n {
		return (*b)[:n]
	}
	return make([]byte, n)
}

func (m *memory) put(b []byte) {
	if cap(b) > 0 {
		m.pool.Put(&b)
	}
}
