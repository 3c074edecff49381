package kit_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/nbd"
	"github.com/vmferry/vmferry/volumes/copytest"
)

const evalSize = 4 * mib

// eval is an export whose reads are answered by a shell script. Its variable n counts the calls of it.
func eval(t *testing.T, pread string) job.Export {
	t.Helper()
	counter := filepath.Join(t.TempDir(), "n")
	check(t, os.WriteFile(counter, []byte("0"), 0o600))
	script := fmt.Sprintf("n=$(($(cat %[1]s) + 1)); echo $n > %[1]s; %[2]s", counter, pread)
	return job.Export{
		Plugin: "eval", Options: []string{"--threads=1"},
		Params: []job.Param{
			{Key: "get_size", Value: fmt.Sprintf("echo %d", evalSize)},
			{Key: "pread", Value: script},
		},
	}
}

const (
	oldWords = `echo "EIO curl: (28) Timeout was reached" >&2; exit 1`
	zeros    = `dd if=/dev/zero bs=$3 count=1 2>/dev/null`
)

// full is the URI of an nbdkit whose plugin eval refuses each write.
func full(t *testing.T) string {
	t.Helper()
	return serveNBDKit(t, "eval", fmt.Sprintf("get_size=echo %d", evalSize), "can_write=exit 0",
		`pread=dd if=/dev/zero bs=$3 count=1 2>/dev/null`, `pwrite=echo "ENOSPC no room" >&2; exit 1`,
		`zero=echo "ENOSPC no room" >&2; exit 1`)
}

// copyOneByOne has one request in flight: which of several a line is about can't be told.
func copyOneByOne(t *testing.T, source, to string) error {
	t.Helper()
	_, err := copytest.Copy(t.Context(), nbd.Task{
		Source: source, Target: copytest.Onto(to), Connections: 1, Requests: 1, Reconnect: -1,
	}, &nbd.Meter{})
	return err
}

func TestAFailureOfTheTargetIsNotToldAsAnOldOneOfTheSource(t *testing.T) {
	s := started(t, eval(t, `if [ $n = 1 ]; then `+oldWords+`; fi; `+zeros))
	err := copyTo(t, s.URI(), full(t))
	wantKind(t, err, job.NoSpace)
	if cause := s.Cause(err); cause != nil {
		t.Errorf("the source is blamed: %v", cause)
	}
}

func TestOnlyWhatWasWrittenSinceTheFailureIsTheCause(t *testing.T) {
	s := started(t, eval(t, `if [ $n = 1 ]; then echo "EPERM curl: (28) Timeout was reached" >&2; exit 1; fi
		echo "EPERM the lease has ended" >&2; exit 1`))
	wantKind(t, s.Cause(copyOneByOne(t, s.URI(), "null:")), job.Timeout)
	err := copyOneByOne(t, s.URI(), "null:")
	wantKind(t, err, job.Permission)
	cause := s.Cause(err)
	wantKind(t, cause, job.Permission)
	if !strings.Contains(cause.Error(), "the lease has ended") || strings.Contains(cause.Error(), "imeout") {
		t.Errorf("the cause is %v", cause)
	}
}

func TestATextThatIsNotKnownIsTold(t *testing.T) {
	need(t, "nbdkit")
	other := serveNBDKit(t, "--filter=exportname", "memory", "size=1M", "exportname-strict=true", "exportname=there")
	s := started(t, job.Export{Plugin: "nbd", Params: []job.Param{{Key: "uri", Value: other}}})
	err := copyTo(t, s.URI(), "null:")
	if err == nil {
		t.Fatal("an export that is not there was copied")
	}
	cause := s.Cause(err)
	if cause == nil || !strings.Contains(cause.Error(), "export") || job.KindOf(cause) != job.KindOf(err) {
		t.Errorf("the cause is %v (%s), the copy says %v (%s)", cause, job.KindOf(cause), err, job.KindOf(err))
	}
}

func TestAllThatAServerWroteIsReadBeforeItIsJudged(t *testing.T) {
	noise := "nbdkit: debug: " + strings.Repeat("x", 900)
	for range 5 {
		s := started(t, eval(t, `err=/proc/$PPID/fd/2; for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do echo "`+noise+
			`"; done >> $err; echo "nbdkit: error: Failed to allocate the requested 24117272 bytes" >> $err; `+
			`echo EPERM >&2; exit 1`))
		err := copyOneByOne(t, s.URI(), "null:")
		if cause := s.Cause(err); job.KindOf(cause) != job.Unavailable ||
			!strings.Contains(cause.Error(), "Failed to allocate") {
			t.Fatalf("the cause of %v is %v", err, cause)
		}
	}
}

func TestAServerThatIsKilledWhileItReadsIsNamed(t *testing.T) {
	s := started(t, eval(t, `echo "nbdkit: error: the cable is out" >> /proc/$PPID/fd/2; kill -9 $PPID`))
	err := copyOneByOne(t, s.URI(), "null:")
	cause := s.Cause(err)
	wantKind(t, cause, job.Unavailable)
	if !strings.Contains(cause.Error(), "killed") || !strings.Contains(cause.Error(), "the cable is out") {
		t.Errorf("the cause of %v is %v", err, cause)
	}
}

func TestAVerificationThatReadsTheTargetAloneDoesNotBlameTheSource(t *testing.T) {
	source := started(t, eval(t, zeros))
	broken := filepath.Join(t.TempDir(), "broken")
	target := serveNBDKit(t, "--filter=error", "memory", fmt.Sprintf("size=%d", evalSize), "error-pread=EPERM",
		"error-pread-file="+broken, "error-pread-rate=100%")
	onto := copytest.Onto(target)
	r, err := nbd.Copy(t.Context(), nbd.Task{Source: source.URI(), Target: onto}, &nbd.Meter{})
	check(t, err)
	check(t, os.WriteFile(broken, nil, 0o600))
	_, err = copytest.Verify(t.Context(), nbd.VerifyTask{
		Source: source.URI(), Target: onto, Mode: job.VerifyFull, Digests: r.Digests,
	}, &nbd.Meter{})
	wantKind(t, err, job.Permission)
	if _, ok := nbd.SourceFailed(err); ok {
		t.Errorf("the source is blamed for %v", err)
	}
}
