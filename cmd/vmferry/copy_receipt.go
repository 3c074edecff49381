package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/vmferry/vmferry/nbd"
)

// receipt says what was copied, for those who want to check it later: b3sum of the target must tell the same digest, up
// to bytes_capacity.
type receipt struct {
	Source        string    `json:"source"`
	Target        string    `json:"target"`
	BytesCapacity int64     `json:"bytes_capacity"`
	BLAKE3        string    `json:"blake3"`
	Digest        *string   `json:"digest"`
	Verified      bool      `json:"verified"`
	StartedAt     time.Time `json:"started_at"`
	FinishedAt    time.Time `json:"finished_at"`
	Version       string    `json:"vmferry_version"`
}

// writeReceipt makes the receipt durable, whole or not at all.
func writeReceipt(o *copyOptions, r copyReport, began time.Time) error {
	if r.BLAKE3 == nil {
		return fmt.Errorf("no receipt in %s: the copy went on from a checkpoint without one", o.receipt)
	}
	b, err := json.MarshalIndent(receipt{
		Source: nbd.Redact(o.task.Source), Target: nbd.Redact(o.task.Target), BytesCapacity: r.BytesCapacity, BLAKE3: *r.BLAKE3,
		Digest: r.Digest, Verified: r.Verified, StartedAt: began.UTC(), FinishedAt: time.Now().UTC(), Version: version,
	}, "", "  ")
	if err != nil {
		return fmt.Errorf("write receipt: %w", err)
	}
	f, err := os.CreateTemp(filepath.Dir(o.receipt), filepath.Base(o.receipt)+".*.tmp")
	if err != nil {
		return fmt.Errorf("write receipt: %w", err)
	}
	_, err = f.Write(append(b, '\n'))
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), o.receipt)
	}
	if err != nil {
		return fmt.Errorf("write receipt: %w", errors.Join(err, os.Remove(f.Name())))
	}
	return nil
}
