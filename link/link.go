package link

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"maps"
	rand2 "math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/yamux"
	"google.golang.org/protobuf/proto"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/link/cert"
	"github.com/vmferry/vmferry/link/wire"
)

// Protocol is the protocol of a link, in the TLS handshake.
const Protocol = "vmferry-link/1"

// The first byte of a stream says what it is for.
const (
	streamControl = 'c'
	streamActors  = 'a'
)

// Peer is another node that this one is to be linked with.
type Peer struct {
	Name    string
	Address string // host:port to dial; "" to wait for it
}

// Message is a message of a peer.
type Message struct {
	From   string // the peer
	Target string // name of an actor, which the policy has opened to Body
	Body   proto.Message
	// Done acknowledges: the peer does not send the message again. It may be called later, by any goroutine, and more
	// than once. Nil for a message of which the newest wins.
	Done func()
}

// Options say how this node is linked.
type Options struct {
	Certificates *cert.Node
	// Authority answers nodes that have no certificate yet; nil refuses them.
	Authority *cert.Authority
	Listen    string // host:port; "" to only dial
	// Peers are the nodes to dial, and those to wait for. A node that listens and has no peers takes all nodes of the
	// other role that its authority vouches for.
	Peers  []Peer
	Policy Policy
	// Receive takes a message, in the order in which the peer has posted. It must not block; it is called by one
	// goroutine for each peer. nil refuses all.
	Receive  func(Message)
	Program  string   // version of vmferry, for people
	Versions Versions // of frames; zero for those of this build
	Log      *slog.Logger
}

// Link has the sessions of this node with its peers. Its methods may be called from many goroutines.
type Link struct {
	o           Options
	incarnation uint64
	listener    net.Listener    // nil without Options.Listen
	ctx         context.Context //nolint:containedctx // ends when the link is closed
	cancel      context.CancelCauseFunc
	all         sync.WaitGroup
	greeting    chan struct{} // permits of connections that have not said Hello
	actors      func(net.Conn, string)

	mu      sync.Mutex
	peers   map[string]*peer // by name, lower case
	refused map[string]int64 // connections without a peer, by cause
}

// Start listens and dials. Errors are of kind Conflict if the address is in use. The link runs until Close; ctx gives
// values only.
func Start(ctx context.Context, o Options) (*Link, error) { return start(ctx, o, nil) }

// start takes what becomes of streams of actors, with the name of the peer; nil refuses them.
func start(ctx context.Context, o Options, actors func(net.Conn, string)) (*Link, error) {
	if o.Versions == (Versions{}) {
		o.Versions = ownVersions()
	}
	l := &Link{
		o: o, incarnation: newIncarnation(), greeting: make(chan struct{}, mostHandshakes), actors: actors,
		peers: map[string]*peer{}, refused: map[string]int64{},
	}
	l.ctx, l.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	if o.Listen != "" {
		var err error
		if l.listener, err = (&net.ListenConfig{}).Listen(ctx, "tcp", o.Listen); err != nil {
			return nil, job.SystemError("listen for the link", "Choose another address for link.listen", err)
		}
		l.all.Go(l.accept)
	}
	for _, p := range o.Peers {
		one := newPeer(p.Name, p.Address)
		l.peers[strings.ToLower(p.Name)] = one
		if p.Address != "" {
			l.all.Go(func() { l.dial(one) }) //nolint:contextcheck // it lives until Close
		}
	}
	l.all.Go(l.reload)
	return l, nil
}

func newIncarnation() uint64 {
	var b [8]byte
	_, _ = rand.Read(b[:]) // does not fail
	return binary.BigEndian.Uint64(b[:]) | 1
}

// Addr is where this node listens; nil if it only dials.
func (l *Link) Addr() net.Addr {
	if l.listener == nil {
		return nil
	}
	return l.listener.Addr()
}

// Self is this node's name.
func (l *Link) Self() string { return l.o.Certificates.Self().Name }

// Close ends all sessions and waits until nothing of the link runs any more. What was not acknowledged is lost with the
// process.
func (l *Link) Close() error {
	l.cancel(job.ErrStopping)
	var err error
	if l.listener != nil {
		err = l.listener.Close()
	}
	l.all.Wait()
	return err
}

// Peers is how each link is, by name.
func (l *Link) Peers() []Status {
	l.mu.Lock()
	list := make([]*peer, 0, len(l.peers))
	for _, p := range l.peers {
		list = append(list, p)
	}
	l.mu.Unlock()
	out := make([]Status, 0, len(list))
	for _, p := range list {
		out = append(out, p.snapshot())
	}
	slices.SortFunc(out, func(a, b Status) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// Refused counts connections that were refused before it was known whose they are, by cause.
func (l *Link) Refused() map[string]int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.refused)
}

func (l *Link) count(cause string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.refused[cause]++
}

func (l *Link) find(name string) (*peer, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if p := l.peers[strings.ToLower(name)]; p != nil {
		return p, nil
	}
	return nil, job.Errorf("find node", job.NotFound, "Look at vmferry get nodes", "no node %q was ever linked", name)
}

// Post sends a message to an actor of a node. It is sent again after each reconnect until the node has acknowledged it,
// and carried out once, unless one of the two processes ends: what is not acknowledged is lost with this one, and what
// was carried out but not acknowledged comes again to the next process of the node. Who posts something that must
// survive that, has it in the journal; who receives it, can tell that it was there. Errors are of kind NotFound (no
// such node was linked), Invalid (too large) and Unavailable (too many messages wait).
func (l *Link) Post(node, target string, m proto.Message) error {
	p, wired, err := l.prepare(node, target, m)
	if err != nil {
		return err
	}
	return p.out.post(wired)
}

// Latest sends a message of which only the newest of its key matters: while the link is slow or down, a newer one
// replaces it. After a reconnect the newest of each key is sent again. Errors are as of Post.
func (l *Link) Latest(node, key, target string, m proto.Message) error {
	p, wired, err := l.prepare(node, target, m)
	if err != nil {
		return err
	}
	if key == "" || len(key) > mostName {
		return job.Errorf("send to "+node, job.Invalid, "", "a key of %d bytes", len(key))
	}
	return p.out.latest(key, wired)
}

// Forget drops the message of a key: what it told of has ended.
func (l *Link) Forget(node, key string) {
	if p, err := l.find(node); err == nil {
		p.out.forget(key)
	}
}

func (l *Link) prepare(node, target string, m proto.Message) (*peer, *wire.Message, error) {
	p, err := l.find(node)
	if err != nil {
		return nil, nil, err
	}
	data, err := proto.Marshal(m)
	if err != nil {
		return nil, nil, job.Errorf("send to "+node, job.Internal, "", "%w", err)
	}
	wired := &wire.Message{Target: target, Type: string(proto.MessageName(m)), Data: data}
	if err := checkMessage(wired); err != nil {
		return nil, nil, job.Errorf("send to "+node, job.Invalid, "", "%w", err)
	}
	return p, wired, nil
}

// reload reads certificates again when their files change.
func (l *Link) reload() {
	tick := time.NewTicker(reloadTime)
	defer tick.Stop()
	for {
		select {
		case <-l.ctx.Done():
			return
		case <-tick.C:
			l.o.Certificates.Reload()
		}
	}
}

func (l *Link) accept() {
	for {
		c, err := l.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // as with too many open files
			l.o.Log.Warn("the link takes no connections for a moment", "err", err)
			l.pause(mostPause)
			continue
		}
		select {
		case l.greeting <- struct{}{}:
			l.all.Go(func() { l.answer(c) })
		default:
			_ = c.Close()
			l.count(causeSize)
		}
	}
}

func (l *Link) pause(d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-l.ctx.Done():
	case <-t.C:
	}
}

// answer is the way of a connection that another node has opened.
func (l *Link) answer(raw net.Conn) {
	said := sync.OnceFunc(func() { <-l.greeting })
	defer said()
	stop := context.AfterFunc(l.ctx, func() { _ = raw.Close() })
	defer stop()
	defer raw.Close() //nolint:errcheck // nothing is lost
	server := l.o.Certificates.Server([]string{Protocol})
	server.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		if l.o.Authority != nil && slices.Contains(h.SupportedProtos, cert.JoinProtocol) {
			return l.o.Certificates.JoinServer(), nil
		}
		return nil, nil //nolint:nilnil // the configuration stays
	}
	c := tls.Server(raw, server)
	if err := l.shake(c); err != nil {
		l.count(causeIdentity)
		l.o.Log.Debug("a connection was refused", "from", raw.RemoteAddr().String(), "err", err)
		return
	}
	switch c.ConnectionState().NegotiatedProtocol {
	case cert.JoinProtocol:
		l.join(c)
	case Protocol:
		err := l.session(c, "", said)
		if err != nil {
			l.o.Log.Debug("a session is over", "from", raw.RemoteAddr().String(), "err", err)
		}
	default:
		l.count(causeVersion)
	}
}

func (l *Link) shake(c *tls.Conn) error {
	ctx, cancel := context.WithTimeout(l.ctx, helloTime)
	defer cancel()
	return c.HandshakeContext(ctx)
}

func (l *Link) join(c *tls.Conn) {
	name, err := l.o.Authority.Serve(c)
	if err != nil {
		l.count(causeJoin)
		l.o.Log.Warn("a node was not given a certificate", "node", name, "from", c.RemoteAddr().String(), "err", err)
		return
	}
	_ = c.Close()
	l.o.Log.Info("a node was given its certificate", "node", name, "from", c.RemoteAddr().String())
}

// dial keeps a session with a peer until the link is closed.
func (l *Link) dial(p *peer) {
	pause := firstPause
	for l.ctx.Err() == nil {
		if busy, ended := p.busy(); busy { // the peer may have dialled as well
			select {
			case <-ended:
			case <-l.ctx.Done():
			}
			continue
		}
		began := time.Now()
		err := l.dialOnce(p)
		if p.missed(err) && l.ctx.Err() == nil {
			l.o.Log.Warn("a node cannot be linked; it is tried again", "node", p.name, "address", p.address, "err", err,
				"next", job.NextOf(err))
		}
		if time.Since(began) > mostPause {
			pause = firstPause
		}
		l.pause(pause/2 + rand2.N(pause/2)) //nolint:gosec // spreads dials, is no secret
		pause = min(2*pause, mostPause)
	}
}

func (l *Link) dialOnce(p *peer) error {
	ctx, cancel := context.WithTimeout(l.ctx, dialTime)
	defer cancel()
	raw, err := (&net.Dialer{}).DialContext(ctx, "tcp", p.address)
	if err != nil {
		return job.Errorf("link with "+p.name, job.Unavailable, "Check the address in link.peers, and that the node "+
			"there listens", "%w", err)
	}
	stop := context.AfterFunc(l.ctx, func() { _ = raw.Close() })
	defer stop()
	defer raw.Close() //nolint:errcheck // nothing is lost
	c := tls.Client(raw, l.o.Certificates.Client(p.name, []string{Protocol}))
	if err := l.shake(c); err != nil {
		if job.KindOf(err) == job.Auth {
			p.count(causeIdentity)
			return err
		}
		return job.Errorf("link with "+p.name, job.Unavailable, "Look at the certificates of both nodes", "%w", err)
	}
	return l.session(c, p.name, func() {})
}

// session is the way of a connection after the handshake of TLS, until it is over. dialled is the name of the peer that
// was dialled; "" for one that has dialled. said is called when the peer has got its name.
func (l *Link) session(c *tls.Conn, dialled string, said func()) (err error) {
	id, err := l.o.Certificates.Peer(c.ConnectionState())
	if err != nil {
		return err
	}
	noted := &notedConn{Conn: c}
	mux, stream, err := openMux(noted, dialled != "")
	if err != nil {
		return noted.alert(id.Name, err)
	}
	defer mux.Close() //nolint:errcheck // nothing is lost
	self := l.o.Certificates.Self()
	theirs, err := exchange(stream, &wire.Hello{
		Node: self.Name, Role: self.Role, Incarnation: l.incarnation, Version: l.o.Versions.Newest,
		OldestVersion: l.o.Versions.Oldest, Program: l.o.Program,
	})
	if err != nil {
		if errors.Is(err, errFrame) {
			l.count(causeFrame)
		}
		return noted.alert(id.Name, err)
	}
	p, version, err := l.admit(id, theirs)
	if err != nil {
		if p == nil {
			l.count(causeOf(err))
		} else {
			p.count(causeOf(err))
		}
		refuseTo(stream, err)
		return err
	}
	closeAll := func() { _ = c.NetConn().Close(); _ = mux.Close() }
	ctl := newControl(stream, closeAll, id, theirs, version)
	ctl.dialled, ctl.remote = dialled != "", c.RemoteAddr().String()
	ctl.mux = mux
	return l.keep(p, ctl, said)
}

// notedConn remembers the error that has ended reading: what is read through a stream is told less.
type notedConn struct {
	net.Conn
	err atomic.Pointer[net.OpError]
}

func (c *notedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if e, ok := errors.AsType[*net.OpError](err); ok && e.Op == "remote error" { // an alert of TLS
		c.err.CompareAndSwap(nil, e)
	}
	return n, err
}

// alert is the error of a session that has not begun: the peer looks at our certificate when we have already its own.
func (c *notedConn) alert(name string, err error) error {
	if e := c.err.Load(); e != nil {
		return job.Errorf("link with "+name, job.Auth, "Look at the log of node "+name+
			", and at this node's certificate: vmferry cert show", "node %s has refused this node's certificate: %w",
			name, e.Err)
	}
	return job.Errorf("link with "+name, job.Unavailable, "Look at the log of node "+name, "%w", err)
}

// openMux makes the multiplexed session on a connection. Its first stream is the control stream.
func openMux(c net.Conn, dialled bool) (mux *yamux.Session, stream net.Conn, err error) {
	cfg := yamux.DefaultConfig()
	cfg.EnableKeepAlive, cfg.ConnectionWriteTimeout, cfg.LogOutput = false, writeTime, io.Discard
	cfg.AcceptBacklog, cfg.StreamOpenTimeout, cfg.StreamCloseTimeout = mostStreams, dialTime, dialTime
	if dialled {
		if mux, err = yamux.Client(c, cfg); err == nil {
			stream, err = openStream(mux, streamControl)
		}
	} else if mux, err = yamux.Server(c, cfg); err == nil {
		stream, err = firstStream(c, mux)
	}
	if err != nil && mux != nil {
		_ = mux.Close()
	}
	return mux, stream, err
}

// firstStream takes the control stream, which the peer has to open at once.
func firstStream(c net.Conn, mux *yamux.Session) (net.Conn, error) {
	late := time.AfterFunc(helloTime, func() { _ = c.Close() })
	stream, err := mux.AcceptStream()
	late.Stop()
	if err != nil {
		return nil, err
	}
	kind, err := kindOf(stream)
	if err == nil && kind != streamControl {
		err = badFrame("the first stream is of kind %q", kind)
	}
	return stream, err
}

func openStream(mux *yamux.Session, kind byte) (net.Conn, error) {
	s, err := mux.OpenStream()
	if err != nil {
		return nil, err
	}
	if err := s.SetWriteDeadline(time.Now().Add(writeTime)); err != nil {
		return nil, err
	}
	if _, err := s.Write([]byte{kind}); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, s.SetWriteDeadline(time.Time{})
}

func kindOf(s net.Conn) (byte, error) {
	var kind [1]byte
	if err := s.SetReadDeadline(time.Now().Add(helloTime)); err != nil {
		return 0, err
	}
	if _, err := io.ReadFull(s, kind[:]); err != nil {
		return 0, err
	}
	return kind[0], s.SetReadDeadline(time.Time{})
}

// admit decides whether a peer may be linked, and with which version of frames. The peer is nil if it is none of ours.
func (l *Link) admit(id cert.Identity, h *wire.Hello) (*peer, uint32, error) {
	const op = "link"
	self := l.o.Certificates.Self()
	switch {
	case !strings.EqualFold(h.Node, id.Name) || h.Role != id.Role:
		return nil, 0, &refusal{causeIdentity, job.Errorf(op, job.Auth, "Start the node with its own certificate",
			"the node says that it is %s (%s), its certificate is that of %s (%s)", h.Node, h.Role, id.Name, id.Role)}
	case strings.EqualFold(id.Name, self.Name):
		return nil, 0, &refusal{causeName, job.Errorf(op, job.Conflict, "Give each node a name of its own",
			"node %s is this node's own name", id.Name)}
	case id.Role == self.Role:
		return nil, 0, &refusal{causeIdentity, job.Errorf(op, job.Auth, "Link a VMA with an OMA",
			"nodes %s and %s are both of role %s", self.Name, id.Name, id.Role)}
	}
	p, err := l.peerOf(id.Name)
	if err != nil {
		return nil, 0, err
	}
	version, err := agree(l.o.Versions, h)
	if err != nil {
		p.missed(err)
		return p, 0, &refusal{causeVersion, err}
	}
	return p, version, nil
}

// peerOf is the peer with a name that was verified. A node that listens and has no peers takes all.
func (l *Link) peerOf(name string) (*peer, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	key := strings.ToLower(name)
	switch {
	case l.peers[key] != nil:
	case len(l.o.Peers) > 0:
		return nil, &refusal{causeIdentity, job.Errorf("link", job.Permission, "Add it to link.peers, if it is to be "+
			"linked", "node %s is not one of link.peers", name)}
	case len(l.peers) >= mostPeers:
		return nil, &refusal{causeSize, job.Errorf("link", job.Unavailable, "Link fewer nodes with this one",
			"%d nodes are linked", len(l.peers))}
	default:
		l.peers[key] = newPeer(name, "")
	}
	return l.peers[key], nil
}

// keep runs a session until it is over.
func (l *Link) keep(p *peer, c *control, said func()) error {
	old, err := p.take(c, l.Self())
	if err != nil {
		p.count(causeOf(err))
		refuseTo(c.stream, err)
		return err
	}
	said()
	if old != nil {
		old.end(errors.New("another session of the node has taken its place"))
	}
	log := l.o.Log.With("node", p.name)
	up := func() {
		if p.rise(c) {
			log.Info("the link is up", "address", c.remote, "dialled", c.dialled, "program", c.hello.Program)
		}
	}
	var streams sync.WaitGroup
	streams.Go(func() { l.streams(p, c) })
	err = c.run(l.ctx, p.out, p.in, up, func(f *wire.Frame) error { return l.handle(p, c, f) },
		func() error { return l.o.Certificates.Check(c.id) })
	streams.Wait()
	if p.fall(c, err) && l.ctx.Err() == nil {
		log.Warn("the link is down", "reason", reasonOf(err))
	}
	if errors.Is(err, errFrame) {
		p.count(causeFrame)
	}
	return err
}

// streams hands the streams that the peer opens to the actors.
func (l *Link) streams(p *peer, c *control) {
	var all sync.WaitGroup
	defer all.Wait()
	for {
		s, err := c.mux.AcceptStream()
		if err != nil {
			return
		}
		select {
		case p.streams <- struct{}{}:
		default:
			p.count(causeSize)
			_ = s.Close()
			continue
		}
		all.Go(func() {
			defer func() { <-p.streams }()
			defer s.Close() //nolint:errcheck // nothing is lost
			kind, err := kindOf(s)
			if err != nil {
				return
			}
			if kind != streamActors || l.actors == nil {
				p.count(causeFrame)
				return
			}
			l.actors(s, p.name)
		})
	}
}

// handle takes a frame of a peer. An error ends the session.
func (l *Link) handle(p *peer, c *control, f *wire.Frame) error {
	switch body := f.Body.(type) {
	case *wire.Frame_Post:
		isNew, err := p.in.take(body.Post.Id)
		if err != nil || !isNew {
			return err
		}
		id, incarnation := body.Post.Id, c.hello.Incarnation
		err = l.deliver(p, body.Post.Message, func() { p.in.finish(incarnation, id, done) })
		if err != nil {
			p.in.finish(incarnation, id, refused)
		}
	case *wire.Frame_Latest:
		_ = l.deliver(p, body.Latest.Message, nil) // counted
	case *wire.Frame_Ack:
		p.out.acked(body.Ack.Ids)
		for _, gone := range p.out.acked(body.Ack.Refused) {
			l.o.Log.Error("a node has refused a message", "node", p.name, "target", gone.Message.Target,
				"type", gone.Message.Type)
		}
	}
	return nil
}

// deliver hands a message to its actor, or counts why it is refused.
func (l *Link) deliver(p *peer, m *wire.Message, finished func()) error {
	body, err := l.o.Policy.decode(l.Self(), p.name, m.Target, m.Type, m.Data)
	if err == nil && l.o.Receive == nil {
		err = refuse(causeTarget, "this node takes no messages")
	}
	if err != nil {
		p.count(causeOf(err))
		l.o.Log.Debug("a message was refused", "node", p.name, "err", err)
		return err
	}
	l.o.Receive(Message{From: p.name, Target: m.Target, Body: body, Done: finished})
	return nil
}
