package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/nbd"
)

// receipt says what was copied, for those who want to check it later: b3sum of the source tells the same digest, and so
// does that of the target's first bytes_capacity bytes.
type receipt struct {
	Source        string         `json:"source"` // without secrets, as the target
	Target        string         `json:"target"`
	BytesCapacity int64          `json:"bytes_capacity"`
	BLAKE3        string         `json:"blake3"`
	Digest        *string        `json:"digest"` // as in the report of the copy
	Verified      bool           `json:"verified"`
	Verify        job.VerifyMode `json:"verify"` // how
	StartedAt     time.Time      `json:"started_at"`
	FinishedAt    time.Time      `json:"finished_at"`
	Version       string         `json:"vmferry_version"`
}

// writeReceipt makes the receipt of a disk that is done and verified.
func writeReceipt(d *copyDisk, out *copyOutcome) error {
	const nothing = "everything is on the target, but there is no receipt: "
	r := copyResult(out)
	if r.BLAKE3 == nil {
		return job.Errorf("", job.Conflict, "Copy again, without an old checkpoint and without --request-size.",
			nothing+"the copy went on from a checkpoint that had no BLAKE3 digest, or its requests were too small for one")
	}
	text, err := json.MarshalIndent(receipt{
		Source: nbd.Redact(d.task.Source), Target: nbd.Redact(d.task.Target), BytesCapacity: r.BytesCapacity, BLAKE3: *r.BLAKE3,
		Digest: r.Digest, Verified: r.Verified, Verify: d.verify, StartedAt: out.began.UTC(), FinishedAt: out.ended.UTC(), Version: version,
	}, "", "  ")
	if err == nil {
		err = replaceFile(d.receipt, append(text, '\n'))
	}
	if err != nil {
		return job.Errorf("", job.IO, "", nothing+"%w", err)
	}
	return nil
}

// replaceFile makes a file durable, whole or not at all.
func replaceFile(path string, text []byte) (err error) {
	dir := filepath.Dir(path)
	f, err := os.OpenFile(path+".tmp", os.O_WRONLY|os.O_CREATE|os.O_TRUNC|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("make %s durable: %w", path, err)
	}
	return errors.Join(d.Sync(), d.Close())
}
