package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"

	"github.com/vmferry/vmferry/cmd/internal/cli"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"vmferry": main})
}

// TestStories runs command lines of users, one file for each story.
func TestStories(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/stories",
		RequireExplicitExec: true,
		Setup:               storySetup,
		Condition:           missing,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits":      storyExits,
			"await":      storyAwait,
			"eventually": storyEventually,
			"configure": func(ts *testscript.TestScript, _ bool, args []string) {
				var ready struct {
					Config string `json:"config"`
				}
				ts.Check(json.Unmarshal([]byte(ts.ReadFile(args[0])), &ready))
				ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(ready.Config), 0o600))
			},
		},
	})
}

// storySetup gives each story a folder S with a short path, as sockets need, the address of a daemon in it, and a PORT
// on 127.0.0.1 that was free.
func storySetup(e *testscript.Env) error {
	dir, err := os.MkdirTemp("", "vf")
	if err != nil {
		return err
	}
	e.Defer(func() { _ = os.RemoveAll(dir) })
	free, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	_, port, _ := net.SplitHostPort(free.Addr().String())
	if err := free.Close(); err != nil {
		return err
	}
	e.Setenv("PORT", port)
	e.Setenv("S", dir)
	e.Setenv("VMFERRY_SERVER", "unix:"+dir+"/d.sock")
	e.Setenv("VMFERRY_STATE_DIR", dir+"/s")
	e.Setenv("VMFERRY_LISTEN", "unix:"+dir+"/d.sock")
	return nil
}

// missing is the condition [missing:PROGRAM]. In CI a missing program is an error.
func missing(cond string) (bool, error) {
	program, ok := strings.CutPrefix(cond, "missing:")
	if !ok {
		return false, fmt.Errorf("unknown condition %q", cond)
	}
	_, err := exec.LookPath(program)
	if err != nil && os.Getenv("CI") == "true" {
		return false, fmt.Errorf("%s is not installed", program)
	}
	return err != nil, nil
}

// storyExits is "exits CODE program args...": the program must end with exactly that code.
func storyExits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE program args...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

// storyAwait is "await FILE": waits until a file has content or a socket answers.
func storyAwait(ts *testscript.TestScript, _ bool, args []string) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		info, err := os.Stat(ts.MkAbs(args[0]))
		if err == nil && info.Mode().IsRegular() && info.Size() > 0 {
			return
		}
		if err == nil && info.Mode().Type() == os.ModeSocket {
			if c, err := (&net.Dialer{}).DialContext(ctx, "unix", ts.MkAbs(args[0])); err == nil {
				_ = c.Close()
				return
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			ts.Fatalf("%s is not there after 20 s", args[0])
		}
	}
}

// storyEventually is "eventually PATTERN program args...": repeats a command until it succeeds and its output matches.
func storyEventually(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: eventually PATTERN program args...")
	}
	pattern, err := regexp.Compile("(?m)" + args[0])
	ts.Check(err)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		if err := ts.Exec(args[1], args[2:]...); err == nil && pattern.MatchString(ts.ReadFile("stdout")) {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			ts.Fatalf("the output did not match within 20 s")
		}
	}
}

func TestEveryCommandTeaches(t *testing.T) {
	s := cli.Streams{Getenv: func(string) string { return "" }}
	root := cli.NewRoot(s, commands(s)...)
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		if silent, group := c.Short == "" || c.Example == "" || c.Long == "", c.HasSubCommands() &&
			c.HasParent(); silent && !group {
			t.Errorf("%s lacks a sentence, an explanation or an example", c.CommandPath())
		}
		if c.Args == nil {
			t.Errorf("%s does not say which arguments it takes", c.CommandPath())
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(root)
}
