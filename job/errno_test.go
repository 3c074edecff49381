package job_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"syscall"
	"testing"

	"github.com/vmferry/vmferry/job"
)

func TestEachErrnoHasTheKindThatDecidesAboutRetries(t *testing.T) {
	tests := map[job.Kind][]syscall.Errno{
		job.NoSpace: {syscall.ENOSPC, syscall.EDQUOT},
		job.Invalid: {
			syscall.EFBIG, syscall.EINVAL, syscall.ENOTDIR, syscall.EISDIR, syscall.ELOOP, syscall.ENAMETOOLONG,
		},
		job.Permission:  {syscall.EPERM, syscall.EACCES, syscall.EROFS},
		job.NotFound:    {syscall.ENOENT, syscall.ENXIO, syscall.ENODEV},
		job.Conflict:    {syscall.EBUSY, syscall.ETXTBSY, syscall.EEXIST, syscall.ENOTEMPTY},
		job.Timeout:     {syscall.ETIMEDOUT},
		job.IO:          {syscall.EIO, syscall.EREMOTEIO, syscall.EPROTO, syscall.EBADMSG},
		job.Unsupported: {syscall.ENOTSUP, syscall.EOPNOTSUPP, syscall.ENOSYS},
		job.Unavailable: {
			syscall.ENOMEM, syscall.EMFILE, syscall.ENFILE, syscall.ESTALE, syscall.ECONNREFUSED, syscall.ECONNRESET,
			syscall.EPIPE, syscall.EHOSTUNREACH, syscall.ENETDOWN, syscall.EAGAIN, syscall.ENOTCONN,
		},
	}
	for want, errnos := range tests {
		for _, errno := range errnos {
			err := job.SystemError("open it", "Look",
				fmt.Errorf("outer: %w", &fs.PathError{Op: "open", Path: "x", Err: errno}))
			if got := job.KindOf(err); got != want {
				t.Errorf("%v is of kind %s, want %s", errno, got, want)
			}
			if job.NextOf(err) == "" || !errors.Is(err, errno) {
				t.Errorf("%v: next step %q of %v", errno, job.NextOf(err), err)
			}
		}
	}
}

func TestAFileThatIsTooLargeIsNoLackOfRoom(t *testing.T) {
	kind, next := job.KindOfErrno(syscall.EFBIG)
	if kind != job.Invalid || next != "Use another file system: this one takes no file of that size" {
		t.Errorf("it is of kind %s: %s", kind, next)
	}
}

func TestAnErrorThatHasAKindKeepsIt(t *testing.T) {
	own := job.Errorf("look", job.Corrupt, "Copy again", "differs: %w", syscall.ENOSPC)
	for err, want := range map[error]job.Kind{
		own: job.Corrupt, context.Canceled: job.Cancelled, errors.New("x"): job.Internal,
	} {
		if got := job.KindOf(job.SystemError("op", "", err)); got != want {
			t.Errorf("%v is of kind %s, want %s", err, got, want)
		}
	}
	if next := job.NextOf(job.SystemError("op", "Wait", own)); next != "Copy again" {
		t.Errorf("next step %q", next)
	}
	if err := job.SystemError("op", "", nil); err != nil {
		t.Error(err)
	}
}
