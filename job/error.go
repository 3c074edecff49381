package job

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// ErrStopping is the cause of contexts that end because the daemon stops. Work that has begun is not undone then: the
// next start of the daemon goes on with it.
var ErrStopping = errors.New("the daemon is stopping")

// Kind says what sort of error this is. Kinds decide what follows (retry, HTTP status, exit code), texts never do.
type Kind string

// The kinds. The text of each is stable: it is the `code` of an API error, and the journal holds it.
const (
	Internal    Kind = "internal"    // a bug of vmferry, or an error without a kind
	Invalid     Kind = "invalid"     // the request or the configuration is wrong; nothing was changed
	NotFound    Kind = "not_found"   // no such VM, disk, job, file
	Conflict    Kind = "conflict"    // allowed in another state only, or another process or job uses it
	Auth        Kind = "auth"        // wrong credentials or an untrusted certificate
	Permission  Kind = "permission"  // the credentials are right, but do not allow this
	Unavailable Kind = "unavailable" // the other side is down, slow or gone; trying again can help
	Timeout     Kind = "timeout"     // a deadline passed without an answer; trying again can help
	IO          Kind = "io"          // reading or writing bytes failed; trying again can help
	NoSpace     Kind = "no_space"    // the target is full
	Corrupt     Kind = "corrupt"     // bytes differ, or a record does not make sense
	Unsupported Kind = "unsupported" // this VM, disk or server cannot do what is needed
	CBTInvalid  Kind = "cbt_invalid" // the change ID is no longer good: this disk needs a full round
	Cancelled   Kind = "cancelled"   // a caller stopped it
	Missing     Kind = "missing"     // a program or library that must be installed is not there
	Fenced      Kind = "fenced"      // the lease of the volume is over: another holder has it, or may have it
)

// Retryable says whether the same action can succeed later although no person changes anything.
func (k Kind) Retryable() bool {
	switch k {
	case Unavailable, Timeout, IO:
		return true
	default:
		return false
	}
}

// Error is the error that packages return: what was tried, the kind of the failure, what a person can do next.
type Error struct {
	Op   string // what was tried, lower case: "open target", "find VM"
	Kind Kind
	Next string // the next step for a person: an imperative or a command, no full stop at the end; "" for none
	Peer Peer   // the other program or machine at which it arose; "" if that is not known, or does not matter
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

// KindOf is the kind of the outermost Error in err's chain. Without one it is Cancelled or Timeout for the errors of
// package context, else Internal. A nil error has no kind ("").
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

// NextOf is the next step of the outermost Error in err's chain that has one; "" if none has.
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

// Secret is a password, token or cookie. All printers and encoders show "***"; only Reveal gives the text.
type Secret struct{ text string }

// NewSecret wraps text.
func NewSecret(text string) Secret { return Secret{text} }

// Reveal returns the text. Pass it on only by pipe or file.
func (s Secret) Reveal() string { return s.text }

// Empty says whether the text is empty.
func (s Secret) Empty() bool { return s.text == "" }

// String hides the text from printers.
func (Secret) String() string { return "***" }

// GoString hides the text from %#v.
func (Secret) GoString() string { return "***" }

// MarshalText hides the text from encoders and loggers.
func (Secret) MarshalText() ([]byte, error) { return []byte("***"), nil }
