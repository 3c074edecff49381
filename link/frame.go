package link

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"google.golang.org/protobuf/proto"

	"github.com/vmferry/vmferry/link/cert"
	"github.com/vmferry/vmferry/link/wire"
)

// A frame on the stream is its length (4 bytes, most significant first), the version of frames (1 byte), and a
// wire.Frame. The length counts the version and the wire.Frame.
const frameHead = 4

// helloVersion is the version in the frames that come before both sides have agreed on one.
const helloVersion = 0

var errFrame = errors.New("not a frame of the link")

func badFrame(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errFrame, fmt.Sprintf(format, args...))
}

// encodeFrame returns the bytes of a frame.
func encodeFrame(version uint32, f *wire.Frame) ([]byte, error) {
	out := make([]byte, frameHead+1, frameHead+1+proto.Size(f))
	out[frameHead] = byte(version)
	out, err := proto.MarshalOptions{}.MarshalAppend(out, f)
	if err != nil {
		return nil, err
	}
	binary.BigEndian.PutUint32(out, uint32(len(out)-frameHead))
	return out, nil
}

// readFrame reads a frame of that version, or one that says Hello or refuses, which are of helloVersion. It uses no
// more memory than mostFrame and a small multiple of it. A frame that is not sound is an errFrame; after it nothing
// more can be read.
func readFrame(r io.Reader, version uint32) (*wire.Frame, error) {
	var head [frameHead]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n < 1 || n > mostFrame {
		return nil, badFrame("it has %d bytes", n)
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(r, body); err != nil {
		return nil, err
	}
	if got := uint32(body[0]); got != version && got != helloVersion {
		return nil, badFrame("it is of version %d, not %d", got, version)
	}
	f, err := decodeFrame(body[1:])
	if err == nil && (body[0] == helloVersion) != (f.GetHello() != nil || f.GetRefused() != nil) {
		return nil, badFrame("its version %d does not go with its kind", body[0])
	}
	return f, err
}

// closedChannel is always ready.
var closedChannel = func() chan struct{} { //nolint:gochecknoglobals // does not change
	c := make(chan struct{})
	close(c)
	return c
}()

// decodeFrame reads a wire.Frame and checks all its sizes. Fields that are not known are of a later version, and left
// out.
func decodeFrame(b []byte) (*wire.Frame, error) {
	f := &wire.Frame{}
	if err := (proto.UnmarshalOptions{DiscardUnknown: true, RecursionLimit: 8}).Unmarshal(b, f); err != nil {
		return nil, badFrame("%v", err)
	}
	var err error
	switch body := f.Body.(type) {
	case *wire.Frame_Hello:
		err = checkHello(body.Hello)
	case *wire.Frame_Refused:
		if len(body.Refused.Reason) > mostText || len(body.Refused.Next) > mostText {
			err = badFrame("a refusal of %d bytes", len(body.Refused.Reason)+len(body.Refused.Next))
		}
	case *wire.Frame_Ping, *wire.Frame_Pong:
	case *wire.Frame_Post:
		if body.Post.Id == 0 {
			err = badFrame("a message without id")
		} else {
			err = checkMessage(body.Post.Message)
		}
	case *wire.Frame_Ack:
		if n := len(body.Ack.Ids) + len(body.Ack.Refused); n == 0 || n > 2*mostPosts {
			err = badFrame("%d acknowledgements", n)
		}
	case *wire.Frame_Latest:
		if k := body.Latest.Key; k == "" || len(k) > mostName {
			err = badFrame("a key of %d bytes", len(k))
		} else {
			err = checkMessage(body.Latest.Message)
		}
	default:
		err = badFrame("it is of no known kind")
	}
	if err != nil {
		return nil, err
	}
	return f, nil
}

func checkHello(h *wire.Hello) error {
	switch {
	case cert.CheckName(h.Node) != nil:
		return badFrame("a node named %.80q", h.Node)
	case cert.CheckRole(h.Role) != nil:
		return badFrame("a role %.80q", h.Role)
	case h.Version < 1 || h.OldestVersion < 1 || h.OldestVersion > h.Version || h.Version > 255:
		return badFrame("versions %d to %d", h.OldestVersion, h.Version)
	case h.Incarnation == 0 || len(h.Program) > mostName:
		return badFrame("a Hello without incarnation, or with a version of %d bytes", len(h.Program))
	}
	return nil
}

// checkMessage checks the sizes of a message. What it asks for is the policy's business: see Policy.
func checkMessage(m *wire.Message) error {
	switch {
	case m == nil:
		return badFrame("no message")
	case m.Target == "" || len(m.Target) > mostName:
		return badFrame("a target of %d bytes", len(m.Target))
	case m.Type == "" || len(m.Type) > mostName:
		return badFrame("a type of %d bytes", len(m.Type))
	case len(m.Data) > mostMessage:
		return badFrame("a message of %d bytes", len(m.Data))
	}
	return nil
}
