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
	orders   orders
	listener net.Listener
	control  *http.Server
	sessions sync.WaitGroup // of all connections, and of what listens
	memory   memory
	closing  chan struct{} // closed by Close

	// power is held for reading by whatever acts on the disk, and for writing by a crash: nothing that was begun before
	// it changes the disk after it.
	power sync.RWMutex

	mu    sync.Mutex
	open  map[*session]struct{}
	state State // but for what is asked when it is wanted
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
		s.control = &http.Server{Handler: s.Handler(), ReadHeaderTimeout: headerPatience,
			ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelWarn)}
		s.sessions.Go(func() { _ = s.control.Serve(l) }) // says only that it was closed
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
		next := "Name another place."
		if network == "unix" && errors.Is(err, unix.EADDRINUSE) {
			next = "If no program listens there any more, remove the socket."
		}
		return nil, &job.Error{Op: op, Kind: job.Unavailable, Next: next, Err: err}
	}
	if network == "unix" {
		if err := os.Chmod(place, 0o600); err != nil {
			return nil, &job.Error{Op: op, Kind: job.IO, Err: errors.Join(err, l.Close())}
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
		if err != nil { // as without descriptors: whoever comes a little later may have more luck
			s.log.Warn("a connection was not accepted", "err", err)
			select {
			case <-time.After(acceptPause):
			case <-s.closing:
			}
			continue
		}
		c := newSession(s, conn)
		if !s.enter(c) {
			_ = conn.Close() // nobody is told more
			continue
		}
		s.sessions.Go(func() {
			defer s.leave(c)
			c.serve()
		})
	}
}

// enter notes a new connection; false if there is no room for it.
func (s *Server) enter(c *session) bool {
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

func (s *Server) leave(c *session) {
	c.cut()
	c.work.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, c)
}

// Close ends the server and all its connections. It does not flush the disk.
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

// Drop closes all connections, and takes new ones. Requests that were begun are done all the same.
func (s *Server) Drop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.open {
		c.cut()
	}
}

// Crash does what pulling the plug of a server does: all connections end, nothing that was begun happens any more, and
// what the disk had not flushed is lost, if it is one that can lose anything. After that it serves again.
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

// SetFaults replaces the faults on order, and begins to count anew. Connections and requests that have been chosen for
// an earlier fault keep it. The error is of kind Invalid; then nothing is changed.
func (s *Server) SetFaults(faults ...Fault) error { return s.orders.set(faults) }

// URI names the export for clients.
func (s *Server) URI() string {
	export := url.PathEscape(s.opt.Export)
	if isSocket(s.opt.Listen) {
		// Not as in forms: libnbd takes a plus for a plus.
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
	Commands    map[Command]int64 `json:"commands"`    // requests that were read, by what they asked for
	Read        int64             `json:"bytes_read"`  // that clients asked for
	Written     int64             `json:"bytes_written"`
	Zeroed      int64             `json:"bytes_zeroed"`
	Unflushed   int64             `json:"bytes_unflushed"` // what a crash would lose now
	Crashes     int               `json:"crashes"`
	Faults      []Fault           `json:"faults"`
	// Violations are what clients did that they may not do; the first of them.
	Violations []string `json:"violations"`
}

// State tells how things are.
func (s *Server) State() State {
	s.mu.Lock()
	st := s.state
	st.Connections = len(s.open)
	st.Commands = maps.Clone(st.Commands)
	st.Violations = append([]string{}, st.Violations...)
	s.mu.Unlock()
	st.URI, st.Size, st.Faults = s.URI(), s.disk.Size(), s.orders.faults()
	if v, ok := s.disk.(volatile); ok {
		st.Unflushed = v.Unflushed()
	}
	if st.Commands == nil {
		st.Commands = map[Command]int64{}
	}
	return st
}

// violation notes what a client did wrong.
func (s *Server) violation(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	text := fmt.Sprintf(format, args...)
	if len(s.state.Violations) < mostMessages && !slices.Contains(s.state.Violations, text) {
		s.state.Violations = append(s.state.Violations, text)
	}
}

// count notes a request.
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

// Disk is what the server was given to serve.
func (s *Server) Disk() Backend { return s.disk }

// memory lends what requests carry, so that it is not made anew for each.
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
