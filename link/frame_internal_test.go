package link

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/vmferry/vmferry/link/wire"
)

func soundFrames() map[string]*wire.Frame {
	m := &wire.Message{Target: "jobs/a", Type: "google.protobuf.StringValue", Data: []byte{10, 1, 'x'}}
	return map[string]*wire.Frame{
		"hello": {Body: &wire.Frame_Hello{Hello: &wire.Hello{
			Node: "vma-1", Role: "vma", Incarnation: 7, Version: 2, OldestVersion: 1, Program: "1.0",
		}}},
		"refused": {Body: &wire.Frame_Refused{Refused: &wire.Refused{Reason: "why", Next: "do"}}},
		"ping":    {Body: &wire.Frame_Ping{Ping: &wire.Ping{Seq: 1}}},
		"pong":    {Body: &wire.Frame_Pong{Pong: &wire.Pong{Seq: 1}}},
		"post":    {Body: &wire.Frame_Post{Post: &wire.Post{Id: 1, Message: m}}},
		"ack":     {Body: &wire.Frame_Ack{Ack: &wire.Ack{Ids: []uint64{1, 2}, Refused: []uint64{3}}}},
		"latest":  {Body: &wire.Frame_Latest{Latest: &wire.Latest{Key: "disk", Message: m}}},
	}
}

func versionOf(f *wire.Frame) uint32 {
	if f.GetHello() != nil || f.GetRefused() != nil {
		return helloVersion
	}
	return 1
}

func TestAFrameIsReadAsItWasWritten(t *testing.T) {
	for name, f := range soundFrames() {
		b, err := encodeFrame(versionOf(f), f)
		if err != nil {
			t.Fatal(err)
		}
		got, err := readFrame(bytes.NewReader(b), 1)
		if err != nil || !proto.Equal(got, f) {
			t.Errorf("%s is read as %v: %v", name, got, err)
		}
		if _, err := readFrame(bytes.NewReader(b[:len(b)-1]), 1); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%s without its last byte: %v", name, err)
		}
	}
}

func TestAFrameThatIsNotSoundIsRefused(t *testing.T) {
	long := strings.Repeat("x", mostName+1)
	message := func(target, kind string, n int) *wire.Message {
		return &wire.Message{Target: target, Type: kind, Data: make([]byte, n)}
	}
	post := func(id uint64, m *wire.Message) *wire.Frame {
		return &wire.Frame{Body: &wire.Frame_Post{Post: &wire.Post{Id: id, Message: m}}}
	}
	hello := func(change func(*wire.Hello)) *wire.Frame {
		h := proto.CloneOf(soundFrames()["hello"].GetHello())
		change(h)
		return &wire.Frame{Body: &wire.Frame_Hello{Hello: h}}
	}
	for name, f := range map[string]*wire.Frame{
		"of no kind":            {},
		"without id":            post(0, message("a", "b", 1)),
		"without message":       post(1, nil),
		"without target":        post(1, message("", "b", 1)),
		"with a long target":    post(1, message(long, "b", 1)),
		"with a long type":      post(1, message("a", long, 1)),
		"with a large message":  post(1, message("a", "b", mostMessage+1)),
		"without key":           {Body: &wire.Frame_Latest{Latest: &wire.Latest{Message: message("a", "b", 1)}}},
		"without ids":           {Body: &wire.Frame_Ack{Ack: &wire.Ack{}}},
		"with many ids":         {Body: &wire.Frame_Ack{Ack: &wire.Ack{Ids: make([]uint64, 2*mostPosts+1)}}},
		"of a nameless node":    hello(func(h *wire.Hello) { h.Node = "" }),
		"of a node with a path": hello(func(h *wire.Hello) { h.Node = "../x" }),
		"of no role":            hello(func(h *wire.Hello) { h.Role = "root" }),
		"of version 0":          hello(func(h *wire.Hello) { h.OldestVersion = 0 }),
		"of version 256":        hello(func(h *wire.Hello) { h.Version = 256 }),
		"of versions backwards": hello(func(h *wire.Hello) { h.OldestVersion = 3 }),
	} {
		b, err := encodeFrame(versionOf(f), f)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := readFrame(bytes.NewReader(b), 1); !errors.Is(err, errFrame) {
			t.Errorf("a frame %s is read as %v: %v", name, got, err)
		}
	}
	ping, _ := encodeFrame(2, soundFrames()["ping"])
	if _, err := readFrame(bytes.NewReader(ping), 1); !errors.Is(err, errFrame) {
		t.Errorf("a frame of another version: %v", err)
	}
	ping[frameHead] = helloVersion
	if _, err := readFrame(bytes.NewReader(ping), 1); !errors.Is(err, errFrame) {
		t.Errorf("a ping of the version of Hello: %v", err)
	}
	for _, n := range []uint32{0, mostFrame + 1, 1 << 31} {
		head := binary.BigEndian.AppendUint32(nil, n)
		if _, err := readFrame(bytes.NewReader(head), 1); !errors.Is(err, errFrame) {
			t.Errorf("a frame of %d bytes: %v", n, err)
		}
	}
}

func TestFieldsOfALaterVersionAreLeftOut(t *testing.T) {
	f := soundFrames()["ping"]
	b, _ := encodeFrame(1, f)
	b = append(b, 0x98, 0x06, 0x01) // field 99
	binary.BigEndian.PutUint32(b, uint32(len(b)-frameHead))
	if got, err := readFrame(bytes.NewReader(b), 1); err != nil || !proto.Equal(got, f) {
		t.Errorf("read as %v: %v", got, err)
	}
}

// FuzzFrame reads whatever a peer may send: no panic, no memory beyond the frame, and what is sound is written and read
// again as the same.
func FuzzFrame(f *testing.F) {
	for _, frame := range soundFrames() {
		b, err := encodeFrame(versionOf(frame), frame)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 1})
	f.Add([]byte{0, 0, 0, 1, 1})
	policy := Policy{Rules: []Rule{{Target: "jobs/*", Types: []string{"actor.PID", "google.protobuf.StringValue"}}}}
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := readFrame(bytes.NewReader(b), 1)
		if err != nil {
			return
		}
		again, err := encodeFrame(versionOf(got), got)
		if err != nil {
			t.Fatal(err)
		}
		twice, err := readFrame(bytes.NewReader(again), 1)
		if err != nil || !proto.Equal(got, twice) {
			t.Fatalf("read again as %v: %v", twice, err)
		}
		for _, m := range []*wire.Message{got.GetPost().GetMessage(), got.GetLatest().GetMessage()} {
			if m != nil {
				_, _ = policy.decode("oma", "vma-1", m.Target, m.Type, m.Data)
			}
		}
	})
}
