package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	peakEvery  = 20 * time.Millisecond // between looks at a process's peak memory
	peakMargin = 1 << 10               // KiB by which two ways of counting a peak may differ
	killedFor  = 5 * time.Second       // for pipes of a process that was killed
	shownWords = 300                   // bytes of what a failed tool said last
)

// sample is what one pass took.
type sample struct {
	wall   float64 // seconds, from the start of the first process to the end of the last
	client float64 // CPU seconds of all client processes
	server float64 // CPU seconds of the servers meanwhile
	peak   float64 // MiB of memory, the sum of the processes' peaks
}

// running is one client process.
type running struct {
	cmd   *exec.Cmd
	words bytes.Buffer  // its stderr
	stop  chan struct{} // ends the watch
	seen  chan int64    // KiB, the last peak that the watch saw
}

// together starts the commands at once and measures until the last has ended.
func together(ctx context.Context, commands [][]string) (sample, error) {
	clients := make([]*running, len(commands))
	began := time.Now()
	var errs []error
	for i, argv := range commands {
		c, err := startClient(ctx, argv)
		if err != nil {
			errs = append(errs, err)
			break
		}
		clients[i] = c
	}
	var s sample
	for _, c := range clients {
		if c != nil {
			errs = append(errs, c.wait())
		}
	}
	s.wall = time.Since(began).Seconds()
	if err := errors.Join(errs...); err != nil {
		return s, err
	}
	for _, c := range clients {
		s.client += (c.cmd.ProcessState.UserTime() + c.cmd.ProcessState.SystemTime()).Seconds()
		s.peak += float64(c.peak()) / 1024
	}
	return s, nil
}

func startClient(ctx context.Context, argv []string) (*running, error) {
	c := &running{cmd: command(ctx, argv...), stop: make(chan struct{}), seen: make(chan int64, 1)}
	c.cmd.Stderr = &c.words
	if err := c.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { c.seen <- watchPeak(c.cmd.Process.Pid, c.stop) }()
	return c, nil
}

func (c *running) wait() error {
	err := c.cmd.Wait()
	close(c.stop)
	if err == nil {
		return nil
	}
	words := strings.TrimSpace(c.words.String())
	return fmt.Errorf("%s: %w: %s", c.cmd.Args[0], err, words[max(0, len(words)-shownWords):])
}

// peak is the most memory that the client had, in KiB. A child of fork and exec inherits its parent's peak, so wait
// does not report less than ours. A figure near ours is therefore taken from the watch, which can miss the last 20 ms.
func (c *running) peak() int64 {
	seen := <-c.seen
	usage, ok := c.cmd.ProcessState.SysUsage().(*syscall.Rusage)
	if ok && usage.Maxrss > peakOf("self")+peakMargin {
		return usage.Maxrss
	}
	return seen
}

// watchPeak looks at a process's peak until stop is closed.
func watchPeak(pid int, stop <-chan struct{}) int64 {
	ticker := time.NewTicker(peakEvery)
	defer ticker.Stop()
	last := int64(0)
	for {
		select {
		case <-stop:
			return last
		case <-ticker.C:
			last = max(last, peakOf(strconv.Itoa(pid)))
		}
	}
}

// peakOf reads the peak of a living process in KiB; 0 if it has none any more.
func peakOf(pid string) int64 {
	text, err := os.ReadFile("/proc/" + pid + "/status")
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(text), "VmHWM:")
	number, _, _ := strings.Cut(strings.TrimSpace(rest), " ")
	kib, err := strconv.ParseInt(number, 10, 64)
	if err != nil {
		return 0
	}
	return kib
}

// command makes a process that ends with ctx.
func command(ctx context.Context, argv ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...) //nolint:gosec // fixed programs and our own paths
	cmd.WaitDelay, cmd.Env = killedFor, environment()
	return cmd
}

// environment is that of this process, without variables that change what a tool does.
func environment() []string {
	var env []string
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "VMFERRY_") && !strings.HasPrefix(v, "MIGRATEKIT_") && !strings.HasPrefix(v, "LC_") {
			env = append(env, v)
		}
	}
	return append(env, "LC_ALL=C")
}

// output runs a helper and returns what it printed.
func output(ctx context.Context, argv ...string) (string, error) {
	cmd := command(ctx, argv...)
	var words bytes.Buffer
	cmd.Stderr = &words
	text, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s", argv[0], err, strings.TrimSpace(string(text)+words.String()))
	}
	return string(text), nil
}
