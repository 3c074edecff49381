package link

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vmferry/vmferry/link/cert"
	"github.com/vmferry/vmferry/link/wire"
)

// half is one side of a control stream in virtual time.
type half struct {
	*control
	out    *outbox
	in     *inbox
	ups    atomic.Int32
	err    error
	gone   chan struct{}
	mu     sync.Mutex
	got    []string
	latest map[string]string
}

func (h *half) handle(f *wire.Frame) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch b := f.Body.(type) {
	case *wire.Frame_Post:
		fresh, err := h.in.take(b.Post.Id)
		if fresh {
			h.got = append(h.got, string(b.Post.Message.Data))
			h.in.finish(h.hello.Incarnation, b.Post.Id, done)
		}
		return err
	case *wire.Frame_Latest:
		h.latest[b.Latest.Key] = string(b.Latest.Message.Data)
	case *wire.Frame_Ack:
		h.out.acked(b.Ack.Ids)
	}
	return nil
}

func (h *half) start(ctx context.Context, stream net.Conn, name string) {
	h.control = newControl(stream, func() { stream.Close() }, cert.Identity{Name: name},
		&wire.Hello{Node: name, Incarnation: 1}, 1)
	h.in.begin(1)
	h.gone = make(chan struct{})
	go func() {
		defer close(h.gone)
		h.err = h.run(ctx, h.out, h.in, func() { h.ups.Add(1) }, h.handle, func() error { return nil })
	}()
}

func newHalf() *half {
	return &half{out: newOutbox("peer"), in: newInbox(), latest: map[string]string{}}
}

// cutConn loses what is written while it is cut, and reads nothing: a network that is gone without a word.
type cutConn struct {
	net.Conn
	cut *atomic.Bool
}

func (c cutConn) Write(b []byte) (int, error) {
	if c.cut.Load() {
		return len(b), nil
	}
	return c.Conn.Write(b)
}

func TestAPeerThatIsCutOffIsDownWithinThreeSecondsOnBothSides(t *testing.T) {
	for name, both := range map[string]bool{"both ways": true, "one way": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var ab, ba atomic.Bool
				x, y := net.Pipe()
				a, b := newHalf(), newHalf()
				a.start(t.Context(), cutConn{x, &ab}, "b")
				b.start(t.Context(), cutConn{y, &ba}, "a")
				time.Sleep(10 * time.Minute)
				if a.ups.Load() != 1 || b.ups.Load() != 1 || a.trip.Load() == 0 {
					t.Fatalf("up %d and %d times, round trip %d", a.ups.Load(), b.ups.Load(), a.trip.Load())
				}
				began := time.Now()
				ab.Store(true)
				ba.Store(both)
				<-a.gone
				<-b.gone
				if d := time.Since(began); d > 3*time.Second || d < time.Second {
					t.Errorf("down after %v: %v, %v", d, a.err, b.err)
				}
				// The first one to notice closes, which the other one may see.
				if why := errors.Join(a.err, b.err).Error(); !strings.Contains(why, "was not heard for 2") {
					t.Errorf("the reasons are %s", why)
				}
			})
		})
	}
}

func TestAFrozenPeerIsDownWithinThreeSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x, y := net.Pipe()
		a := newHalf()
		a.start(t.Context(), x, "b")
		go func() { // says one ping, and reads no more
			_ = send(y, 1, &wire.Frame{Body: &wire.Frame_Ping{Ping: &wire.Ping{Seq: 1}}})
		}()
		began := time.Now()
		<-a.gone
		if d := time.Since(began); d > 3*time.Second {
			t.Errorf("down after %v: %v", d, a.err)
		}
		y.Close()
	})
}

func TestACertificateThatIsRevokedEndsASession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x, y := net.Pipe()
		a, b := newHalf(), newHalf()
		revoked := errors.New("revoked")
		var bad atomic.Bool
		b.start(t.Context(), y, "a")
		a.control = newControl(x, func() { x.Close() }, cert.Identity{Name: "b"}, &wire.Hello{Incarnation: 1}, 1)
		a.in.begin(1)
		over := make(chan error)
		go func() {
			over <- a.run(t.Context(), a.out, a.in, func() {}, a.handle, func() error {
				if bad.Load() {
					return revoked
				}
				return nil
			})
		}()
		time.Sleep(time.Minute)
		bad.Store(true)
		began := time.Now()
		if err := <-over; !errors.Is(err, revoked) || time.Since(began) > watchEvery {
			t.Errorf("over after %v: %v", time.Since(began), err)
		}
		<-b.gone
	})
}

// TestWhatIsSentOverCutsArrivesOnce posts and reports for minutes over a link that is cut again and again.
func TestWhatIsSentOverCutsArrivesOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newHalf(), newHalf()
		stop := make(chan struct{})
		var sent []string
		go func() {
			defer close(stop)
			for i := range 400 {
				sent = append(sent, fmt.Sprint(i))
				if err := a.out.post(text(sent[i])); err != nil {
					t.Error(err)
				}
				_ = a.out.latest("disk", text(sent[i]))
				time.Sleep(300 * time.Millisecond)
			}
		}()
		sessions := 0
		for over := false; !over; sessions++ {
			var cut atomic.Bool
			x, y := net.Pipe()
			a.start(t.Context(), cutConn{x, &cut}, "b")
			b.start(t.Context(), cutConn{y, &cut}, "a")
			select {
			case <-time.After(4 * time.Second):
				cut.Store(true)
			case <-stop:
				time.Sleep(5 * time.Second)
				over = true
				x.Close()
			}
			<-a.gone
			<-b.gone
		}
		if sessions < 5 || strings.Join(b.got, " ") != strings.Join(sent, " ") || a.out.waiting() != 0 {
			t.Errorf("%d sessions: sent %d, arrived %v, %d wait", sessions, len(sent), b.got, a.out.waiting())
		}
		if b.latest["disk"] != sent[len(sent)-1] {
			t.Errorf("the last report is %q", b.latest["disk"])
		}
	})
}

// TestReportsWaitForASlowLink sends reports faster than the peer reads them.
func TestReportsWaitForASlowLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x, y := net.Pipe()
		a, b := newHalf(), newHalf()
		a.start(t.Context(), x, "b")
		b.start(t.Context(), slowConn{y}, "a")
		for i := range 1000 {
			for _, key := range []string{"x", "y", "z"} {
				_ = a.out.latest(key, text(fmt.Sprint(i)))
			}
			time.Sleep(10 * time.Millisecond)
		}
		time.Sleep(2 * time.Second)
		x.Close()
		<-a.gone
		<-b.gone
		for key, last := range b.latest {
			if last != "999" {
				t.Errorf("the last report of %s is %s", key, last)
			}
		}
		if len(b.latest) != 3 {
			t.Errorf("there are reports of %v", b.latest)
		}
	})
}

type slowConn struct{ net.Conn }

func (c slowConn) Read(b []byte) (int, error) {
	time.Sleep(50 * time.Millisecond)
	return c.Conn.Read(b)
}
