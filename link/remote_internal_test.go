package link

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/asynkron/protoactor-go/remote"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/vmferry/vmferry/link/cert"
)

// A process can have one Remote, so the OMA of these tests is a process of its own: this test's binary, told its folder
// of certificates by nodeVariable. It writes its address, and then what it refused for each line that it reads.
const nodeVariable = "VMFERRY_TEST_NODE"

func TestMain(m *testing.M) {
	if dir := os.Getenv(nodeVariable); dir != "" {
		if err := runNode(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

// echo answers.
type echo struct{}

func (e *echo) Receive(c actor.Context) {
	if m, ok := c.Message().(*wrapperspb.StringValue); ok {
		c.Respond(wrapperspb.String(m.Value + " at " + c.Self().Address))
	}
}

func echoPolicy() Policy {
	return Policy{
		Rules: []Rule{
			{Target: "echo", Types: []string{"google.protobuf.StringValue"}},
			{Target: "asks", Types: []string{"google.protobuf.StringValue"}},
		},
		Watched: []string{"echo"}, Watchers: []string{"asks"},
	}
}

func newTestSystem() *actor.ActorSystem {
	return actor.NewActorSystem(actor.WithLoggerFactory(func(*actor.ActorSystem) *slog.Logger {
		return slog.New(slog.DiscardHandler)
	}))
}

func runNode(dir string) error {
	node, err := cert.Open(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	system := newTestSystem()
	r := NewRemote(Options{
		Certificates: node, Listen: "127.0.0.1:0", Policy: echoPolicy(), Log: slog.New(slog.DiscardHandler),
	})
	if err := r.Start(context.Background(), system); err != nil {
		return err
	}
	props := actor.PropsFromProducer(func() actor.Actor { return &echo{} })
	if _, err := system.Root.SpawnNamed(props, "echo"); err != nil {
		return err
	}
	fmt.Fprintln(os.Stdout, r.Addr(), r.local)
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		for _, p := range r.Peers() {
			fmt.Fprintf(os.Stdout, "%s %s %v; ", p.Name, p.State, p.Refused)
		}
		fmt.Fprintln(os.Stdout, r.Refused())
	}
	return r.Close()
}

// process is a node in a process of its own.
type process struct {
	*exec.Cmd
	in          io.WriteCloser
	out         *bufio.Scanner
	addr, local string
}

func startNode(t *testing.T, dir string) *process {
	t.Helper()
	p := &process{Cmd: exec.Command(os.Args[0])}
	p.Env = append(os.Environ(), nodeVariable+"="+dir)
	p.Stderr = os.Stderr
	var err error
	if p.in, err = p.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := p.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Process.Kill(); _ = p.Wait() })
	p.out = bufio.NewScanner(out)
	if !p.out.Scan() {
		t.Fatal("the node has not started")
	}
	p.addr, p.local, _ = strings.Cut(p.out.Text(), " ")
	return p
}

func (p *process) refused(t *testing.T) string {
	t.Helper()
	fmt.Fprintln(p.in)
	if !p.out.Scan() {
		t.Fatal("the node is dead")
	}
	return p.out.Text()
}

// asks sends to the echo, watches it, and passes on what comes back.
type asks struct {
	got chan any
	to  *actor.PID
}

type (
	say   string
	watch struct{}
)

func (a *asks) Receive(c actor.Context) {
	switch m := c.Message().(type) {
	case say:
		c.Request(a.to, wrapperspb.String(string(m)))
	case watch:
		c.Watch(a.to)
	case *wrapperspb.StringValue, *actor.Terminated:
		a.got <- m
	}
}

func linked(t *testing.T, l *Link, node string) *peer {
	t.Helper()
	for end := time.Now().Add(time.Minute); ; {
		if p, err := l.find(node); err == nil {
			if c, _ := p.session(); c != nil {
				return p
			}
		}
		if time.Now().After(end) {
			t.Fatalf("node %s is not linked: %+v", node, l.Peers())
		}
		<-time.After(5 * time.Millisecond)
	}
}

func certificates(t *testing.T, roles map[string]string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	ca, err := cert.CreateAuthority(filepath.Join(dir, "ca"), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	for name, role := range roles {
		if err := ca.Node(name, role, filepath.Join(dir, name), time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func open(t *testing.T, dir string) *cert.Node {
	t.Helper()
	n, err := cert.Open(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestActorsOfTwoProcessesTalkAndASecondPeerCannotHarmThem is a good peer and an attacker with a valid certificate.
func TestActorsOfTwoProcessesTalkAndASecondPeerCannotHarmThem(t *testing.T) {
	if testing.Short() {
		t.Skip("the attacks wait for answers")
	}
	dir := certificates(t, map[string]string{"oma": cert.OMA, "vma-1": cert.VMA, "vma-2": cert.VMA})
	node := startNode(t, filepath.Join(dir, "oma"))
	system := newTestSystem()
	quiet := slog.New(slog.DiscardHandler)
	r := NewRemote(Options{
		Certificates: open(t, filepath.Join(dir, "vma-1")), Peers: []Peer{{"oma", node.addr}}, Policy: echoPolicy(),
		Log: quiet,
	})
	if err := r.Start(t.Context(), system); err != nil {
		t.Fatal(err)
	}
	linked(t, r.Link, "oma")
	a := &asks{make(chan any, 100), actor.NewPID("node:///oma", "echo")}
	pid, err := system.Root.SpawnNamed(actor.PropsFromProducer(func() actor.Actor { return a }), "asks")
	if err != nil {
		t.Fatal(err)
	}
	answered := func(word string) {
		t.Helper()
		system.Root.Send(pid, say(word))
		select {
		case m := <-a.got:
			if s, ok := m.(*wrapperspb.StringValue); !ok || !strings.HasPrefix(s.Value, word+" at node:///oma") {
				t.Fatalf("%q was answered with %v", word, m)
			}
		case <-time.After(time.Minute):
			t.Fatalf("%q was not answered; refused: %s", word, node.refused(t))
		}
	}
	answered("first")
	system.Root.Send(pid, watch{})
	attacks(t, node, dir, func() { answered("still here") })

	if err := syscall.Kill(node.Process.Pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	select {
	case m := <-a.got:
		if end, ok := m.(*actor.Terminated); !ok || end.Why != actor.TerminatedReason_AddressTerminated {
			t.Errorf("the end of the frozen node was told by %v", m)
		}
		t.Logf("a frozen node was seen after %v", time.Since(began))
	case <-time.After(time.Minute):
		t.Error("nothing was told of a node that is frozen")
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	_ = syscall.Kill(node.Process.Pid, syscall.SIGCONT)
}

// attacks sends what a peer with a valid certificate should not send, and looks after each that the node lives.
func attacks(t *testing.T, node *process, dir string, alive func()) {
	t.Helper()
	attacker := open(t, filepath.Join(dir, "vma-2"))
	l, err := Start(t.Context(), Options{
		Certificates: attacker, Peers: []Peer{{"oma", node.addr}}, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	p := linked(t, l, "oma")
	through := func(context.Context, string) (net.Conn, error) {
		c, _ := p.session()
		if c == nil {
			return nil, io.EOF
		}
		return openStream(c.mux, streamActors)
	}
	conn, err := grpc.NewClient("passthrough:///oma", grpc.WithContextDialer(through), grpc.WithNoProxy(),
		grpc.WithTransportCredentials(credentials.NewTLS(attacker.Client("oma", []string{"h2"}))))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	cl := remote.NewRemotingClient(conn)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	if _, err := cl.ListProcesses(ctx, &remote.ListProcessesRequest{}); err == nil {
		t.Error("the processes are listed")
	}
	if _, err := cl.GetProcessDiagnostics(ctx, &remote.GetProcessDiagnosticsRequest{}); err == nil {
		t.Error("a process is described")
	}
	alive()
	for name, m := range hostile() {
		s, err := cl.Receive(ctx)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		_ = s.Send(m)
		got := make(chan error, 1)
		go func() { _, err := s.Recv(); got <- err }()
		select {
		case err := <-got:
			if err == nil {
				t.Errorf("%s was answered", name)
			}
		case <-time.After(30 * time.Second):
			t.Errorf("%s was not refused", name)
		}
		_ = s.CloseSend()
		alive()
	}
	for name, raw := range map[string][]byte{
		"noise": []byte("\xff\xff\xff\xff noise noise noise"), "a huge frame": {0x7f, 0xff, 0xff, 0xff, 1},
		"an empty frame": {0, 0, 0, 1, 1}, "a ping of version 9": {0, 0, 0, 3, 9, 0x1a, 0},
		"a second Hello": secondHello(),
	} {
		p = linked(t, l, "oma")
		c, ended := p.session()
		_, _ = c.stream.Write(raw) // the answer to it may come before the write has returned
		select {
		case <-ended:
		case <-time.After(30 * time.Second):
			t.Errorf("%s has not ended the attacker's session", name)
		}
		alive()
	}
	// Without the link: the port of protoactor is reached by anyone on this machine.
	direct, err := grpc.NewClient("passthrough:///"+node.local,
		grpc.WithTransportCredentials(credentials.NewTLS(open(t, filepath.Join(dir, "vma-1")).Client("vma-2", nil))))
	if err != nil {
		t.Fatal(err)
	}
	defer direct.Close()
	if s, err := remote.NewRemotingClient(direct).Receive(ctx); err == nil {
		if _, err := s.Recv(); err == nil {
			t.Error("protoactor's port answers a client that takes it for another node")
		}
	}
	refused := node.refused(t)
	for _, cause := range []string{causeType, causeTarget, causePID, causeSender, causeSize, causeFrame} {
		if !strings.Contains(refused, cause+":") {
			t.Errorf("no refusal for the cause %s is counted: %s", cause, refused)
		}
	}
	t.Log(refused)
}

func secondHello() []byte {
	b, _ := encodeFrame(helloVersion, soundFrames()["hello"])
	return b
}

// hostile are frames of protoactor that are no use to an honest peer.
func hostile() map[string]*remote.RemoteMessage {
	const stringType = "google.protobuf.StringValue"
	raw := func(m proto.Message) []byte {
		b, _ := proto.Marshal(m)
		return b
	}
	env := func(target, kind, sender int32, data []byte) *remote.MessageEnvelope {
		return &remote.MessageEnvelope{Target: target, TypeId: kind, Sender: sender, MessageData: data}
	}
	batch := func(kinds, targets []string, senders []*actor.PID, e ...*remote.MessageEnvelope) *remote.RemoteMessage {
		return &remote.RemoteMessage{MessageType: &remote.RemoteMessage_MessageBatch{MessageBatch: &remote.MessageBatch{
			TypeNames: kinds, Targets: targets, Senders: senders, Envelopes: e,
		}}}
	}
	one := func(kind, target string, data []byte) *remote.RemoteMessage {
		return batch([]string{kind}, []string{target}, nil, env(0, 0, 0, data))
	}
	connect := func(address string) *remote.RemoteMessage {
		return &remote.RemoteMessage{MessageType: &remote.RemoteMessage_ConnectRequest{
			ConnectRequest: &remote.ConnectRequest{ConnectionType: &remote.ConnectRequest_ServerConnection{
				ServerConnection: &remote.ServerConnection{MemberId: "x", Address: address},
			}},
		}}
	}
	own := func(id string) *actor.PID { return actor.NewPID("node:///vma-2", id) }
	hello := raw(wrapperspb.String("x"))
	bad := func(e ...*remote.MessageEnvelope) *remote.RemoteMessage {
		return batch([]string{stringType}, []string{"echo"}, nil, e...)
	}
	from := func(sender *actor.PID) *remote.RemoteMessage {
		return batch([]string{stringType}, []string{"echo"}, []*actor.PID{sender}, env(0, 0, 1, hello))
	}
	host, honest := actor.NewPID("10.9.9.9:1", "x"), actor.NewPID("node:///vma-1", "asks")
	many := make([]*remote.MessageEnvelope, writerBatch+1)
	for i := range many {
		many[i] = env(0, 0, 0, hello)
	}
	return map[string]*remote.RemoteMessage{
		"bad target index":       bad(env(9, 0, 0, hello)),
		"negative index":         bad(env(-1, 0, 0, hello)),
		"bad type index":         bad(env(0, 7, 0, hello)),
		"bad sender index":       bad(env(0, 0, 3, hello)),
		"negative sender index":  bad(env(0, 0, -2, hello)),
		"poison pill":            one("actor.PoisonPill", "echo", nil),
		"stop":                   one("actor.Stop", "echo", nil),
		"unknown kind":           one("remote.ActorPidRequest", "activator", raw(&remote.ActorPidRequest{Kind: "y"})),
		"activator watched":      one("actor.Watch", "activator", raw(&actor.Watch{Watcher: own("x")})),
		"answer of another":      one(stringType, "future$1", hello),
		"endpoint supervisor":    one(stringType, "EndpointSupervisor", hello),
		"foreign sender":         from(host),
		"sender of another peer": from(honest),
		"sender of the node":     from(actor.NewPID("node:///oma", "echo")),
		"sender without a name":  from(own("")),
		"other's address":        connect("node:///vma-1"),
		"address of a host":      connect("10.9.9.9:1"),
		"JSON serializer":        bad(&remote.MessageEnvelope{SerializerId: 1, MessageData: []byte("{}")}),
		"unknown serializer":     bad(&remote.MessageEnvelope{SerializerId: 99}),
		"negative serializer":    bad(&remote.MessageEnvelope{SerializerId: -1}),
		"garbage body":           one(stringType, "echo", []byte{0xff, 0xff, 0xff}),
		"terminated without who": one("actor.Terminated", "asks", nil),
		"end of another's actor": one("actor.Terminated", "asks", raw(&actor.Terminated{Who: honest})),
		"end of an own actor":    one("actor.Terminated", "echo", raw(&actor.Terminated{Who: own("x")})),
		"watch without watcher":  one("actor.Watch", "echo", nil),
		"watch for another":      one("actor.Watch", "echo", raw(&actor.Watch{Watcher: host})),
		"unwatch for another":    one("actor.Unwatch", "echo", raw(&actor.Unwatch{Watcher: honest})),
		"large message":          one(stringType, "echo", make([]byte, mostMessage+1)),
		"many at once":           bad(many...),
		"huge frame":             one(stringType, "echo", make([]byte, mostBatch+1)),
		"headers": bad(&remote.MessageEnvelope{
			MessageData: hello, MessageHeader: &remote.MessageHeader{HeaderData: map[string]string{"a": "b"}},
		}),
		"empty": {},
		"disconnect": {MessageType: &remote.RemoteMessage_DisconnectRequest{
			DisconnectRequest: &remote.DisconnectRequest{},
		}},
		"client connection": {MessageType: &remote.RemoteMessage_ConnectRequest{ConnectRequest: &remote.ConnectRequest{
			ConnectionType: &remote.ConnectRequest_ClientConnection{ClientConnection: &remote.ClientConnection{}},
		}}},
	}
}
