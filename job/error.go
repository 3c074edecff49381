package job

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// ErrStopping is the cause of contexts that end because the daemon does. What was begun is not undone then: the next
// start goes on from it.
var ErrStopping = errors.New("the daemon is stopping")

// Kind says what sort of error this is. Kinds decide what happens next (retry, HTTP status, exit code), strings never.
type Kind string

// The kinds. The text of each is stable: it is the `code` of an API error and stands in the journal.
const (
	Internal    Kind = "internal"    // a bug of ours, or something that nobody classified
	Invalid     Kind = "invalid"     // the request or the configuration is wrong; nothing was changed
	NotFound    Kind = "not_found"   // no such VM, disk, job, file
	Conflict    Kind = "conflict"    // allowed in another state, or somebody else has it
	Auth        Kind = "auth"        // wrong credentials or an untrusted certificate
	Permission  Kind = "permission"  // known, but not allowed to
	Unavailable Kind = "unavailable" // the other side is down, slow or gone; trying again can help
	Timeout     Kind = "timeout"     // a deadline passed without an answer; trying again can help
	IO          Kind = "io"          // reading or writing bytes failed; trying again can help
	NoSpace     Kind = "no_space"    // the target is full
	Corrupt     Kind = "corrupt"     // bytes differ, or a record does not make sense
	Unsupported Kind = "unsupported" // this VM, disk or server cannot do what is needed
	CBTInvalid  Kind = "cbt_invalid" // the change ID is no longer good: this disk needs a full round
	Cancelled   Kind = "cancelled"   // somebody asked to stop
	Missing     Kind = "missing"     // a program or library that must be installed is not there
)

// Retryable says whether the same action, tried again later, can succeed without anybody changing anything.
func (k Kind) Retryable() bool {
	switch k {
	case Unavailable, Timeout, IO:
		return true
	default:
		return false
	}
}

// Error is what crosses the edge of a package: what was tried, of which kind the failure is, what a person can do next.
type Error struct {
	Op   string // what was tried, lower case: "open target", "find VM"
	Kind Kind
	Next string // the next step for a person, a whole sentence; empty if there is none
	Err  error  // the cause; holds no secret
}

// Errorf makes an Error with a formatted cause; %w works as in fmt.Errorf.
func Errorf(op string, kind Kind, next, format string, args ...any) *Error {
	return &Error{Op: op, Kind: kind, Next: next, Err: fmt.Errorf(format, args...)}
}

func (e *Error) Error() string {
	switch {
	case e.Err == nil:
		return e.Op + ": " + strings.ReplaceAll(string(e.Kind), "_", " ")
	case e.Op == "":
		return e.Err.Error()
	default:
		return e.Op + ": " + e.Err.Error()
	}
}

func (e *Error) Unwrap() error { return e.Err }

// KindOf finds the kind of err: that of the outermost Error in its chain; Cancelled and Timeout for the errors of
// package context; else Internal. A nil error has no kind ("").
func KindOf(err error) Kind {
	var e *Error
	switch {
	case err == nil:
		return ""
	case errors.As(err, &e):
		return e.Kind
	case errors.Is(err, context.Canceled):
		return Cancelled
	case errors.Is(err, context.DeadlineExceeded):
		return Timeout
	default:
		return Internal
	}
}

// NextOf finds the next step for a person in err's chain: that of the outermost Error which has one.
func NextOf(err error) string {
	for err != nil {
		var e *Error
		if !errors.As(err, &e) {
			return ""
		}
		if e.Next != "" {
			return e.Next
		}
		err = e.Err
	}
	return ""
}

// Secret is a password, token or cookie. Whatever prints it shows "***"; Reveal is the only way to its text.
type Secret struct{ text string }

// NewSecret wraps text.
func NewSecret(text string) Secret { return Secret{text} }

// Reveal returns the text itself. Pass it on only by pipe or file.
func (s Secret) Reveal() string { return s.text }

// Empty says whether there is no secret at all.
func (s Secret) Empty() bool { return s.text == "" }

// String, GoString, MarshalText and MarshalJSON hide the text from every printer.
func (Secret) String() string { return "***" }

// GoString hides the text from %#v.
func (Secret) GoString() string { return "***" }

// MarshalText hides the text from encoders and loggers.
func (Secret) MarshalText() ([]byte, error) { return []byte("***"), nil }
