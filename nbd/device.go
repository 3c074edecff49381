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
	name string // for people
	kind Kind
	// of a local file: which one; of an export: nothing, for the same disk can be served at other places
	identity    string
	content     string // identity, and of a regular file also when it was changed last
	size        int64  // bytes; of null: as large as anybody wants
	readOnly    bool
	multiConn   bool // several connections see each other's writes, and a flush on one covers all
	canZero     bool
	canFastZero bool // and says so where it would be slow
	canFlush    bool
	canStatus   bool

	minBlock   int64 // requests are multiples of this, in bytes
	maxRequest int64 // bytes

	conns   []conn        // the first is opened with the device
	took    time.Duration // until that stood
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
	began := time.Now()
	c, err := dialNBD(ctx, uri, how.tlsFiles, how.deadline)
	if err != nil {
		return nil, err
	}
	d.took = time.Since(began)
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
		name: nullName, kind: Null, size: 1<<63 - 1, multiConn: true, canZero: true, canFlush: true, minBlock: 1,
		maxRequest: largestRequestSize,
		conns:      []conn{c},
		dial:       func(context.Context) (conn, error) { return &nullConn{}, nil },
		release:    func() error { return nil },
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
	var f *os.File
	err = patiently(ctx, func() (err error) {
		f, err = os.OpenFile(path, flags|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return nil, err
	}
	if prepare != nil {
		if err := patiently(ctx, func() error { return prepare(f) }); err != nil {
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
	file := localFile{fd: int(f.Fd()), ext4: onExt4(int(f.Fd()))}
	if flags&os.O_RDWR != 0 {
		file.writeback = newWriteback(file.fd)
		if kind == Block && file.writeback != nil {
			file.direct = newDirect(file)
		}
	}
	release := func() error { return errors.Join(file.direct.close(), file.writeback.close(), unlock(f), f.Close()) }
	return &device{
		name: f.Name(), kind: kind, identity: identity, content: contentOf(f, kind, identity), size: size,
		multiConn: true, canZero: true, canFlush: true, canStatus: kind == File, canFastZero: kind == File,
		minBlock: 1, maxRequest: largestRequestSize,
		dial:    func(context.Context) (conn, error) { return newFileConn(file, kind) },
		release: release,
	}, nil
}

// contentOf tells two contents of a regular file apart as far as its times do. Block devices have no time of their own.
func contentOf(f *os.File, kind Kind, identity string) string {
	if stamp := stampOf(f, kind); stamp != "" {
		return identity + " " + stamp
	}
	return identity
}

// stampOf differs when somebody has written to a regular file; of anything else it is empty.
func stampOf(f *os.File, kind Kind) string {
	info, err := f.Stat()
	if err != nil || kind != File {
		return ""
	}
	return fmt.Sprintf("%s%d", changedMark, info.ModTime().UnixNano())
}

const changedMark = "changed="

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
		return "", job.Errorf("open "+path, job.Invalid, "Name a regular file or a block device.",
			"%s is neither a file nor a block device", path)
	}
}

// patiently tries again for a moment what fails because somebody else has the device: a process that was killed lets go
// of it a little later than its parent hears of its end, and so does one that has just been forked.
func patiently(ctx context.Context, try func() error) error {
	for began := time.Now(); ; {
		err := try()
		if !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.EWOULDBLOCK) || time.Since(began) > lockPatience {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(lockPause):
		}
	}
}

// lock keeps a second transfer away from a file. It is gone with the last descriptor, so a crash leaves none behind.
func lock(f *os.File) error {
	err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return job.Errorf("lock "+f.Name(), job.Conflict, "Wait until the other transfer has ended, or cancel it.",
			"another transfer writes to it: %w", err)
	}
	if err != nil {
		return fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	return nil
}

// unlock does not wait for the last descriptor: a child that this process is just forking has one for a moment.
func unlock(f *os.File) error {
	if err := unix.Flock(int(f.Fd()), unix.LOCK_UN); err != nil {
		return fmt.Errorf("unlock %s: %w", f.Name(), err)
	}
	return nil
}

// late says whether no connection needs memory for reads in flight.
func (d *device) lazyBuffers() bool {
	return !slices.ContainsFunc(d.conns, func(c conn) bool { return !c.lazyBuffers() })
}

// widen opens more connections until there are n, all at once: each handshake goes to and fro several times. A server
// that takes no more is no failure: then it is fewer. It need not say so, as qemu-nbd, which lets the others wait; a
// copy that could have begun does not wait along.
func (d *device) widen(ctx context.Context, n int) (err error) {
	patience := widenPatience + widenTimes*d.took
	ctx, cancel := context.WithTimeoutCause(ctx, patience, silent(patience))
	defer cancel()
	type opened struct {
		conn
		err error
	}
	missing := max(0, n-len(d.conns))
	answers := make(chan opened, missing)
	for range missing {
		go func() {
			c, err := d.dial(ctx)
			answers <- opened{c, err}
		}()
	}
	for range missing {
		switch a := <-answers; {
		case a.err == nil:
			d.conns = append(d.conns, a.conn)
		case err == nil:
			err = fmt.Errorf("open another connection: %w", a.err)
		}
	}
	return err
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
