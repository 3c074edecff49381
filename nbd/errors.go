package nbd

import (
	"errors"
	"fmt"
	"strings"
	"syscall"

	"libguestfs.org/libnbd"

	"github.com/vmferry/vmferry/job"
)

// Sides of a copy, in error texts.
const (
	source = "source"
	target = "target"
)

// requestError is one request that failed. The connection may still work.
type requestError struct {
	op     op
	off, n int64
	err    error
}

func (e *requestError) Error() string {
	if e.n == 0 {
		return fmt.Sprintf("%s: %v", e.op, e.err)
	}
	return fmt.Sprintf("%s %d bytes at %d: %v", e.op, e.n, e.off, e.err)
}

func (e *requestError) Unwrap() error { return e.err }

// lostError is a connection that ended, or gave no sign of life for too long.
type lostError struct{ err error }

func (e *lostError) Error() string { return "connection lost: " + e.err.Error() }
func (e *lostError) Unwrap() error { return e.err }

// sideError says at which side of a copy an error arose.
type sideError struct {
	side  string // source or target
	err   error
	named bool // the text names the side already
}

func (e *sideError) Error() string {
	if e.named {
		return e.err.Error()
	}
	return e.side + ": " + e.err.Error()
}

func (e *sideError) Unwrap() error { return e.err }

// at says at which side an error arose, also in its text.
func at(side string, err error) error { return &sideError{side: side, err: err} }

// of says at which side an error arose, and leaves its text. It is nil for nil.
func of(side string, err error) error {
	if err == nil {
		return nil
	}
	return &sideError{side: side, err: err, named: true}
}

// peerOf is the side at which an error arose; "" if it is not known.
func peerOf(err error) job.Peer {
	s, ok := errors.AsType[*sideError](err)
	switch {
	case !ok:
		return job.PeerOf(err)
	case s.side == target:
		return job.PeerTarget
	default:
		return job.PeerSource
	}
}

func isLost(err error) bool {
	var l *lostError
	return errors.As(err, &l)
}

// isCurable says whether an error that ended a pass may go away with new connections.
func isCurable(err error) bool {
	return !errors.Is(err, syscall.EPROTO) && (isLost(err) || errors.Is(err, syscall.ESHUTDOWN))
}

// isUnreachable says whether a server that could not be opened may be reachable a little later.
func isUnreachable(err error) bool {
	kind := kindOf(err)
	return kind == job.Unavailable || kind == job.Timeout || kind == job.NotFound
}

// nbdError turns an error of libnbd into one that shows its errno to errors.Is, if it has any.
func nbdError(err error) error {
	var n *libnbd.LibnbdError
	if !errors.As(err, &n) {
		return err
	}
	_, text, ok := strings.Cut(n.Errmsg, ": ") // the text begins with the name of a C function
	if !ok {
		text = n.Errmsg
	}
	if n.Errno == 0 && strings.HasPrefix(n.Errmsg, "nbd_") && strings.Contains(n.Errmsg, "getaddrinfo") {
		return job.Errorf("find the server", job.Unavailable, "Check the host's name, and whether it resolves", "%s",
			text)
	}
	if n.Errno == 0 {
		return errors.New(text)
	}
	if end := len(text) - len(n.Errno.Error()); end > 1 && strings.EqualFold(text[end:], n.Errno.Error()) {
		text = strings.TrimSuffix(text[:end], ": ") // the errno says the same again
	}
	return fmt.Errorf("%s: %w", text, n.Errno)
}

// fail gives an error a kind, the next step and the peer at which it arose. An error that has a kind keeps it.
func fail(op string, err error) error {
	if err == nil {
		return nil
	}
	e := classified(op, err)
	e.Peer = peerOf(err)
	return e
}

func classified(op string, err error) *job.Error {
	if known, ok := errors.AsType[*job.Error](err); ok {
		return &job.Error{Op: op, Kind: known.Kind, Next: job.NextOf(err), Err: err}
	}
	kind := job.KindOf(err)
	if kind != job.Internal {
		return &job.Error{Op: op, Kind: kind, Err: err}
	}
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		kind, next := kindOfErrno(errno)
		return &job.Error{Op: op, Kind: kind, Next: next, Err: err}
	}
	if isLost(err) {
		return &job.Error{Op: op, Kind: job.Unavailable, Err: err}
	}
	return &job.Error{Op: op, Kind: kind, Err: err}
}

// kindOfErrno gives an errno of a server or the kernel its kind and the next step.
func kindOfErrno(errno syscall.Errno) (kind job.Kind, next string) {
	switch errno {
	case syscall.ENOSPC, syscall.EDQUOT, syscall.EFBIG:
		return job.NoSpace, "Make room on the target, then try again"
	case syscall.EPERM, syscall.EACCES, syscall.EROFS:
		return job.Permission, ""
	case syscall.ENOTCONN, syscall.ESHUTDOWN, syscall.EPIPE,
		syscall.ECONNRESET, syscall.ECONNREFUSED, syscall.ECONNABORTED,
		syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.ENETDOWN, syscall.EAGAIN, syscall.ENOMEM:
		return job.Unavailable, ""
	case syscall.ETIMEDOUT:
		return job.Timeout, ""
	case syscall.EBUSY, syscall.ETXTBSY:
		return job.Conflict, "Find out which process uses it: one transfer at a time can use it"
	case syscall.ENOENT, syscall.ENXIO, syscall.ENODEV:
		return job.NotFound, ""
	case syscall.EINVAL, syscall.EOVERFLOW:
		return job.Invalid, ""
	case syscall.ENOTSUP, syscall.ENOSYS:
		return job.Unsupported, ""
	default:
		return job.IO, ""
	}
}
