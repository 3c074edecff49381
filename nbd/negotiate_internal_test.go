package nbd

import (
	"os"
	"os/exec"
	"testing"
	"time"
)

// On a busy machine the server can answer so soon that libnbd has negotiated all before it returns for the first time.
func TestAConnectionThatWasReadyAtOnceHearsItsServer(t *testing.T) {
	if _, err := exec.LookPath("nbdkit"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	h, err := newHandle("nbd://localhost", TLS{})
	if err != nil {
		t.Fatal(err)
	}
	if err := h.ConnectCommand([]string{"nbdkit", "-s", "--exit-with-parent", "memory", "1M"}); err != nil {
		t.Fatal(err)
	}
	c := &nbdConn{h: h, fd: -1, inFlight: map[uint64]*request{}, context: -1}
	defer func() { <-c.close(time.Minute) }()
	w, err := newWake()
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()
	if err := c.negotiate(t.Context(), w, time.Minute); err != nil {
		t.Fatal(err)
	}
	mem, err := newArena(4096)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = mem.free() }()
	c.start(&request{op: opRead, n: 4096, buf: mem.take(4096)})
	if moved, err := pollOne(c, w, time.Minute); err != nil || !moved {
		t.Fatalf("the answer was not heard: %v", err)
	}
}
