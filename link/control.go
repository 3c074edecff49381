package link

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/yamux"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/link/cert"
	"github.com/vmferry/vmferry/link/wire"
)

// control is one session with a peer: what is said on its control stream. The session is up from the first frame after
// Hello on, and over when the stream is closed.
type control struct {
	stream  net.Conn
	close   func()        // closes the stream and all under it; may be called more than once
	id      cert.Identity // of the peer, from its certificate
	hello   *wire.Hello   // of the peer
	version uint32        // of frames
	dialled bool          // by this node
	remote  string        // address of the peer

	began   time.Time
	heard   atomic.Int64   // nanoseconds from began to the last frame
	trip    atomic.Int64   // the last round trip, nanoseconds; 0 for none yet
	pong    chan uint64    // the ping to answer; the newest wins
	mux     *yamux.Session // under the control stream; nil in tests of the control stream alone
	answer  uint64         // the writer's: the ping to answer; 0 for none
	pingSeq atomic.Uint64  // of the last ping
	pinged  atomic.Int64   // when it was sent, nanoseconds from began

	mu    sync.Mutex
	cause error // why it is over; the first one counts
}

// exchange says Hello and reads the peer's. Both sides may do so at the same time.
func exchange(stream net.Conn, ours *wire.Hello) (*wire.Hello, error) {
	if err := stream.SetDeadline(time.Now().Add(helloTime)); err != nil {
		return nil, err
	}
	sent := make(chan error, 1)
	go func() { sent <- send(stream, helloVersion, &wire.Frame{Body: &wire.Frame_Hello{Hello: ours}}) }()
	f, err := readFrame(stream, helloVersion)
	if err != nil {
		return nil, errors.Join(err, stream.Close(), <-sent)
	}
	if err := <-sent; err != nil {
		return nil, err
	}
	if f.GetHello() == nil {
		return nil, badFrame("the first frame is no Hello")
	}
	return f.GetHello(), stream.SetDeadline(time.Time{})
}

func send(w io.Writer, version uint32, f *wire.Frame) error {
	b, err := encodeFrame(version, f)
	if err != nil {
		return err
	}
	_, err = w.Write(b)
	return err
}

// refuseTo tells the peer why the link is refused, and waits until it has closed its end or refused as well.
func refuseTo(stream net.Conn, reason error) {
	if stream.SetDeadline(time.Now().Add(helloTime)) != nil {
		return
	}
	text := func(s string) string { return s[:min(len(s), mostText)] }
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		_ = send(stream, helloVersion, &wire.Frame{Body: &wire.Frame_Refused{Refused: &wire.Refused{
			Reason: text(reason.Error()), Next: text(job.NextOf(reason)),
		}}})
	}()
	for {
		f, err := readFrame(stream, helloVersion)
		if f.GetRefused() != nil || err != nil && !errors.Is(err, errFrame) {
			break
		}
	}
	<-sent
}

// errRefused is the error of a peer that has refused the link.
var errRefused = errors.New("the peer has refused the link")

func newControl(stream net.Conn, closeAll func(), id cert.Identity, hello *wire.Hello, version uint32) *control {
	return &control{
		stream: stream, close: closeAll, id: id, hello: hello, version: version, began: time.Now(),
		pong: make(chan uint64, 1),
	}
}

// end closes the session for a reason.
func (c *control) end(cause error) {
	c.mu.Lock()
	if c.cause == nil {
		c.cause = cause
	}
	c.mu.Unlock()
	c.close()
}

// silent is how long the peer was not heard.
func (c *control) silent() time.Duration { return time.Since(c.began) - time.Duration(c.heard.Load()) }

// run keeps the session until it is over, and returns why. up is called once, when the peer has taken the session. All
// frames of the peer go to handle, whose errors end the session. check is called again and again; its errors end the
// session as well. run returns when nothing of the session runs any more.
func (c *control) run(ctx context.Context, o *outbox, i *inbox, up func(), handle func(*wire.Frame) error,
	check func() error,
) error {
	var all sync.WaitGroup
	over := make(chan struct{})
	all.Go(func() { c.end(c.write(over, o, i)) })
	all.Go(func() { c.end(c.watch(ctx, over, check)) })
	c.end(c.read(up, handle))
	close(over)
	all.Wait()
	return c.cause
}

func (c *control) read(up func(), handle func(*wire.Frame) error) error {
	for first := true; ; first = false {
		f, err := c.readFrame()
		if err != nil {
			return err
		}
		c.heard.Store(int64(time.Since(c.began)))
		if r := f.GetRefused(); r != nil {
			return job.Errorf("link with "+c.id.Name, job.Conflict, r.Next, "%w: %s", errRefused, r.Reason)
		}
		if first {
			up()
		}
		switch body := f.Body.(type) {
		case *wire.Frame_Ping:
			select {
			case <-c.pong: // only the newest is answered
			default:
			}
			c.pong <- body.Ping.Seq
		case *wire.Frame_Pong:
			if body.Pong.Seq == c.pingSeq.Load() {
				c.trip.Store(max(1, int64(time.Since(c.began))-c.pinged.Load()))
			}
		default:
			if err := handle(f); err != nil {
				return err
			}
		}
	}
}

// readFrame reads a frame of this session. The peer can still refuse the session, with a frame of helloVersion.
func (c *control) readFrame() (*wire.Frame, error) {
	f, err := readFrame(c.stream, c.version)
	if f.GetHello() != nil {
		return nil, badFrame("a second Hello")
	}
	return f, err
}

// write sends what is to be sent, until the session is over.
func (c *control) write(over <-chan struct{}, o *outbox, i *inbox) error {
	tick := time.NewTicker(pingEvery)
	defer tick.Stop()
	var at mark
	for due := true; ; {
		changed := o.wait()
		f, then := c.next(&due, i, o, at)
		if f != nil {
			if err := c.send(f); err != nil {
				return err
			}
			at, changed = then, closedChannel
		}
		select {
		case <-over:
			return nil
		case <-tick.C:
			due = true
		case seq := <-c.pong:
			c.answer = seq
		case <-changed:
		case <-i.changed:
		}
	}
}

// next is the next frame, and the mark after it; nil for none. What keeps the link alive comes first.
func (c *control) next(due *bool, i *inbox, o *outbox, at mark) (*wire.Frame, mark) {
	if c.answer != 0 {
		f := &wire.Frame{Body: &wire.Frame_Pong{Pong: &wire.Pong{Seq: c.answer}}}
		c.answer = 0
		return f, at
	}
	if *due {
		*due = false
		c.pinged.Store(int64(time.Since(c.began)))
		return &wire.Frame{Body: &wire.Frame_Ping{Ping: &wire.Ping{Seq: c.pingSeq.Add(1)}}}, at
	}
	if ids, no := i.takeAcks(); len(ids)+len(no) > 0 {
		return &wire.Frame{Body: &wire.Frame_Ack{Ack: &wire.Ack{Ids: ids, Refused: no}}}, at
	}
	return o.next(at)
}

func (c *control) send(f *wire.Frame) error {
	if err := c.stream.SetWriteDeadline(time.Now().Add(writeTime)); err != nil {
		return err
	}
	return send(c.stream, c.version, f)
}

// watch ends a session whose peer is not heard, or whose certificate is of no use any more.
func (c *control) watch(ctx context.Context, over <-chan struct{}, check func() error) error {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		select {
		case <-over:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
		if d := c.silent(); d > silence {
			return fmt.Errorf("node %s was not heard for %.1f s", c.id.Name, d.Seconds())
		}
		if err := check(); err != nil {
			return err
		}
	}
}
