package nbd

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"time"

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

// SourceFailure is how the source of a copy or verification failed.
type SourceFailure struct {
	Since time.Time // when the request or connection began that failed
	Lost  bool      // the connection could not be made, or ended; else only a request failed
}

// SourceFailed says whether an error of Copy or Verify comes from the source: its server could not be reached, ended,
// was silent, or did not read. It is false for what the target or a checkpoint did, and for what was refused before.
func SourceFailed(err error) (SourceFailure, bool) {
	s, ok := errors.AsType[*sideError](err)
	if !ok || s.side != source {
		return SourceFailure{}, false
	}
	_, request := errors.AsType[*requestError](s.err)
	return SourceFailure{Since: s.since, Lost: !request || isLost(s.err)}, true
}

// sideError says at which side of a copy an error arose. The text of err need not name it.
type sideError struct {
	side  string    // source or target
	since time.Time // when the request or connection began that failed; not known of each error of a target
	err   error
}

func (e *sideError) Error() string { return e.err.Error() }
func (e *sideError) Unwrap() error { return e.err }

// at says at which side an error arose, also in its text, and when what failed began.
func at(side string, since time.Time, err error) error {
	return &sideError{side, since, fmt.Errorf("%s: %w", side, err)}
}

// of is at, and leaves the text. It is nil for nil.
func of(side string, since time.Time, err error) error {
	if err == nil {
		return nil
	}
	return &sideError{side, since, err}
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
	e := &job.Error{Op: op, Kind: job.Unavailable, Err: err}
	_, system := errors.AsType[syscall.Errno](err)
	if system || !isLost(err) || job.KindOf(err) != job.Internal {
		e.Kind, e.Next = job.SystemKind(err)
	}
	e.Peer = peerOf(err)
	return e
}
