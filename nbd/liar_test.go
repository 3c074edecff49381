package nbd_test

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"path/filepath"
	"testing"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/nbd"
	"github.com/vmferry/vmferry/volumes/copytest"
)

// liar is an NBD server of one export of 1 MiB. It negotiates structured replies, and answers each read with answer.
func liar(t *testing.T, answer func(handle []byte, off uint64, n uint32) []byte) string {
	t.Helper()
	socket := filepath.Join(shortDir(t), "s")
	l, err := net.Listen("unix", socket)
	check(t, err)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			lie(c, answer)
			c.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-ended })
	return "nbd+unix:///?socket=" + socket
}

// lie speaks the part of the protocol that a client needs to begin.
func lie(c net.Conn, answer func(handle []byte, off uint64, n uint32) []byte) {
	c.Write(append([]byte("NBDMAGICIHAVEOPT"), 0, 3))
	io.ReadFull(c, make([]byte, 4))
	for {
		head := make([]byte, 16)
		if _, err := io.ReadFull(c, head); err != nil {
			return
		}
		option := binary.BigEndian.Uint32(head[8:])
		io.ReadFull(c, make([]byte, binary.BigEndian.Uint32(head[12:])))
		reply := func(kind uint32, payload []byte) {
			b := binary.BigEndian.AppendUint64(nil, 0x3e889045565a9)
			b = binary.BigEndian.AppendUint32(b, option)
			b = binary.BigEndian.AppendUint32(b, kind)
			b = binary.BigEndian.AppendUint32(b, uint32(len(payload)))
			c.Write(append(b, payload...))
		}
		switch option {
		case 8: // structured replies
			reply(1, nil)
		case 7: // go
			info := binary.BigEndian.AppendUint64([]byte{0, 0}, mib)
			reply(3, append(info, 1, 3)) // flags: has flags, read-only, multi-conn
			reply(1, nil)
			serveLies(c, answer)
			return
		default:
			reply(1<<31|1, nil)
		}
	}
}

// serveLies answers reads until another request comes.
func serveLies(c net.Conn, answer func(handle []byte, off uint64, n uint32) []byte) {
	for {
		request := make([]byte, 28)
		if _, err := io.ReadFull(c, request); err != nil || binary.BigEndian.Uint16(request[6:]) != 0 {
			return
		}
		c.Write(answer(request[8:16], binary.BigEndian.Uint64(request[16:]), binary.BigEndian.Uint32(request[24:])))
	}
}

// chunk is one chunk of a structured reply.
func chunk(handle []byte, flags, kind uint16, payload []byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, 0x668e33ef)
	b = binary.BigEndian.AppendUint16(b, flags)
	b = binary.BigEndian.AppendUint16(b, kind)
	b = append(b, handle...)
	b = binary.BigEndian.AppendUint32(b, uint32(len(payload)))
	return append(b, payload...)
}

func TestAServerThatLiesIsNotBelieved(t *testing.T) {
	const done, none, data = 1, 0, 1
	place := func(off uint64, b []byte) []byte { return append(binary.BigEndian.AppendUint64(nil, off), b...) }
	tests := map[string]func(handle []byte, off uint64, n uint32) []byte{
		"done without data": func(h []byte, _ uint64, _ uint32) []byte { return chunk(h, done, none, nil) },
		"half of the data": func(h []byte, off uint64, n uint32) []byte {
			return chunk(h, done, data, place(off, make([]byte, n/2)))
		},
		"data of another place": func(h []byte, off uint64, n uint32) []byte {
			return chunk(h, done, data, place(off+1<<30, make([]byte, n)))
		},
		"answer without a request": func(_ []byte, _ uint64, _ uint32) []byte {
			return chunk(make([]byte, 8), done, none, nil)
		},
		"garbage": func(_ []byte, _ uint64, _ uint32) []byte { return make([]byte, 64) },
		"more than was asked": func(h []byte, off uint64, n uint32) []byte {
			return chunk(h, done, data, place(off, make([]byte, n+1)))
		},
		"the end of the session": func(_ []byte, _ uint64, _ uint32) []byte { return nil },
	}
	for name, answer := range tests {
		t.Run(name, func(t *testing.T) {
			var m nbd.Meter
			_, err := copytest.Copy(t.Context(), nbd.Task{
				Source: liar(t, answer), Target: copytest.Onto(dirty(t, mib)),
				Deadline:    1e9,
				Connections: 1,
			}, &m)
			if err == nil {
				t.Fatal("the copy succeeded")
			}
			if !job.KindOf(err).Retryable() && job.KindOf(err) != job.Invalid && job.KindOf(err) != job.Internal {
				t.Errorf("kind %q: %v", job.KindOf(err), err)
			}
			if got := m.Counters().Done(); got != 0 {
				t.Errorf("%d bytes are counted as done", got)
			}
			t.Log(job.KindOf(err), err, errors.Unwrap(err))
		})
	}
}
