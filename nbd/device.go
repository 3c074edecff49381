package nbd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// device is one side of a copy, opened.
type device struct {
	name string // for people
	kind Kind
	// of a local file: which one, and of a regular file also when it was changed last; of an export: nothing, for the
	// same disk can be served at other places
	content     string
	size        int64 // bytes; of null: as large as anybody wants
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
	tls      TLS
	deadline time.Duration
	engine   Engine
	onlyRaw  bool // a local source that begins as an image of another format is refused
}

func openSource(ctx context.Context, name string, how dialing) (*device, error) {
	if IsURI(name) {
		return openNBD(ctx, name, how)
	}
	return openLocal(ctx, name, how.onlyRaw)
}

func openNBD(ctx context.Context, uri string, how dialing) (*device, error) {
	d := &device{name: Redact(uri), kind: NBD, release: func() error { return nil }}
	d.dial = func(ctx context.Context) (conn, error) {
		c, err := dialNBD(ctx, uri, how.tls, how.deadline)
		if err != nil {
			return nil, err
		}
		return c.speaking(how.engine), nil
	}
	began := time.Now()
	c, err := dialNBD(ctx, uri, how.tls, how.deadline)
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
		name: NullName, kind: Null, size: 1<<63 - 1, multiConn: true, canZero: true, canFlush: true, minBlock: 1,
		maxRequest: largestRequestSize,
		conns:      []conn{c},
		dial:       func(context.Context) (conn, error) { return &nullConn{}, nil },
		release:    func() error { return nil },
	}
}

// openLocal opens a regular file or a block device for reading, and nothing else: a FIFO could block for ever. It keeps
// QEMU from writing to it.
func openLocal(ctx context.Context, path string, onlyRaw bool) (*device, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if _, err := KindOfFile(path, info); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	if err := lockPatiently(ctx, f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	d, err := describeSource(f, onlyRaw)
	if err != nil {
		return nil, errors.Join(err, Unlock(f), f.Close())
	}
	release := d.release
	d.release = func() error { return errors.Join(release(), Unlock(f), f.Close()) }
	return d.connect(ctx)
}

func describeSource(f *os.File, onlyRaw bool) (*device, error) {
	kind, err := fileKind(f)
	if err == nil && onlyRaw {
		err = checkSourceFormat(f)
	}
	if err != nil {
		return nil, err
	}
	return describeLocal(f, kind, false)
}

// connect opens the first connection. If it can't, the device is given back.
func (d *device) connect(ctx context.Context) (*device, error) {
	c, err := d.dial(ctx)
	if err != nil {
		return nil, errors.Join(err, d.release())
	}
	d.conns = []conn{c}
	return d, nil
}

// describeLocal describes an open file, for reading or for reading and writing; f stays open when the device is closed.
// The size of both kinds is where their end is.
func describeLocal(f *os.File, kind Kind, write bool) (*device, error) {
	identity, size, err := IdentifyFile(f)
	if err != nil {
		return nil, fmt.Errorf("find out what %s is: %w", f.Name(), err)
	}
	file := localFile{fd: int(f.Fd()), ext4: onExt4(int(f.Fd()))}
	if write {
		file.writeback = newWriteback(file.fd)
		if kind == Block && file.writeback != nil {
			file.direct = newDirect(file)
		}
	}
	return &device{
		name: f.Name(), kind: kind, content: contentOf(f, identity), size: size, multiConn: true,
		canZero: true, canFlush: true, canStatus: kind == File, canFastZero: kind == File,
		minBlock: 1, maxRequest: largestRequestSize,
		dial:    func(context.Context) (conn, error) { return newFileConn(file, kind) },
		release: func() error { return errors.Join(file.direct.close(), file.writeback.close()) },
	}, nil
}

// contentOf tells two contents of a regular file apart as far as its times do. Block devices have no time of their own.
func contentOf(f *os.File, identity string) string {
	if stamp := StampFile(f); stamp != "" {
		return identity + " " + stamp
	}
	return identity
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
