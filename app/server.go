package app

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"time"

	apihttp "github.com/vmferry/vmferry/http"
)

// answerTime is how long running requests may still take when the daemon stops.
const answerTime = 3 * time.Second

// adminSocket is served below the state directory where an address asks for tokens. It asks for none: only the user of
// the daemon and root can reach it, who have the journal anyhow. The first token is made through it.
const adminSocket = "admin.sock"

// optionalCertificate has nil if nothing is served over TLS.
type optionalCertificate struct{ *apihttp.Certificate }

func openCertificate(cfg Config, log *slog.Logger) (optionalCertificate, error) {
	if cfg.TLS.CertFile == "" {
		return optionalCertificate{}, nil
	}
	c, err := apihttp.LoadCertificate(cfg.TLS.CertFile, cfg.TLS.KeyFile, log, nil)
	return optionalCertificate{c}, err
}

// server is the daemon's HTTP server, at all its addresses.
type server struct {
	addr   net.Addr
	secure net.Addr   // of the address that is served over TLS; nil for none
	own    string     // address for the daemon's own requests, as rest.NewClient takes it
	failed chan error // receives the errors of listeners that fail; closed when serving has ended
}

// listening is an open listener and how it is served.
type listening struct {
	net.Listener
	tls bool
}

func startServer(end *ending, cfg Config, h *apihttp.Handler, dirs folders, cert optionalCertificate,
	log *slog.Logger,
) (*server, error) {
	s, srv := &server{}, apihttp.NewServer(h, log)
	open, err := s.listen(cfg, dirs)
	if err != nil {
		for _, l := range open {
			err = errors.Join(err, l.Close())
		}
		return nil, err
	}
	if cert.Certificate != nil {
		srv.TLSConfig = cert.Config()
	}
	s.failed = make(chan error, len(open))
	var serving sync.WaitGroup
	for _, l := range open {
		serving.Go(func() {
			var err error
			if l.tls {
				err = srv.ServeTLS(l.Listener, "", "")
			} else {
				err = srv.Serve(l.Listener)
			}
			if !errors.Is(err, http.ErrServerClosed) {
				s.failed <- err
			}
		})
	}
	go func() {
		serving.Wait()
		close(s.failed)
	}()
	end.with(func(ctx context.Context) error {
		err := shutDown(ctx, srv)
		for failed := range s.failed {
			err = errors.Join(err, failed)
		}
		return err
	})
	return s, nil
}

// shutDown ends a server: requests under way have answerTime, then their connections are closed.
func shutDown(ctx context.Context, srv *http.Server) error {
	polite, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	err := srv.Shutdown(polite)
	if errors.Is(err, context.DeadlineExceeded) {
		err = srv.Close()
	}
	return err
}

// listen opens all addresses. With an error it returns those that are open.
func (s *server) listen(cfg Config, dirs folders) (all []listening, err error) {
	add := func(l net.Listener, err error, tls, open bool) error {
		if err != nil {
			return err
		}
		if open {
			l = apihttp.Open(l)
		}
		all = append(all, listening{l, tls})
		return nil
	}
	var l net.Listener
	if apihttp.Local(cfg.Listen) {
		l, err = apihttp.Listen(cfg.Listen)
		err = add(l, err, false, !cfg.Auth.Required)
	} else {
		l, err = apihttp.ListenTLS(cfg.Listen)
		err = add(l, err, true, false)
	}
	if err != nil {
		return all, err
	}
	s.addr, s.own = l.Addr(), urlOf(l.Addr())
	if all[0].tls {
		s.secure = s.addr
	}
	if cfg.TLS.Listen != "" {
		l, err = apihttp.ListenTLS(cfg.TLS.Listen)
		if err = add(l, err, true, false); err != nil {
			return all, err
		}
		s.secure = l.Addr()
	}
	if cfg.asksForTokens() {
		l, err = apihttp.ListenPrivate(filepath.Join(dirs.run, adminSocket))
		if err = add(l, err, false, true); err != nil {
			return all, err
		}
		s.own = urlOf(l.Addr())
	}
	return all, nil
}

func urlOf(addr net.Addr) string {
	if addr.Network() == "unix" {
		return "unix:" + addr.String()
	}
	return "http://" + addr.String()
}
