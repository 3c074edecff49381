package volumes

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/nbd"
)

const (
	serverProgram = "qemu-storage-daemon"
	serverPackage = "qemu-system-common"
	serverFile    = 3 // the descriptor of the volume in the server
	startTime     = 10 * time.Second
	startPause    = 5 * time.Millisecond // between two looks whether the server is ready
	wordsMost     = 512                  // bytes of what the server writes that are kept
)

// exportTag is the variable in the environment of a server that says whose export it is. See leftover.go.
const exportTag = "VMFERRY_EXPORT"

// export is a server of one volume for one epoch. It is a process of its own: when it has been killed and waited for,
// none of its writes can reach the volume any more, whatever its clients do.
type export struct {
	job.LeaseServer
	socket string
	cmd    *exec.Cmd
	words  *words
	done   chan struct{} // closed when the process has ended and was waited for
}

// exportConfig says what is served.
type exportConfig struct {
	name   string // of the export
	tag    string // the value of exportTag
	socket string
	kind   nbd.Kind
	file   string // of LeaseServer
	write  bool

	orphans  bool  // the server survives this process; for tests
	throttle int64 // bytes per second that go from the server to the file; 0 for all; for tests
}

// startExport serves an open file or device. The server gets the descriptor itself, not a name: it writes to what was
// checked. With the descriptor it has our locks, which are gone when both processes are; so it takes none. It returns
// when the server listens, within 10 s. Errors: Missing, Timeout, and Internal if it ends.
func startExport(ctx context.Context, f *os.File, c exportConfig) (*export, error) {
	program, err := exec.LookPath(serverProgram)
	if err != nil {
		return nil, job.Errorf("serve volume", job.Missing, "Install the Debian package "+serverPackage,
			"%s is not installed", serverProgram)
	}
	pidFile := c.socket + ".pid"
	for _, stale := range []string{c.socket, pidFile} {
		if err := os.Remove(stale); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, job.SystemError("serve volume", "", err)
		}
	}
	e := &export{
		LeaseServer: job.LeaseServer{Boot: bootID(), File: c.file}, socket: c.socket, words: &words{},
		done: make(chan struct{}),
	}
	e.cmd = exec.CommandContext(context.WithoutCancel(ctx), program, c.arguments(pidFile)...) //nolint:gosec // ours
	e.cmd.Env = []string{exportTag + "=" + c.tag, "PATH=" + os.Getenv("PATH")}
	e.cmd.ExtraFiles = []*os.File{f}
	e.cmd.Stdout, e.cmd.Stderr = e.words, e.words
	e.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if !c.orphans {
		e.cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	}
	started := make(chan error)
	go e.run(started)
	if err := <-started; err != nil {
		return nil, job.SystemError("start "+serverProgram, "", err)
	}
	e.PID = e.cmd.Process.Pid
	if e.Start, err = processStart(e.PID); err == nil {
		err = e.ready(ctx, pidFile)
	}
	if err != nil {
		return e, nbd.Classify("serve volume", err)
	}
	return e, nil
}

func (c exportConfig) arguments(pidFile string) []string {
	driver, direct := "file", "off" // as copies write: see ADR 14
	if c.kind == nbd.Block {
		driver, direct = "host_device", "on"
	}
	node := "volume"
	// No io_uring: a process with requests there can end before they do.
	args := []string{
		"--blockdev", fmt.Sprintf("driver=%s,node-name=volume,filename=/proc/self/fd/%d,locking=off,aio=threads,"+
			"discard=unmap,cache.direct=%s", driver, serverFile, direct),
	}
	if c.throttle > 0 {
		node = "slow"
		args = append(args, "--object", fmt.Sprintf("throttle-group,id=t,x-bps-write=%d", c.throttle),
			"--blockdev", "driver=throttle,node-name=slow,throttle-group=t,file=volume")
	}
	writable := "off"
	if c.write {
		writable = "on"
	}
	return append(args,
		"--nbd-server", "addr.type=unix,addr.path="+commas(c.socket),
		"--export", "type=nbd,id=e,node-name="+node+",name="+commas(c.name)+",writable="+writable,
		"--pidfile", pidFile) // it is written when all that stands before it is done
}

// commas writes a value for an option of QEMU.
func commas(s string) string { return strings.ReplaceAll(s, ",", ",,") }

// run starts the process and waits for its end. Linux sends the death signal when the thread that started the process
// ends, so that thread waits for it.
func (e *export) run(started chan<- error) {
	runtime.LockOSThread() // never unlocked: the thread ends with this goroutine
	err := e.cmd.Start()
	started <- err
	if err == nil {
		_ = e.cmd.Wait() // ProcessState says how it ended
	}
	close(e.done)
}

// ready waits until the server has done all that its arguments say.
func (e *export) ready(ctx context.Context, pidFile string) error {
	tick, late := time.NewTicker(startPause), time.NewTimer(startTime)
	defer tick.Stop()
	defer late.Stop()
	for {
		if text, err := os.ReadFile(pidFile); err == nil && strings.TrimSpace(string(text)) == strconv.Itoa(e.PID) {
			return nil // the file stays: the server still looks where it is
		}
		select {
		case <-tick.C:
		case <-e.done:
			return job.Errorf("serve volume", job.Internal, "", "%s ended (%v): %s", serverProgram, e.cmd.ProcessState,
				e.words)
		case <-late.C:
			return job.Errorf("serve volume", job.Timeout, "", "%s did not listen within %v: %s", serverProgram,
				startTime, e.words)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// kill ends the process. It has ended when done is closed: until then its writes may still be under way.
func (e *export) kill() {
	_ = e.cmd.Process.Kill() // fails only if it has ended
	_ = os.Remove(e.socket)  // it may be gone
	_ = os.Remove(e.socket + ".pid")
}

// words are the last bytes that a process has written.
type words struct {
	mu   sync.Mutex
	text []byte
}

func (w *words) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.text = append(w.text, p...)
	if more := len(w.text) - wordsMost; more > 0 {
		w.text = w.text[more:]
	}
	return len(p), nil
}

func (w *words) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Join(strings.Fields(string(w.text)), " ")
}

// processStart is when a process was started, in clock ticks since the boot. Errors: os.ErrNotExist if there is none.
func processStart(pid int) (uint64, error) {
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return 0, err
	}
	// The name is in brackets, and may hold spaces and brackets. Field 22 is the 20th after it.
	_, rest, _ := strings.Cut(string(text[strings.LastIndexByte(string(text), ')'):]), ")")
	fields := strings.Fields(rest)
	if len(fields) < 20 {
		return 0, fmt.Errorf("/proc/%d/stat has %d fields", pid, len(fields)+2)
	}
	return strconv.ParseUint(fields[19], 10, 64)
}
