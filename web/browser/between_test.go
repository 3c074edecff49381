package browser_test

import (
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/vmferry/vmferry/web/browser"
)

// What happens between the browser and the daemon.
const (
	through = iota
	dark    // connections stay, and nothing comes through
	cut     // connections end, and new ones are refused
)

// between is a proxy between the browser and a daemon.
type between struct {
	URL     string
	holding atomic.Bool // event streams are kept back
	lacking atomic.Bool // the files of the screens that are loaded later are not found

	mu    sync.Mutex
	wake  *sync.Cond
	state int
	conns map[net.Conn]bool
}

func proxy(tb testing.TB, d *browser.Daemon) *between {
	tb.Helper()
	to, err := url.Parse(d.URL)
	if err != nil {
		tb.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	b := &between{URL: "http://" + l.Addr().String(), conns: map[net.Conn]bool{}}
	b.wake = sync.NewCond(&b.mu)
	server := &http.Server{Handler: &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(to)
			r.Out.Host = r.In.Host
		},
		ModifyResponse: func(r *http.Response) error {
			if b.lacking.Load() && strings.HasPrefix(r.Request.URL.Path, "/assets/System") {
				r.StatusCode = http.StatusBadGateway
			}
			if strings.HasPrefix(r.Header.Get("Content-Type"), "text/event-stream") {
				r.Body = &held{ReadCloser: r.Body, of: b}
			}
			return nil
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
	}}
	go server.Serve(&gate{l, b})
	tb.Cleanup(func() {
		b.set(cut)
		server.Close()
	})
	return b
}

// set changes what comes through.
func (b *between) set(state int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.state = state
	if state == cut {
		for c := range b.conns {
			c.Close()
		}
		clear(b.conns)
	}
	b.wake.Broadcast()
}

// gate is a listener whose connections feel the state.
type gate struct {
	net.Listener
	of *between
}

func (g *gate) Accept() (net.Conn, error) {
	for {
		c, err := g.Listener.Accept()
		if err != nil {
			return nil, err
		}
		g.of.mu.Lock()
		refused := g.of.state == cut
		if !refused {
			g.of.conns[c] = true
		}
		g.of.mu.Unlock()
		if !refused {
			return &gated{c, g.of}, nil
		}
		c.Close()
	}
}

type gated struct {
	net.Conn
	of *between
}

func (c *gated) Write(p []byte) (int, error) {
	c.of.mu.Lock()
	for c.of.state == dark {
		c.of.wake.Wait()
	}
	c.of.mu.Unlock()
	return c.Conn.Write(p)
}

// held is the body of an event stream. While the proxy holds streams back, it gives nothing but its end.
type held struct {
	io.ReadCloser
	of   *between
	kept []byte
}

func (h *held) Read(p []byte) (int, error) {
	for {
		if !h.of.holding.Load() && len(h.kept) > 0 {
			n := copy(p, h.kept)
			h.kept = h.kept[n:]
			return n, nil
		}
		n, err := h.ReadCloser.Read(p)
		if err != nil || !h.of.holding.Load() && len(h.kept) == 0 {
			return n, err
		}
		h.kept = append(h.kept, p[:n]...)
	}
}
