package app

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"strings"

	"go.uber.org/fx"

	apihttp "github.com/vmferry/vmferry/http"
)

// vmaParts is what a VMA has beside the parts of every daemon: the end of the tunnel to its OMA.
func vmaParts() fx.Option { return fx.Provide(startTunnel) }

// tunnel is the listener at which a tunnel ends. Those who reach it are on another machine, though their connections
// come from this one.
type tunnel struct{ addr net.Addr } // nil without

func startTunnel(end *ending, cfg Config, h *apihttp.Handler, log *slog.Logger) (*tunnel, error) {
	if cfg.TunnelListen == "" {
		return &tunnel{}, nil
	}
	l, err := apihttp.Listen(cfg.TunnelListen)
	if err != nil {
		return nil, err
	}
	srv, done := apihttp.NewTunnelServer(h, log), make(chan error, 1)
	go func() {
		err := srv.Serve(l)
		if !errors.Is(err, http.ErrServerClosed) {
			log.Error("the end of the tunnel does not listen any more", "err", err)
		}
		done <- nil
	}()
	end.with(func(ctx context.Context) error {
		return errors.Join(shutDown(ctx, srv), <-done)
	})
	log.Info("the tunnel ends here", "tunnel_listen", l.Addr().String())
	return &tunnel{l.Addr()}, nil
}

func (cfg *Config) checkTunnel() error {
	at := cfg.TunnelListen
	switch {
	case at == "":
		return nil
	case cfg.Role == OMA:
		return wrong("tunnel_listen", "Leave out tunnel_listen: it is a key of the VMA",
			"the tunnel begins at the VMA, and ends there")
	case !strings.HasPrefix(at, "unix:") && !strings.Contains(at, ":"):
		return wrong("tunnel_listen", "Write it as in 127.0.0.1:8083 or unix:/run/vmferry/tunnel.sock",
			"%q has no port", at)
	case !apihttp.Local(at):
		return wrong("tunnel_listen", "Use 127.0.0.1 and a port, or a unix socket",
			"%s is not a loopback address: the tunnel ends on this machine", at)
	case at == cfg.Listen || at == cfg.TLS.Listen:
		return wrong("tunnel_listen", "Choose an address of its own, as in 127.0.0.1:8083",
			"listen or tls.listen has the same address")
	}
	return nil
}
