package link_test

import (
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/asynkron/protoactor-go/actor"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/link"
	"github.com/vmferry/vmferry/link/cert"
)

const deadline = time.Minute // of what takes seconds: the machine may be busy

var quiet = slog.New(slog.DiscardHandler)

var foreignPID = actor.NewPID("node:///vma-2", "x")

// site has an authority, and the folders of nodes below it.
type site struct {
	testing.TB
	dir string
	ca  *cert.Authority
}

func newSite(tb testing.TB) site {
	tb.Helper()
	s := site{tb, tb.TempDir(), nil}
	var err error
	if s.ca, err = cert.CreateAuthority(filepath.Join(s.dir, "ca"), cert.StandardAuthorityLife); err != nil {
		tb.Fatal(err)
	}
	return s
}

func (s site) folder(node string) string { return filepath.Join(s.dir, node) }

// node makes the certificate of a node.
func (s site) node(name, role string) *cert.Node {
	s.Helper()
	if err := s.ca.Node(name, role, s.folder(name), time.Hour); err != nil {
		s.Fatal(err)
	}
	return s.open(name)
}

func (s site) open(folder string) *cert.Node {
	s.Helper()
	n, err := cert.Open(s.folder(folder), quiet)
	if err != nil {
		s.Fatal(err)
	}
	return n
}

func boxOf(kinds ...string) link.Policy {
	return link.Policy{Rules: []link.Rule{{Target: "box", Types: append(kinds, "google.protobuf.StringValue")}}}
}

// box is an actor's mailbox.
type box struct {
	mu   sync.Mutex
	got  []string
	held []func()
	hold bool
}

func (b *box) receive(m link.Message) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.got = append(b.got, m.From+":"+m.Body.(*wrapperspb.StringValue).Value)
	switch {
	case m.Done == nil:
	case b.hold:
		b.held = append(b.held, m.Done)
	default:
		m.Done()
	}
}

func (b *box) text() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Join(b.got, " ")
}

func (s site) start(o link.Options) *link.Link {
	s.Helper()
	o.Log, o.Program = quiet, "test"
	l, err := link.Start(s.Context(), o)
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { _ = l.Close() })
	return l
}

func status(l *link.Link, node string) link.Status {
	for _, p := range l.Peers() {
		if p.Name == node {
			return p
		}
	}
	return link.Status{}
}

// eventually waits until a condition is true.
func eventually(tb testing.TB, what func() string, want func() bool) {
	tb.Helper()
	for end := time.Now().Add(deadline); !want(); {
		if time.Now().After(end) {
			tb.Fatal(what())
		}
		wait(tb.Context(), 5*time.Millisecond)
	}
}

func wait(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

func isUp(tb testing.TB, l *link.Link, node string) {
	tb.Helper()
	eventually(tb, func() string { return node + " is not up: " + status(l, node).Reason },
		func() bool { return status(l, node).State == link.Up })
}

func isDown(tb testing.TB, l *link.Link, node, why string) {
	tb.Helper()
	eventually(tb, func() string { return node + " is not down with " + why + ": " + status(l, node).Reason },
		func() bool { s := status(l, node); return s.State == link.Down && strings.Contains(s.Reason, why) })
}

func TestEitherSideMayDialAndBothCanSend(t *testing.T) {
	for dialler, listener := range map[string]string{"vma-1": "oma", "oma": "vma-1"} {
		t.Run(dialler+" dials", func(t *testing.T) {
			s := newSite(t)
			roles := map[string]string{"oma": cert.OMA, "vma-1": cert.VMA}
			boxes := map[string]*box{"oma": {}, "vma-1": {}}
			there := s.start(link.Options{
				Certificates: s.node(listener, roles[listener]), Listen: "127.0.0.1:0", Policy: boxOf(),
				Receive: boxes[listener].receive,
			})
			here := s.start(link.Options{
				Certificates: s.node(dialler, roles[dialler]), Policy: boxOf(), Receive: boxes[dialler].receive,
				Peers: []link.Peer{{Name: listener, Address: there.Addr().String()}},
			})
			isUp(t, here, listener)
			isUp(t, there, dialler)
			for from, to := range map[*link.Link]string{here: listener, there: dialler} {
				if err := from.Post(to, "box", wrapperspb.String("posted")); err != nil {
					t.Fatal(err)
				}
				if err := from.Latest(to, "disk", "box", wrapperspb.String("newest")); err != nil {
					t.Fatal(err)
				}
				from := from.Self()
				eventually(t, func() string { return to + " has got " + boxes[to].text() },
					func() bool { return boxes[to].text() == from+":posted "+from+":newest" })
			}
			eventually(t, func() string { return "a message was not acknowledged" },
				func() bool { return status(here, listener).Waiting+status(there, dialler).Waiting == 0 })
			st := status(here, listener)
			eventually(t, func() string { return "no round trip" },
				func() bool { return status(here, listener).RoundTrip > 0 })
			if !st.Dialled || status(there, dialler).Dialled || st.Role != roles[listener] || st.Version != 1 ||
				st.Program != "test" || st.Expires.Before(time.Now()) || st.Since.IsZero() {
				t.Errorf("the status is %+v", st)
			}
		})
	}
}

func TestWhenBothDialAtOnceOneSessionStays(t *testing.T) {
	s := newSite(t)
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := free.Addr().String()
	free.Close()
	a := s.start(link.Options{
		Certificates: s.node("vma-1", cert.VMA), Listen: "127.0.0.1:0", Peers: []link.Peer{{Name: "oma", Address: at}},
	})
	b := s.start(link.Options{
		Certificates: s.node("oma", cert.OMA), Listen: at, Peers: []link.Peer{{"vma-1", a.Addr().String()}},
	})
	isUp(t, a, "oma")
	isUp(t, b, "vma-1")
	eventually(t, func() string { return "the two sides have different sessions" }, func() bool {
		x, y := status(a, "oma"), status(b, "vma-1")
		return x.State == link.Up && y.State == link.Up && x.Dialled != y.Dialled
	})
}

// relay is a network between two nodes that can be cut.
type relay struct {
	net.Listener
	to   string
	mu   sync.Mutex
	open []net.Conn
	cut  bool
}

func newRelay(tb testing.TB, to string) *relay {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	r := &relay{Listener: l, to: to}
	tb.Cleanup(func() { l.Close(); r.set(true, true) })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			d, err := net.Dial("tcp", to)
			if err != nil {
				c.Close()
				continue
			}
			r.mu.Lock()
			r.open = append(r.open, c, d)
			r.mu.Unlock()
			go r.pipe(c, d)
			go r.pipe(d, c)
		}
	}()
	return r
}

func (r *relay) pipe(to, from net.Conn) {
	b := make([]byte, 64<<10)
	for {
		n, err := from.Read(b)
		r.mu.Lock()
		lost := r.cut
		r.mu.Unlock()
		if err == nil && !lost {
			_, err = to.Write(b[:n])
		}
		if err != nil {
			return // the other end is not told: a network does not say that it is gone
		}
	}
}

// set cuts the network, or heals it: connections that lost something are reset.
func (r *relay) set(cut, reset bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cut = cut
	if reset {
		for _, c := range r.open {
			c.Close()
		}
		r.open = nil
	}
}

func TestACutLinkComesBackAndNothingIsLostOrDoneTwice(t *testing.T) {
	s := newSite(t)
	there := &box{}
	oma := s.start(link.Options{
		Certificates: s.node("oma", cert.OMA), Listen: "127.0.0.1:0", Policy: boxOf(), Receive: there.receive,
	})
	network := newRelay(t, oma.Addr().String())
	vma := s.start(link.Options{
		Certificates: s.node("vma-1", cert.VMA), Peers: []link.Peer{{"oma", network.Addr().String()}},
	})
	isUp(t, vma, "oma")
	var want []string
	post := func(n int) {
		for range n {
			want = append(want, "vma-1:"+strconv.Itoa(len(want)))
			text := strings.TrimPrefix(want[len(want)-1], "vma-1:")
			if err := vma.Post("oma", "box", wrapperspb.String(text)); err != nil {
				t.Fatal(err)
			}
		}
	}
	post(10)
	for range 2 {
		began := time.Now()
		network.set(true, false)
		post(10)
		isDown(t, vma, "oma", "not heard")
		isDown(t, oma, "vma-1", "")
		down := time.Since(began)
		post(10)
		network.set(false, true)
		began = time.Now()
		isUp(t, vma, "oma")
		isUp(t, oma, "vma-1")
		t.Logf("down at both sides after %v, up at both %v after it was healed", down, time.Since(began))
		post(10)
	}
	eventually(t, func() string { return "arrived: " + there.text() },
		func() bool { return there.text() == strings.Join(want, " ") && status(vma, "oma").Waiting == 0 })
	events := status(vma, "oma").Events
	if len(events) != 5 || events[1].State != link.Down || events[1].Reason == "" {
		t.Errorf("the events are %+v", events)
	}
}

func TestWhatIsNotAcknowledgedIsNotHandedOnAgainAfterAReconnect(t *testing.T) {
	s := newSite(t)
	there := &box{hold: true}
	oma := s.start(link.Options{
		Certificates: s.node("oma", cert.OMA), Listen: "127.0.0.1:0", Policy: boxOf(), Receive: there.receive,
	})
	network := newRelay(t, oma.Addr().String())
	vma := s.start(link.Options{
		Certificates: s.node("vma-1", cert.VMA), Peers: []link.Peer{{"oma", network.Addr().String()}},
	})
	isUp(t, vma, "oma")
	_ = vma.Post("oma", "box", wrapperspb.String("end"))
	eventually(t, func() string { return "not arrived" }, func() bool { return there.text() != "" })
	network.set(false, true)
	isDown(t, vma, "oma", "")
	isUp(t, vma, "oma")
	_ = vma.Post("oma", "box", wrapperspb.String("more"))
	eventually(t, func() string { return "arrived: " + there.text() },
		func() bool { return there.text() == "vma-1:end vma-1:more" })
	for _, f := range there.held {
		f()
	}
	eventually(t, func() string { return "not acknowledged" }, func() bool { return status(vma, "oma").Waiting == 0 })
}

func TestAPeerOfTheVersionBeforeWorksAndAnOlderOneIsRefusedByName(t *testing.T) {
	s := newSite(t)
	vma, oma := s.node("vma-1", cert.VMA), s.node("oma", cert.OMA)
	newer := s.start(link.Options{
		Certificates: oma, Listen: "127.0.0.1:0", Versions: link.Versions{Oldest: 2, Newest: 3},
	})
	for version, want := range map[link.Versions]uint32{
		{Oldest: 1, Newest: 2}: 2, {Oldest: 3, Newest: 4}: 3, {Oldest: 2, Newest: 3}: 3,
		{Oldest: 1, Newest: 1}: 0, {Oldest: 4, Newest: 5}: 0,
	} {
		l := s.start(link.Options{
			Certificates: vma, Peers: []link.Peer{{"oma", newer.Addr().String()}}, Versions: version,
		})
		if want == 0 {
			isDown(t, l, "oma", "node oma (vmferry test) speaks versions 2 to 3 of the link")
			isDown(t, newer, "vma-1", "this node 2 to 3")
			if n := status(newer, "vma-1").Refused["version"]; n == 0 {
				t.Error("a refused version is not counted")
			}
		} else if isUp(t, l, "oma"); status(l, "oma").Version != want {
			t.Errorf("%v speak version %d, want %d", version, status(l, "oma").Version, want)
		}
		_ = l.Close()
		isDown(t, newer, "vma-1", "")
	}
}

func TestTheSecondOfTwoNodesWithOneNameIsRefusedByName(t *testing.T) {
	s := newSite(t)
	oma := s.start(link.Options{Certificates: s.node("oma", cert.OMA), Listen: "127.0.0.1:0"})
	o := link.Options{
		Certificates: s.node("vma-1", cert.VMA), Peers: []link.Peer{{"oma", oma.Addr().String()}},
	}
	first := s.start(o)
	isUp(t, first, "oma")
	second := s.start(o)
	isDown(t, second, "oma", "another process is linked as node vma-1, from 127.0.0.1:")
	if st := status(first, "oma"); st.State != link.Up || len(st.Events) != 1 {
		t.Errorf("the first one has %+v", st)
	}
	if status(oma, "vma-1").Refused["name"] == 0 {
		t.Error("the refusal is not counted")
	}
	_ = first.Close()
	isUp(t, second, "oma")
}

func TestACertificateThatIsNotTheNodesIsRefused(t *testing.T) {
	s, other := newSite(t), newSite(t)
	s.node("oma", cert.OMA)
	s.node("vma-2", cert.VMA)
	if err := s.ca.Node("short", cert.VMA, s.folder("short"), 2*time.Second); err != nil {
		t.Fatal(err)
	}
	expires := s.open("short")
	eventually(t, func() string { return "it does not expire" },
		func() bool { return time.Now().After(expires.Self().NotAfter) })
	revoked := s.node("revoked", cert.VMA)
	if n, err := s.ca.Revoke("revoked"); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	copyFile(t, filepath.Join(s.dir, "ca", "revoked.pem"), filepath.Join(s.folder("oma"), "revoked.pem"))
	oma := s.start(link.Options{Certificates: s.open("oma"), Listen: "127.0.0.1:0"})
	at := oma.Addr().String()
	for name, c := range map[string]struct {
		node  *cert.Node
		peer  string
		cause string
		why   string
	}{
		"expired":              {expires, "oma", "", "has refused this node's certificate"},
		"of another authority": {other.node("vma-9", cert.VMA), "oma", "identity", "signed by unknown authority"},
		"revoked":              {revoked, "oma", "", "has refused this node's certificate"},
		"of the same role":     {s.node("oma-2", cert.OMA), "oma", "", "both of role oma"},
		"of the node itself":   {s.open("oma"), "oma", "", "is this node's own name"},
		"for another node":     {s.open("vma-2"), "oma-9", "identity", "is that of node oma, not of oma-9"},
	} {
		l := s.start(link.Options{Certificates: c.node, Peers: []link.Peer{{c.peer, at}}})
		isDown(t, l, c.peer, c.why)
		if c.cause != "" && status(l, c.peer).Refused[c.cause] == 0 {
			t.Errorf("%s: refused %v", name, status(l, c.peer).Refused)
		}
		_ = l.Close()
	}
	for _, p := range oma.Peers() {
		if p.State == link.Up || len(p.Events) > 0 {
			t.Errorf("%s was linked", p.Name)
		}
	}
	if oma.Refused()["identity"] == 0 {
		t.Error("what was refused is not counted")
	}
	// Without a certificate, and without TLS 1.3.
	for name, cfg := range map[string]*tls.Config{
		"no certificate": {InsecureSkipVerify: true, NextProtos: []string{link.Protocol}},
		"TLS 1.2":        {InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12, NextProtos: []string{link.Protocol}},
	} {
		c, err := tls.Dial("tcp", at, cfg)
		if err == nil {
			_, err = c.Read(make([]byte, 1))
		}
		if err == nil || err == io.EOF {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func copyFile(tb testing.TB, from, to string) {
	tb.Helper()
	b, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to+".new", b, 0o600)
	}
	if err == nil {
		err = os.Rename(to+".new", to)
	}
	if err != nil {
		tb.Fatal(err)
	}
}

func TestANodeThatIsNotNamedIsRefusedWherePeersAre(t *testing.T) {
	s := newSite(t)
	vma := s.start(link.Options{
		Certificates: s.node("vma-1", cert.VMA), Listen: "127.0.0.1:0", Peers: []link.Peer{{Name: "oma"}},
	})
	l := s.start(link.Options{
		Certificates: s.node("oma-2", cert.OMA), Peers: []link.Peer{{"vma-1", vma.Addr().String()}},
	})
	isDown(t, l, "vma-1", "node oma-2 is not one of link.peers")
	if st := status(vma, "oma"); st.State != link.Down || st.Reason != "not seen yet" {
		t.Errorf("the node that is waited for is %+v", st)
	}
}

func TestRevokingACertificateClosesTheLiveSession(t *testing.T) {
	s := newSite(t)
	oma := s.start(link.Options{Certificates: s.node("oma", cert.OMA), Listen: "127.0.0.1:0"})
	vma := s.start(link.Options{
		Certificates: s.node("vma-1", cert.VMA), Peers: []link.Peer{{"oma", oma.Addr().String()}},
	})
	isUp(t, vma, "oma")
	if _, err := s.ca.Revoke("vma-1"); err != nil {
		t.Fatal(err)
	}
	copyFile(t, filepath.Join(s.dir, "ca", "revoked.pem"), filepath.Join(s.folder("oma"), "revoked.pem"))
	isDown(t, oma, "vma-1", "the certificate of node vma-1 was revoked")
	isDown(t, vma, "oma", "has refused this node's certificate")
	// A new certificate of the same node is taken, without a restart of either side.
	if err := s.ca.Node("vma-1", cert.VMA, s.folder("vma-1"), time.Hour); err != nil {
		t.Fatal(err)
	}
	isUp(t, vma, "oma")
}

func TestARotatedCertificateIsTakenWithoutARestart(t *testing.T) {
	s := newSite(t)
	oma := s.start(link.Options{Certificates: s.node("oma", cert.OMA), Listen: "127.0.0.1:0"})
	network := newRelay(t, oma.Addr().String())
	vma := s.start(link.Options{
		Certificates: s.node("vma-1", cert.VMA), Peers: []link.Peer{{"oma", network.Addr().String()}},
	})
	isUp(t, vma, "oma")
	if err := s.ca.Node("oma", cert.OMA, s.folder("oma"), 3*time.Hour); err != nil {
		t.Fatal(err)
	}
	before := status(vma, "oma").Expires
	eventually(t, func() string { return "the new certificate is not in use" }, func() bool {
		network.set(false, true)
		wait(t.Context(), 300*time.Millisecond)
		st := status(vma, "oma")
		return st.State == link.Up && st.Expires.After(before)
	})
}

func TestAMessageThatThePolicyDoesNotAllowIsRefusedAndCounted(t *testing.T) {
	s := newSite(t)
	there := &box{}
	oma := s.start(link.Options{
		Certificates: s.node("oma", cert.OMA), Listen: "127.0.0.1:0", Policy: boxOf("actor.PID"),
		Receive: there.receive,
	})
	vma := s.start(link.Options{
		Certificates: s.node("vma-1", cert.VMA), Peers: []link.Peer{{"oma", oma.Addr().String()}},
	})
	isUp(t, vma, "oma")
	for _, target := range []string{"activator", "jobs", "future$1", "box2"} {
		_ = vma.Post("oma", target, wrapperspb.String("x"))
	}
	_ = vma.Post("oma", "box", wrapperspb.Bytes([]byte("x")))
	_ = vma.Latest("oma", "k", "box", wrapperspb.Int32(1))
	_ = vma.Post("oma", "box", foreignPID)
	_ = vma.Post("oma", "box", wrapperspb.String("good"))
	eventually(t, func() string { return "arrived: " + there.text() },
		func() bool { return there.text() == "vma-1:good" })
	eventually(t, func() string { return "a refused message is sent for ever" },
		func() bool { return status(vma, "oma").Waiting == 0 })
	eventually(t, func() string { return "not all are counted" }, func() bool {
		r := status(oma, "vma-1").Refused
		return r["target"] == 4 && r["type"] == 2 && r["pid"] == 1
	})
	if st := status(oma, "vma-1"); len(st.Events) != 1 {
		t.Errorf("a refused message has ended the session: %+v", st.Events)
	}
	if err := vma.Post("oma", "box", wrapperspb.String(strings.Repeat("x", 1<<20))); job.KindOf(err) != job.Invalid {
		t.Errorf("a large message: %v", err)
	}
	if err := vma.Post("vma-7", "box", wrapperspb.String("x")); job.KindOf(err) != job.NotFound {
		t.Errorf("a node that is not there: %v", err)
	}
}

func TestANodeJoinsOnceWithItsToken(t *testing.T) {
	s := newSite(t)
	oma := s.start(link.Options{Certificates: s.node("oma", cert.OMA), Listen: "127.0.0.1:0", Authority: s.ca})
	at := oma.Addr().String()
	token, err := s.ca.Token("vma-1", cert.VMA, time.Hour, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	id, err := cert.Join(t.Context(), at, token, s.folder("joined"))
	if err != nil || id.Name != "vma-1" || id.Role != cert.VMA {
		t.Fatalf("joined as %+v: %v", id, err)
	}
	vma := s.start(link.Options{Certificates: s.open("joined"), Peers: []link.Peer{{"oma", at}}})
	isUp(t, vma, "oma")

	if _, err := cert.Join(t.Context(), at, token, s.folder("again")); job.KindOf(err) != job.Auth {
		t.Errorf("the token was taken twice: %v", err)
	}
	late, _ := s.ca.Token("vma-2", cert.VMA, -time.Second, time.Hour)
	if _, err := cert.Join(t.Context(), at, late, s.folder("late")); job.KindOf(err) != job.Auth {
		t.Errorf("a token that has expired: %v", err)
	}
	foreign := newSite(t)
	other, _ := foreign.ca.Token("vma-3", cert.VMA, time.Hour, time.Hour)
	if _, err := cert.Join(t.Context(), at, other, s.folder("other")); job.KindOf(err) != job.Auth {
		t.Errorf("a token of another authority: %v", err)
	}
	if _, err := cert.Join(t.Context(), at, job.NewSecret("x"), s.folder("bad")); job.KindOf(err) != job.Invalid {
		t.Errorf("no token: %v", err)
	}
	if n := oma.Refused()["join"]; n < 2 {
		t.Errorf("%d refused joins are counted", n)
	}
}
