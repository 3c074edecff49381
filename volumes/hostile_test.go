package volumes_test

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

const block = 64 << 10

// dialExport connects to an export and returns when it may be written to.
func dialExport(socket, export string) (net.Conn, error) {
	c, err := net.Dial("unix", socket)
	if err != nil {
		return nil, err
	}
	if err := handshake(c, export); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

func handshake(c net.Conn, export string) error {
	if _, err := io.ReadFull(c, make([]byte, 18)); err != nil {
		return err
	}
	// The client's flags, and the option GO with the name and no questions.
	b := binary.BigEndian.AppendUint32(nil, 3)
	b = append(b, "IHAVEOPT"...)
	b = binary.BigEndian.AppendUint32(b, 7)
	b = binary.BigEndian.AppendUint32(b, uint32(4+len(export)+2))
	b = binary.BigEndian.AppendUint32(b, uint32(len(export)))
	b = append(append(b, export...), 0, 0)
	if _, err := c.Write(b); err != nil {
		return err
	}
	for {
		head := make([]byte, 20)
		if _, err := io.ReadFull(c, head); err != nil {
			return err
		}
		if _, err := io.ReadFull(c, make([]byte, binary.BigEndian.Uint32(head[16:]))); err != nil {
			return err
		}
		switch kind := binary.BigEndian.Uint32(head[12:]); {
		case kind == 1:
			return nil
		case kind&0x80000000 != 0:
			return fmt.Errorf("the server refuses export %s: %#x", export, kind)
		}
	}
}

// request is one of the NBD protocol: 1 writes, 3 flushes.
func request(kind uint16, cookie uint64, off int64, data []byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, 0x25609513)
	b = binary.BigEndian.AppendUint16(b, 0)
	b = binary.BigEndian.AppendUint16(b, kind)
	b = binary.BigEndian.AppendUint64(b, cookie)
	b = binary.BigEndian.AppendUint64(b, uint64(off))
	b = binary.BigEndian.AppendUint32(b, uint32(len(data)))
	return append(b, data...)
}

// answer reads one, and says which request failed.
func answer(c net.Conn) error {
	b := make([]byte, 16)
	if _, err := io.ReadFull(c, b); err != nil {
		return err
	}
	if e := binary.BigEndian.Uint32(b[4:]); e != 0 {
		return fmt.Errorf("request %d failed: %d", binary.BigEndian.Uint64(b[8:]), e)
	}
	return nil
}

// filled is a block of an epoch.
func filled(epoch int64) []byte {
	b := make([]byte, 0, block)
	for len(b) < block {
		b = binary.BigEndian.AppendUint64(b, uint64(epoch))
	}
	return b
}

// writeAll writes every block of an export, and flushes.
func writeAll(socket, export string, epoch, size int64) error {
	c, err := dialExport(socket, export)
	if err != nil {
		return err
	}
	defer c.Close()
	data := filled(epoch)
	for off := int64(0); off < size; off += block {
		if _, err := c.Write(request(1, uint64(off), off, data)); err != nil {
			return err
		}
		if err := answer(c); err != nil {
			return err
		}
	}
	if _, err := c.Write(request(3, 1, 0, nil)); err != nil {
		return err
	}
	return answer(c)
}

// hostile writes the blocks of one epoch and never stops, whatever it is told: it sends without waiting for answers,
// and when a connection is lost it makes the next one, to all sockets that it knows of.
type hostile struct {
	export      string
	epoch, size int64
	mu          sync.Mutex
	sockets     []string
	sent, acked atomic.Int64
	refused     atomic.Int64 // connections, since the last one that stood
	stop        chan struct{}
	group       sync.WaitGroup
}

func newHostile(socket, export string, epoch, size int64, conns int) *hostile {
	h := &hostile{export: export, epoch: epoch, size: size, sockets: []string{socket}, stop: make(chan struct{})}
	for i := range conns {
		h.group.Go(func() { h.run(int64(i)) })
	}
	return h
}

// learn tells it of one more socket.
func (h *hostile) learn(socket string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.sockets = append(h.sockets, socket)
}

func (h *hostile) run(at int64) {
	data := filled(h.epoch)
	pause := time.NewTicker(time.Millisecond)
	defer pause.Stop()
	for n := 0; ; n++ {
		h.mu.Lock()
		socket := h.sockets[n%len(h.sockets)]
		h.mu.Unlock()
		c, err := dialExport(socket, h.export)
		if err == nil {
			h.refused.Store(0)
			h.flood(c, data, &at)
			c.Close()
		} else {
			h.refused.Add(1)
		}
		select {
		case <-h.stop:
			return
		case <-pause.C:
		}
	}
}

// flood sends until the connection is lost.
func (h *hostile) flood(c net.Conn, data []byte, at *int64) {
	over := make(chan struct{})
	var group sync.WaitGroup
	group.Go(func() {
		for answer(c) == nil {
			h.acked.Add(1)
		}
		c.Close()
		close(over)
	})
	group.Go(func() {
		select {
		case <-h.stop:
			c.Close()
		case <-over:
		}
	})
	for {
		*at = (*at + 7) % (h.size / block)
		if _, err := c.Write(request(1, uint64(*at), *at*block, data)); err != nil {
			break
		}
		h.sent.Add(1)
	}
	c.Close()
	group.Wait()
}

func (h *hostile) end() {
	close(h.stop)
	h.group.Wait()
}

// stale counts the blocks of a file that are not those of an epoch.
func stale(t *testing.T, path string, epoch int64) (n int) {
	t.Helper()
	b, err := os.ReadFile(path)
	check(t, err)
	for off := 0; off < len(b); off += 8 {
		if got := int64(binary.BigEndian.Uint64(b[off:])); got != epoch {
			t.Logf("at %d is the write of epoch %d", off, got)
			n++
			off = off/block*block + block - 8
		}
	}
	return n
}

// until waits for a condition, at most a minute.
func until(t *testing.T, what string, met func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(time.Minute); !met(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("waited a minute: %s", what)
		}
	}
}
