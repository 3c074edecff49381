package nbd_test

import (
	"errors"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/nbd"
	"github.com/vmferry/vmferry/volumes/copytest"
)

func spoil(t *testing.T, path string, at int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	check(t, err)
	b := make([]byte, 1)
	_, err = f.ReadAt(b, at)
	check(t, err)
	b[0] ^= 0x10
	_, err = f.WriteAt(b, at)
	check(t, errors.Join(err, f.Close()))
}

func TestVerifyFindsASingleWrongBit(t *testing.T) {
	want := disk(10*mib+100, mixed)
	src := image(t, want)
	source := kit(t, "-r", "file", src).uri
	to := dirty(t, len(want))
	mustCopy(t, nbd.Task{Source: source, Target: copytest.Onto(to)})
	task := nbd.VerifyTask{Source: source, Target: copytest.Onto(kit(t, "-r", "file", to).uri), Mode: job.VerifyFull}
	r, err := copytest.Verify(t.Context(), task, &nbd.Meter{})
	check(t, err)
	if r.Verified != int64(len(want)) || r.ToVerify != r.Verified {
		t.Errorf("verified %d of %d bytes, want %d", r.Verified, r.ToVerify, len(want))
	}
	task.RequestSize = 68 * kib
	again, err := copytest.Verify(t.Context(), task, &nbd.Meter{})
	check(t, err)
	if again.Digest != r.Digest || r.Digest == "" {
		t.Errorf("digest %q, then %q", r.Digest, again.Digest)
	}
	for _, at := range []int64{0, 5*mib + 1, int64(len(want)) - 1} {
		spoil(t, to, at)
		r, err := copytest.Verify(t.Context(), task, &nbd.Meter{})
		wantKind(t, err, job.Corrupt)
		block := at / 4096 * 4096
		wantRange := job.Extents{{Offset: block, Length: min(4096, int64(len(want))-block)}}
		if d := cmp.Diff(wantRange, r.Differences); d != "" {
			t.Error(d)
		}
		spoil(t, to, at)
	}
}

func TestVerifyReadsOnlyWhatItIsAskedTo(t *testing.T) {
	want := disk(8*mib, dense)
	src, to := image(t, want), dirty(t, len(want))
	only := job.Extents{{Offset: mib, Length: mib}, {Offset: 6 * mib, Length: 1}}
	mustCopy(t, nbd.Task{Source: src, Target: copytest.Onto(to), Only: only})
	for _, mode := range []job.VerifyMode{job.VerifySample, job.VerifyFull} {
		r, err := copytest.Verify(t.Context(), nbd.VerifyTask{
			Source: src, Target: copytest.Onto(to), Extents: only,
			Mode: mode,
		},
			&nbd.Meter{})
		check(t, err)
		if r.Verified != only.Sum() {
			t.Errorf("%s: verified %d bytes", mode, r.Verified)
		}
	}
	_, err := copytest.Verify(t.Context(), nbd.VerifyTask{Source: src, Target: copytest.Onto(to), Mode: job.VerifyFull},
		&nbd.Meter{})
	wantKind(t, err, job.Corrupt)
	r, err := copytest.Verify(t.Context(), nbd.VerifyTask{Source: src, Target: copytest.Onto(to), Mode: job.VerifyNone},
		&nbd.Meter{})
	check(t, err)
	if r.Verified != 0 {
		t.Error("none means none")
	}
}

func TestASampleHoldsBothEndsAndEnoughOfTheMiddle(t *testing.T) {
	const n = 1 << 30
	src, to := blank(t, n), blank(t, n)
	task := nbd.VerifyTask{Source: src, Target: copytest.Onto(to), Mode: job.VerifySample, Seed: 1}
	r, err := copytest.Verify(t.Context(), task, &nbd.Meter{})
	check(t, err)
	if r.Verified < 60*mib || r.Verified > 66*mib {
		t.Errorf("verified %d bytes", r.Verified)
	}
	for _, at := range []int64{0, mib - 1, n - mib, n - 1} {
		spoil(t, to, at)
		_, err := copytest.Verify(t.Context(), task, &nbd.Meter{})
		wantKind(t, err, job.Corrupt)
		spoil(t, to, at)
	}
}
