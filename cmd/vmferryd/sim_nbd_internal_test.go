package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vmferry/vmferry/cmd/internal/cli"
	nbdsim "github.com/vmferry/vmferry/nbd/sim"
)

func TestTheSimulatedNBDServerTakesOrders(t *testing.T) {
	dir, err := os.MkdirTemp("", "vf") //nolint:usetesting // the path of a socket must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	control := filepath.Join(dir, "c")
	r, w := io.Pipe()
	var words bytes.Buffer
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	code := make(chan int, 1)
	go func() {
		code <- execute(ctx, w, &words, "sim", "nbd", "--memory", "1MiB", "--volatile", "--control", control,
			"--fault", "late=1ms,op=read", "-o", "json")
		w.Close()
	}()
	var ready simNBDReady
	if err := json.NewDecoder(r).Decode(&ready); err != nil {
		t.Fatal(err)
	}
	go io.Copy(io.Discard, r)
	if !strings.HasPrefix(ready.URI, "nbd://127.0.0.1:") || ready.Size != 1<<20 || ready.Control != control ||
		ready.PID != os.Getpid() || len(ready.Faults) != 1 {
		t.Errorf("it says %+v", ready)
	}
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", control)
		},
	}}
	order := func(method, path, body string) (st nbdsim.State) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, "http://sim"+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		res, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		if err := json.NewDecoder(res.Body).Decode(&st); err != nil {
			t.Fatal(err)
		}
		return st
	}
	if st := order(http.MethodPost, "/rehearsal/fault",
		`{"faults":["garbage","stall,after=3"]}`); len(st.Faults) != 2 || st.URI != ready.URI {
		t.Errorf("after an order: %+v", st)
	}
	if st := order(http.MethodPost, "/rehearsal/crash", ""); st.Crashes != 1 {
		t.Errorf("after a crash: %+v", st)
	}
	if st := order(http.MethodDelete, "/rehearsal/fault", ""); len(st.Faults) != 0 {
		t.Errorf("after all is forgotten: %+v", st)
	}
	cancel()
	if c := <-code; c != cli.ExitOK || !strings.Contains(words.String(), "0 connections") {
		t.Errorf("exit code %d: %s", c, words.String())
	}
	if _, err := os.Stat(control); !os.IsNotExist(err) {
		t.Errorf("its socket is left: %v", err)
	}
}
