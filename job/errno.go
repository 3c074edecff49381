package job

import (
	"errors"
	"syscall"
)

// KindOfErrno gives what the kernel or an NBD server answers its kind, and the next step if the errno alone tells one.
// It is the only such table: whoever gives an error of a file, a device or a server its kind asks it.
func KindOfErrno(errno syscall.Errno) (kind Kind, next string) {
	switch errno {
	case syscall.ENOSPC, syscall.EDQUOT:
		return NoSpace, "Make room there, then try again"
	case syscall.EFBIG:
		return Invalid, "Use another file system: this one takes no file of that size"
	case syscall.EPERM, syscall.EACCES, syscall.EROFS:
		return Permission, ""
	case syscall.EMFILE, syscall.ENFILE:
		return Unavailable, "Raise the limit of open files (LimitNOFILE of a systemd unit)"
	case syscall.ENOTCONN, syscall.ESHUTDOWN, syscall.EPIPE, syscall.ECONNRESET, syscall.ECONNREFUSED,
		syscall.ECONNABORTED, syscall.EHOSTUNREACH, syscall.EHOSTDOWN, syscall.ENETUNREACH, syscall.ENETDOWN,
		syscall.ENETRESET, syscall.EAGAIN, syscall.ENOMEM, syscall.ENOBUFS, syscall.ESTALE, syscall.EINTR:
		return Unavailable, ""
	case syscall.ETIMEDOUT:
		return Timeout, ""
	case syscall.EBUSY, syscall.ETXTBSY:
		return Conflict, "Find out which process uses it: one transfer at a time can use it"
	case syscall.EEXIST, syscall.ENOTEMPTY:
		return Conflict, ""
	case syscall.ENOENT, syscall.ENXIO, syscall.ENODEV, syscall.ESRCH:
		return NotFound, ""
	case syscall.ENOTDIR, syscall.EISDIR, syscall.ELOOP, syscall.ENAMETOOLONG:
		return Invalid, "Name another path"
	case syscall.EINVAL, syscall.EOVERFLOW:
		return Invalid, ""
	case syscall.ENOTSUP, syscall.ENOSYS:
		return Unsupported, ""
	default:
		return IO, ""
	}
}

// SystemKind is the kind and the next step of an error of a system call or of a server: its own ones if it has some,
// else by its errno.
func SystemKind(err error) (kind Kind, next string) {
	var errno syscall.Errno
	if kind = KindOf(err); kind != Internal || !errors.As(err, &errno) {
		return kind, NextOf(err)
	}
	if _, known := errors.AsType[*Error](err); known {
		return kind, NextOf(err)
	}
	return KindOfErrno(errno)
}

// SystemError gives an error its SystemKind. next is the next step if there is no other. nil stays nil.
func SystemError(op, next string, err error) error {
	if err == nil {
		return nil
	}
	kind, own := SystemKind(err)
	if own != "" {
		next = own
	}
	return &Error{Op: op, Kind: kind, Next: next, Peer: PeerOf(err), Err: err}
}
