package nbd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vmferry/vmferry/job"
)

// device is one side of a copy, opened.
type device struct {
	name      string // for people
	kind      Kind
	identity  string // of a local file: which one; of an export: nothing, for the same disk can be served at other places
	size      int64  // bytes; of null: as large as anybody wants
	readOnly  bool
	multiConn bool // several connections see each other's writes, and a flush on one covers all
	canZero   bool
	canFlush  bool
	canStatus bool

	minBlock   int64 // requests are multiples of this, in bytes
	maxRequest int64 // bytes

	conns   []conn // the first is opened with the device
	dial    func(ctx context.Context) (conn, error)
	release func() error // after the last connection is closed
}

// dialing is how connections are made.
type dialing struct {
	tlsFiles bool
	deadline time.Duration
	engine   Engine
}

func openSource(ctx context.Context, name string, how dialing) (*device, error) {
	if isURI(name) {
		return openNBD(ctx, name, how)
	}
	return openLocal(ctx, name, os.O_RDONLY, nil)
}

// openTarget opens for writing, and for nobody else who plays by the rules.
func openTarget(ctx context.Context, name string, how dialing) (*device, error) {
	switch {
	case name == nullName:
		return openNull(), nil
	case isURI(name):
		return openNBD(ctx, name, how)
	default:
		return openLocal(ctx, name, os.O_RDWR, lock)
	}
}

func openNBD(ctx context.Context, uri string, how dialing) (*device, error) {
	d := &device{name: Redact(uri), kind: NBD, release: func() error { return nil }}
	d.dial = func(ctx context.Context) (conn, error) {
		c, err := dialNBD(ctx, uri, how.tlsFiles, how.deadline)
		if err != nil {
			return nil, err
		}
		return c.speaking(how.engine), nil
	}
	c, err := dialNBD(ctx, uri, how.tlsFiles, how.deadline)
	if err != nil {
		return nil, err
	}
	if err := c.describe(d); err != nil {
		<-c.close(closeGrace)
		return nil, err
	}
	d.conns = []conn{c.speaking(how.engine)}
	return d, nil
}

func openNull() *device {
	c := &nullConn{}
	return &device{
		name: nullName, kind: Null, size: 1<<63 - 1, multiConn: true, canZero: true, canFlush: true, minBlock: 1, maxRequest: largestRequestSize,
		conns:   []conn{c},
		dial:    func(context.Context) (conn, error) { return &nullConn{}, nil },
		release: func() error { return nil },
	}
}

// openLocal opens a regular file or a block device, and nothing else: a FIFO could block for ever. prepare, if not nil,
// gets the open file before anything is done with it.
func openLocal(ctx context.Context, path string, flags int, prepare func(*os.File) error) (*device, error) {
	kind, err := localKind(path)
	if err != nil {
		return nil, err
	}
	if kind == Block && flags != os.O_RDONLY {
		flags |= os.O_EXCL // the kernel refuses it if the device is mounted or somebody else has it so
	}
	f, err := os.OpenFile(path, flags|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	if prepare != nil {
		if err := prepare(f); err != nil {
			return nil, errors.Join(err, f.Close())
		}
	}
	d, err := describeLocal(f, kind, flags)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	c, err := d.dial(ctx)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	d.conns = []conn{c}
	return d, nil
}

// describeLocal: the size of both kinds is where their end is.
func describeLocal(f *os.File, kind Kind, flags int) (*device, error) {
	identity, size, err := identify(f)
	if err != nil {
		return nil, fmt.Errorf("find out what %s is: %w", f.Name(), err)
	}
	fds := localFDs{cached: int(f.Fd()), direct: -1}
	release := f.Close
	if flags&os.O_RDWR != 0 {
		// By descriptor, so that it is the very same file. Not every file system can do it.
		if g, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", fds.cached), os.O_WRONLY|unix.O_DIRECT|unix.O_CLOEXEC, 0); err == nil {
			fds.direct = int(g.Fd())
			release = func() error { return errors.Join(g.Close(), f.Close()) }
		}
	}
	return &device{
		name: f.Name(), kind: kind, identity: identity, size: size, multiConn: true, canZero: true, canFlush: true, canStatus: kind == File,
		minBlock: 1, maxRequest: largestRequestSize,
		dial:    func(context.Context) (conn, error) { return newFileConn(fds, kind) },
		release: release,
	}, nil
}

func localKind(path string) (Kind, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	switch mode := info.Mode(); {
	case mode.IsRegular():
		return File, nil
	case mode&os.ModeDevice != 0 && mode&os.ModeCharDevice == 0:
		return Block, nil
	default:
		return "", job.Errorf("open "+path, job.Invalid, "Name a regular file or a block device.", "%s is neither a file nor a block device", path)
	}
}

// lock keeps a second transfer away from a file. It is gone with the last descriptor, so a crash leaves none behind.
func lock(f *os.File) error {
	err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return job.Errorf("lock "+f.Name(), job.Conflict, "Wait until the other transfer has ended, or cancel it.", "another transfer writes to it")
	}
	if err != nil {
		return fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	return nil
}

// late says whether no connection needs memory for reads in flight.
func (d *device) late() bool {
	return !slices.ContainsFunc(d.conns, func(c conn) bool { return !c.late() })
}

// widen opens more connections until there are n. A server that takes no more is no failure: then it is fewer.
func (d *device) widen(ctx context.Context, n int) error {
	for len(d.conns) < n {
		c, err := d.dial(ctx)
		if err != nil {
			return fmt.Errorf("open connection %d: %w", len(d.conns)+1, err)
		}
		d.conns = append(d.conns, c)
	}
	return nil
}

// close ends all connections at once, and then gives the device back. The channel gets one word when all that is done;
// it takes longer than the grace only if the kernel does not let go of a local file.
func (d *device) close() <-chan error {
	closing := make([]<-chan struct{}, len(d.conns))
	for i, c := range d.conns {
		closing[i] = c.close(closeGrace)
	}
	result := make(chan error, 1)
	go func() {
		for _, ended := range closing {
			<-ended
		}
		if err := d.release(); err != nil {
			result <- fmt.Errorf("close %s: %w", d.name, err)
			return
		}
		result <- nil
	}()
	return result
}
