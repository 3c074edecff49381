package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/vmferry/vmferry/job"
)

// Leases returns the leases of all volumes that were ever granted, in no order.
func (j *Journal) Leases(ctx context.Context) ([]job.Lease, error) {
	return list(ctx, j.read, "list leases", func(rows *sql.Rows) (job.Lease, error) { return scanLease(rows) },
		leasesTable.query)
}

// Lease returns the lease of a volume. That of a volume that was never granted is free, and was never stored.
func (j *Journal) Lease(ctx context.Context, volume string) (job.Lease, error) {
	l, err := readLease(ctx, j.read, volume)
	if err != nil {
		return l, failure(ctx, "read lease", err)
	}
	return l, nil
}

// ChangeLease replaces a lease by next if the stored one still has the revision before, next.Revision-1. It fails with
// Conflict if another change was first; the same change once more is no error.
func (j *Journal) ChangeLease(ctx context.Context, next job.Lease) error {
	const op = "change lease"
	if next.Volume == "" || next.Revision < 1 {
		return job.Errorf(op, job.Internal, "", "a lease has no volume or no revision")
	}
	text, err := json.Marshal(next)
	if err != nil {
		return job.Errorf(op, job.Internal, "", "encode lease of %s: %w", next.Volume, err)
	}
	return j.tx(ctx, op, func(tx *sql.Tx) error {
		have, err := readLease(ctx, tx, next.Volume)
		if err != nil {
			return err
		}
		switch {
		case have.Revision == next.Revision && have == decoded(text):
			return nil
		case have.Revision != next.Revision-1:
			return job.Errorf(op, job.Conflict, "", "the lease of volume %s is at change %d; change %d does not follow",
				next.Volume, have.Revision, next.Revision)
		case next.Epoch < have.Epoch:
			return job.Errorf(op, job.Conflict, "", "the lease of volume %s has epoch %d; epoch %d is older",
				next.Volume, have.Epoch, next.Epoch)
		}
		return leasesTable.put(ctx, tx, next.Volume, next.Epoch, string(text))
	})
}

// decoded is a lease as it comes back.
func decoded(text []byte) (l job.Lease) {
	if json.Unmarshal(text, &l) != nil {
		return job.Lease{}
	}
	return l
}

// DropLeases removes free leases of volumes. One that is not free, or not there, is left as it is.
func (j *Journal) DropLeases(ctx context.Context, volumes []string) error {
	if len(volumes) == 0 {
		return nil
	}
	return j.tx(ctx, "drop leases", func(tx *sql.Tx) error {
		for _, v := range volumes {
			l, err := readLease(ctx, tx, v)
			if err == nil && l.Free() {
				_, err = tx.ExecContext(ctx, "DELETE FROM leases WHERE volume = ?", v)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

func readLease(ctx context.Context, q rowQuerier, volume string) (job.Lease, error) {
	l, err := scanLease(q.QueryRowContext(ctx, leasesTable.query+"WHERE volume = ?", volume))
	if errors.Is(err, sql.ErrNoRows) {
		return job.Lease{Volume: volume, State: job.LeaseFree}, nil
	}
	return l, err
}

func scanLease(row scanner) (l job.Lease, err error) {
	var volume string
	var epoch int64
	var text []byte
	if err := leasesTable.scan(row, &volume, &epoch, &text); err != nil {
		return l, err
	}
	if err := decode("lease of volume "+volume, text, &l); err != nil {
		return l, err
	}
	if l.Volume != volume || l.Epoch != epoch {
		return l, damaged(fmt.Errorf("lease of volume %s: its text is of volume %s, epoch %d", volume, l.Volume,
			l.Epoch))
	}
	return l, nil
}

const (
	epochFile   = "epoch.mark"
	epochFormat = "vmferry epochs of leases up to %020d\n"
	epochsAhead = 1000 // that are reserved with one write
)

// leaseEpochs gives out epochs. They are reserved ahead, in the journal and in the file epoch.mark beside it: a journal
// that was restored from a backup has an older number, the file stays. Where a whole older directory was put back, the
// clock is what is left: epochs are at least the time in ms since 1970.
type leaseEpochs struct {
	mu    sync.Mutex
	last  int64
	limit int64 // reserved up to here; 0: nothing was reserved yet by this process
}

// NextLeaseEpoch returns an epoch greater than above, and greater than all that it has returned before, also to earlier
// processes and before the journal was restored. now need not be right.
func (j *Journal) NextLeaseEpoch(ctx context.Context, above int64, now time.Time) (int64, error) {
	e := &j.leaseEpochs
	e.mu.Lock()
	defer e.mu.Unlock()
	last := e.last
	if e.limit == 0 {
		used, err := j.usedEpochs(ctx)
		if err != nil {
			return 0, err
		}
		last = used
	}
	next := max(last, above) + 1
	if next > e.limit {
		next = max(next, now.UnixMilli())
		if err := j.reserveEpochs(ctx, next+epochsAhead); err != nil {
			return 0, err
		}
		e.limit = next + epochsAhead
	}
	e.last = next
	return next, nil
}

// usedEpochs is the greatest epoch that may have been used.
func (j *Journal) usedEpochs(ctx context.Context) (used int64, err error) {
	const op = "read epochs of leases"
	if _, err := countersTable.get(ctx, j.read, "WHERE name = ?", []any{counterLeases}, nil, &used); err != nil {
		return 0, failure(ctx, op, err)
	}
	text, err := os.ReadFile(filepath.Join(j.dir, epochFile))
	if errors.Is(err, fs.ErrNotExist) {
		return used, nil
	}
	if err != nil {
		return 0, fileFailure(op, err)
	}
	var marked int64
	if _, err := fmt.Sscanf(string(text), epochFormat, &marked); err != nil ||
		string(text) != fmt.Sprintf(epochFormat, marked) {
		return 0, job.Errorf(op, job.Corrupt, "End all exports of this node, then remove "+epochFile,
			"%s is damaged, so it cannot say which epochs were used", epochFile)
	}
	return max(used, marked), nil
}

// reserveEpochs makes durable, in both places, that epochs up to limit may be used.
func (j *Journal) reserveEpochs(ctx context.Context, limit int64) error {
	const op = "reserve epochs of leases"
	if err := j.replaceFile(filepath.Join(j.dir, epochFile), fmt.Sprintf(epochFormat, limit)); err != nil {
		return fileFailure(op, err)
	}
	return j.tx(ctx, op, func(tx *sql.Tx) error { return countersTable.put(ctx, tx, counterLeases, limit) })
}
