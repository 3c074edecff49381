package link

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/asynkron/protoactor-go/remote"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	grpcpeer "google.golang.org/grpc/peer"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/vmferry/vmferry/job"
)

// Remote joins an actor system with those of the peers, over the sessions of its Link. An actor of node vma-1 has the
// address node:///vma-1. A process can have one Remote.
type Remote struct {
	*Link
	o       Options
	remote  *remote.Remote
	local   string        // where protoactor listens, on 127.0.0.1
	started chan struct{} // closed when Link is set
}

// NewRemote makes a Remote that Start starts. Before that it has no Link.
func NewRemote(o Options) *Remote { return &Remote{o: o, started: make(chan struct{})} }

const (
	mostBatch    = writerBatch * mostFrame // bytes of one frame of protoactor
	writerQueue  = 10_000                  // slots of messages for one peer
	writerBatch  = 8                       // messages in one frame of protoactor
	portTries    = 5
	localAddress = "127.0.0.1"
)

// Start listens and dials, and gives the actor system its address. It must come before the first actor is spawned: a
// PID keeps the address that it got. Errors are of kind Conflict if Options.Listen is in use, and Unavailable.
//
// protoactor listens on a port of 127.0.0.1, to which only the streams of sessions are led. Others who reach it have no
// certificate of a node, and are refused.
func (r *Remote) Start(ctx context.Context, system *actor.ActorSystem) error {
	for try := 1; ; try++ {
		port, err := freePort(ctx)
		if err == nil {
			err = r.serve(system, port)
		}
		if err == nil {
			break
		}
		if try == portTries {
			return job.Errorf("start the link", job.Unavailable, "Start vmferry again",
				"no port on %s is free: %w", localAddress, err)
		}
	}
	l, err := start(ctx, r.o, r.forward)
	if err != nil {
		r.remote.Shutdown(false)
		return err
	}
	r.Link = l
	close(r.started)
	return nil
}

func freePort(ctx context.Context) (int, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", net.JoinHostPort(localAddress, "0"))
	if err != nil {
		return 0, err
	}
	port := l.Addr().(*net.TCPAddr).Port //nolint:forcetypeassert // of a listener of tcp
	return port, l.Close()
}

// serve starts protoactor's server. protoactor panics if the port was taken meanwhile.
func (r *Remote) serve(system *actor.ActorSystem, port int) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%v", p)
		}
	}()
	o := r.o
	self := o.Certificates.Self().Name
	cfg := remote.Configure(localAddress, port, remote.WithAdvertisedHost(addressOf(self)),
		remote.WithDialOptions(
			grpc.WithTransportCredentials(credentials.NewTLS(o.Certificates.Client("", []string{"h2"}))),
			grpc.WithResolvers(nodes{}), grpc.WithContextDialer(r.dial), grpc.WithNoProxy(),
			grpc.WithDefaultCallOptions(grpc.MaxCallSendMsgSize(mostBatch)),
		),
		remote.WithServerOptions(
			grpc.Creds(credentials.NewTLS(o.Certificates.Server([]string{"h2"}))),
			grpc.StreamInterceptor(r.guardStream),
			grpc.UnaryInterceptor(r.guardCall),
			grpc.MaxRecvMsgSize(mostBatch), grpc.MaxConcurrentStreams(mostStreams), grpc.MaxHeaderListSize(16<<10),
			grpc.ConnectionTimeout(helloTime),
		))
	cfg.MaxRetryCount = 1 // the writer blocks for 2 s after each try; a Disk asks again by itself
	cfg.EndpointWriterQueueSize, cfg.EndpointWriterBatchSize = writerQueue, writerBatch
	r.local = net.JoinHostPort(localAddress, fmt.Sprint(port))
	r.remote = remote.NewRemote(system, cfg)
	r.remote.Start()
	return nil
}

// Close ends the sessions, then protoactor's server. The actor system is the caller's to end. Without a Link it does
// nothing.
func (r *Remote) Close() error {
	if r.Link == nil {
		return nil
	}
	err := r.Link.Close()
	r.remote.Shutdown(false)
	return err
}

// nodes resolves the address of an actor to the name of its node.
type nodes struct{}

func (nodes) Scheme() string { return "node" }

func (nodes) Build(t resolver.Target, c resolver.ClientConn, _ resolver.BuildOptions) (resolver.Resolver, error) {
	name := t.Endpoint()
	return nodes{}, c.UpdateState(resolver.State{Addresses: []resolver.Address{{Addr: name, ServerName: name}}})
}

func (nodes) ResolveNow(resolver.ResolveNowOptions) {}
func (nodes) Close()                                {}

// dial opens a stream of the session with a node. Nothing else can be dialled: an address in a message leads nowhere.
func (r *Remote) dial(_ context.Context, name string) (net.Conn, error) {
	<-r.started
	p, err := r.find(name)
	if err != nil {
		return nil, err
	}
	c, _ := p.session()
	if c == nil {
		return nil, job.Errorf("reach node "+name, job.Unavailable, "Look at vmferry get nodes", "the link is down")
	}
	return openStream(c.mux, streamActors)
}

// forward leads a stream of a peer to protoactor's server.
func (r *Remote) forward(stream net.Conn, _ string) {
	ctx, cancel := context.WithTimeout(r.ctx, dialTime)
	defer cancel()
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", r.local)
	if err != nil {
		return
	}
	over := make(chan struct{}, 2)
	copyTo := func(to, from net.Conn) {
		_, _ = io.Copy(to, from)
		over <- struct{}{}
	}
	go copyTo(c, stream)
	go copyTo(stream, c)
	select {
	case <-over:
	case <-r.ctx.Done():
	}
	_, _ = c.Close(), stream.Close()
}

// guardCall refuses all calls but the stream of messages: protoactor panics in the others.
func (r *Remote) guardCall(ctx context.Context, _ any, _ *grpc.UnaryServerInfo, _ grpc.UnaryHandler) (any, error) {
	<-r.started
	r.refuseTo(r.nameOf(ctx), causeType)
	return nil, status.Error(codes.Unimplemented, "not offered")
}

// guardStream lets a peer's stream through the policy. A panic in protoactor's reader ends the stream only.
func (r *Remote) guardStream(srv any, s grpc.ServerStream, _ *grpc.StreamServerInfo, h grpc.StreamHandler) (err error) {
	<-r.started
	name := r.nameOf(s.Context())
	defer func() {
		if p := recover(); p != nil {
			r.refuseTo(name, causeFrame)
			r.o.Log.Error("a message of a node has made its reader panic", "node", name, "panic", p)
			err = status.Error(codes.InvalidArgument, "refused")
		}
	}()
	p, err := r.find(name)
	if err != nil {
		r.count(causeIdentity)
		return status.Error(codes.Unauthenticated, "there is no link with this node")
	}
	if c, _ := p.session(); c == nil { // someone on this machine with a node's certificate
		p.count(causeIdentity)
		return status.Error(codes.Unavailable, "there is no link with this node")
	}
	return h(srv, &guarded{s, r, p})
}

// nameOf is the node at the other end of a connection of protoactor; "" if that can't be said.
func (r *Remote) nameOf(ctx context.Context) string {
	p, ok := grpcpeer.FromContext(ctx)
	if !ok {
		return ""
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok {
		return ""
	}
	id, err := r.o.Certificates.Peer(info.State)
	if err != nil {
		return ""
	}
	return id.Name
}

func (r *Remote) refuseTo(name, cause string) {
	if p, err := r.find(name); err == nil {
		p.count(cause)
		return
	}
	r.count(cause)
}

// guarded is a peer's stream. What it refuses ends the stream: a peer of ours sends nothing of that kind.
type guarded struct {
	grpc.ServerStream
	r *Remote
	p *peer
}

func (g *guarded) RecvMsg(m any) error {
	if err := g.ServerStream.RecvMsg(m); err != nil {
		if status.Code(err) == codes.ResourceExhausted {
			g.p.count(causeSize)
		}
		return err
	}
	message, ok := m.(*remote.RemoteMessage)
	if !ok {
		return status.Error(codes.InvalidArgument, "refused")
	}
	if err := g.r.o.Policy.checkRemote(g.r.Self(), g.p.name, message); err != nil {
		g.p.count(causeOf(err))
		g.r.o.Log.Debug("a message was refused", "node", g.p.name, "err", err)
		return status.Error(codes.PermissionDenied, "refused: "+err.Error())
	}
	return nil
}

// checkRemote checks a frame of protoactor: its indexes, targets, types, senders, and PIDs within messages.
func (p Policy) checkRemote(self, peer string, m *remote.RemoteMessage) error {
	switch body := m.MessageType.(type) {
	case *remote.RemoteMessage_ConnectRequest:
		c, ok := body.ConnectRequest.ConnectionType.(*remote.ConnectRequest_ServerConnection)
		if !ok {
			return refuse(causeType, "a connection of this kind is not offered")
		}
		if got := c.ServerConnection.Address; !strings.EqualFold(got, addressOf(peer)) {
			return refuse(causeSender, "%s says that its address is %.80q", peer, got)
		}
		return nil
	case *remote.RemoteMessage_MessageBatch:
		b := body.MessageBatch
		if len(b.Envelopes) > writerBatch || len(b.TypeNames)+len(b.Targets)+len(b.Senders) > 3*writerBatch {
			return refuse(causeSize, "%d messages at once", len(b.Envelopes))
		}
		for _, s := range b.Senders {
			if err := checkPID(s, []string{addressOf(peer)}); err != nil {
				return refuse(causeSender, "%w", err)
			}
		}
		for _, e := range b.Envelopes {
			if err := p.checkEnvelope(self, peer, b, e); err != nil {
				return err
			}
		}
		return nil
	default:
		return refuse(causeType, "a frame of this kind is not offered")
	}
}

func (p Policy) checkEnvelope(self, peer string, b *remote.MessageBatch, e *remote.MessageEnvelope) error {
	inside := func(i int32, n int) bool { return i >= 0 && int(i) < n }
	switch {
	case e == nil || !inside(e.TypeId, len(b.TypeNames)) || !inside(e.Target, len(b.Targets)) ||
		!inside(e.Sender, len(b.Senders)+1):
		return refuse(causeFrame, "an index out of range")
	case e.SerializerId != 0:
		return refuse(causeFrame, "serializer %d is not offered", e.SerializerId)
	case len(e.MessageHeader.GetHeaderData()) > 0:
		return refuse(causeFrame, "headers are not offered")
	case e.TargetRequestId != 0:
		return refuse(causeTarget, "an answer to a request of this node")
	case len(b.Targets[e.Target]) > mostName || len(e.MessageData) > mostMessage:
		return refuse(causeSize, "a message of %d bytes", len(e.MessageData))
	}
	target, kind := b.Targets[e.Target], b.TypeNames[e.TypeId]
	news, system := systemMessage(kind)
	if !system {
		_, err := p.decode(self, peer, target, kind, e.MessageData)
		return err
	}
	return p.checkSystem(peer, target, kind, news, e.MessageData)
}

// systemMessage says whether a type is handled by protoactor itself and may cross a link: requests to watch an actor
// and the news of its end. It returns an empty one.
func systemMessage(kind string) (proto.Message, bool) {
	switch kind {
	case "actor.Watch":
		return &actor.Watch{}, true
	case "actor.Unwatch":
		return &actor.Unwatch{}, true
	case "actor.Terminated":
		return &actor.Terminated{}, true
	}
	return nil, false
}

func (p Policy) checkSystem(peer, target, kind string, m proto.Message, data []byte) error {
	if err := (proto.UnmarshalOptions{RecursionLimit: mostDepth}).Unmarshal(data, m); err != nil {
		return refuse(causeType, "this is not a %s: %w", kind, err)
	}
	open, pid := p.Watched, (*actor.PID)(nil)
	switch m := m.(type) {
	case *actor.Watch:
		pid = m.Watcher
	case *actor.Unwatch:
		pid = m.Watcher
	case *actor.Terminated:
		open, pid = p.Watchers, m.Who
	}
	if !matches(open, target) {
		return refuse(causeTarget, "actor %.80q takes no %s from other nodes", target, kind)
	}
	return checkPID(pid, []string{addressOf(peer)})
}
