package http

import (
	"context"
	"net"
	"net/http"
	"strconv"
	"syscall"
	"time"

	"github.com/vmferry/vmferry/job"
)

// who is the one that sends a request. The zero value is a sender without a token.
type who struct {
	name    string   // of the token; of an open listener the user of this machine, where that is known
	role    job.Role // "" without a token
	open    bool     // the listener asks for no token
	token   string   // id of the token; of a login in a browser that of the session
	cookie  bool     // the browser sent the token by itself
	expires time.Time
	from    string // address without port, or the user of this machine at the other end of a unix socket
	local   bool   // from this machine, and not passed on by a proxy
	secure  bool   // over TLS
}

type contextKey int

const (
	whoKey contextKey = iota
	openKey
	peerKey
	noteKey
	tunnelKey // of a request that came through a tunnel: true
)

// whoOf is the sender of the request of that context.
func whoOf(ctx context.Context) who {
	w, _ := ctx.Value(whoKey).(who)
	return w
}

// openListener is a listener that asks for no token.
type openListener struct{ net.Listener }

// Open marks a listener: whoever reaches it may do everything, as Admin. All other listeners ask for tokens, if the
// Handler has any.
func Open(l net.Listener) net.Listener { return openListener{l} }

// markOpen is a server's BaseContext.
func markOpen(l net.Listener) context.Context {
	ctx := context.Background() //nolint:forbidigo // the server's own, as net/http makes it
	_, open := l.(openListener)
	return context.WithValue(ctx, openKey, open)
}

// markPeer is a server's ConnContext. It notes the user at the other end of a unix socket.
func markPeer(ctx context.Context, c net.Conn) context.Context {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return ctx
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return ctx
	}
	text := "unix socket"
	_ = raw.Control(func(fd uintptr) { // it fails for a connection that is closed: then the text is not needed
		if cred, err := syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED); err == nil {
			text = "uid " + strconv.FormatUint(uint64(cred.Uid), 10)
		}
	})
	return context.WithValue(ctx, peerKey, text)
}

// sender is the one that sends r, before its token is looked at.
func sender(r *http.Request) who {
	w := who{secure: r.TLS != nil}
	if peer, ok := r.Context().Value(peerKey).(string); ok {
		w.from, w.local = peer, true
	} else {
		host, _, err := net.SplitHostPort(r.RemoteAddr)
		if err != nil {
			host = r.RemoteAddr
		}
		ip := net.ParseIP(host)
		w.from, w.local = host, ip != nil && ip.IsLoopback()
	}
	if r.Header.Get("X-Forwarded-For") != "" || r.Header.Get("Forwarded") != "" {
		w.local = false // a proxy on this machine passes on what others send
	}
	if through, _ := r.Context().Value(tunnelKey).(bool); through {
		w.from, w.local = "the tunnel", false
	}
	return w
}

// client is the key by which requests of w are counted: the token, else the address. An IPv6 network of one customer
// counts as one.
func (w who) client() string {
	if w.token != "" {
		return "token " + w.token
	}
	const network = 64
	if ip := net.ParseIP(w.from); ip != nil && ip.To4() == nil {
		return ip.Mask(net.CIDRMask(network, 8*net.IPv6len)).String()
	}
	return w.from
}
