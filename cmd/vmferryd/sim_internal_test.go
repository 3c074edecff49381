package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vmferry/vmferry/cmd/internal/cli"
)

// rawImage is a disk of one MiB with one block of data.
func rawImage(t *testing.T) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "disk.raw")
	if err := os.WriteFile(name, append([]byte("first"), make([]byte, 1<<20-5)...), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// execute runs one command line.
func execute(ctx context.Context, out, words io.Writer, args ...string) int {
	s := cli.Streams{In: strings.NewReader(""), Out: out, Err: words, Getenv: func(string) string { return "" }}
	return cli.Execute(ctx, s, args, commands(s)...)
}

// startSim runs the command until stop. into gets what the command writes when it is ready.
func startSim(t *testing.T, into any, args ...string) (stop func() int) {
	t.Helper()
	r, w := io.Pipe()
	var words bytes.Buffer
	ctx, cancel := context.WithCancel(t.Context())
	code := make(chan int, 1)
	go func() {
		c := execute(ctx, w, &words, append([]string{"sim", "vcenter"}, args...)...)
		w.Close()
		code <- c
	}()
	if err := json.NewDecoder(r).Decode(into); err != nil {
		cancel()
		t.Fatalf("it ended with %d: %s", <-code, words.String())
	}
	go io.Copy(io.Discard, r)
	return func() int {
		cancel()
		return <-code
	}
}

func TestTheRehearsalVCenterWritesAllThatAJobNeedsAndCleansUp(t *testing.T) {
	image := rawImage(t)
	var ready simReady
	stop := startSim(t, &ready, "--vm", "web", "--disk", image, "--disk", rawImage(t), "--in-place", "--snapshot",
		"by hand", "-o", "json")
	if ready.VMPath != "/DC0/vm/web" || len(ready.Disks) != 2 || ready.Disks[0].Image != image ||
		ready.Disks[1].ID != "disk-2001" || ready.Ref == "" {
		t.Errorf("it says %+v", ready)
	}
	info, err := os.Stat(ready.PasswordFile)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("password file: %v, %v", info, err)
	}
	for _, key := range []string{
		"vcenter:", "url: \"" + ready.URL, "password_file: \"" + ready.PasswordFile,
		"thumbprint: \"" + ready.Thumbprint, "transport: curl",
	} {
		if !strings.Contains(ready.Config, key) {
			t.Errorf("%q is missing in\n%s", key, ready.Config)
		}
	}
	password, err := os.ReadFile(ready.PasswordFile)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, strings.TrimSuffix(ready.URL, "/sdk")+
		"/rehearsal/state", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	req.SetBasicAuth(ready.User, strings.TrimSpace(string(password)))
	client := &http.Client{Transport: &http.Transport{
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true},
		DisableKeepAlives: true,
	}}
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(res.Body)
	res.Body.Close()
	if err != nil || res.StatusCode != http.StatusOK || !strings.Contains(string(text), "by hand") {
		t.Errorf("state: %s, %v: %s", res.Status, err, text)
	}
	if code := stop(); code != cli.ExitOK {
		t.Errorf("exit code %d", code)
	}
	if _, err := os.Stat(ready.Dir); !os.IsNotExist(err) {
		t.Errorf("its directory is left: %v", err)
	}
	if got, err := os.ReadFile(image); err != nil || string(got[:5]) != "first" {
		t.Errorf("the image is damaged or gone: %v", err)
	}
}

func TestEachVMHasTheFlagsAfterItsName(t *testing.T) {
	images := []string{rawImage(t), rawImage(t), rawImage(t)}
	var ready simReady
	stop := startSim(t, &ready, "--disk", images[0], "--vm", "web", "--snapshot", "by hand", "--vm", "db", "--disk",
		images[1], "--disk", images[2], "--powered-off", "--in-place", "-o", "json")
	var got []string
	for _, vm := range ready.VMs {
		for _, d := range vm.Disks {
			got = append(got, vm.VM+" "+d.Image)
		}
	}
	if want := []string{"web " + images[0], "db " + images[1], "db " + images[2]}; !slices.Equal(got, want) ||
		ready.VM != "web" || len(ready.Disks) != 1 {
		t.Errorf("%q, want %q; the first is %q with %d disks", got, want, ready.VM, len(ready.Disks))
	}
	if code := stop(); code != cli.ExitOK {
		t.Errorf("exit code %d", code)
	}
}

func TestTheRehearsalVCenterRefusesWrongFlags(t *testing.T) {
	image := rawImage(t)
	for _, args := range [][]string{
		{"--vm", "web"},
		{"--disk", image},
		{"--vm", "web", "--disk", image + ".missing"},
		{"--vm", "a/b", "--disk", image},
		{"--vm", "web", "--disk", image, "--vm", "web", "--disk", image},
		{"--vm", "web", "--disk", image, "--vm", "db"},
		{"--vm", "web", "--disk", image, "--powered-off=perhaps"},
		{"--vm", "web", "--disk", image, "--password-file", "/nowhere/password"},
		{"--vm", "web", "--disk", image, "--listen", "nowhere"},
	} {
		var words bytes.Buffer
		code := execute(t.Context(), io.Discard, &words, append([]string{"sim", "vcenter"}, args...)...)
		if code != cli.ExitUsage || !strings.Contains(words.String(), "error:") {
			t.Errorf("%v: exit code %d: %s", args, code, words.String())
		}
	}
}
