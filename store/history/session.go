package history

import (
	"context"
	"database/sql"
	"errors"
	"os"
	"sync"

	"github.com/vmferry/vmferry/job"
)

// session is an opened database: its pools, its tables as they are, and what was written to them since it was opened.
// After an error a new one is made, for the tables may be others then.
type session struct {
	write, read *sql.DB
	file        os.FileInfo // of the SQLite file when it was opened
	tables      map[string]*table

	// Only the goroutine that writes uses these. Each is dropped as a whole when it becomes too large.
	done   map[string]version // by the key of an entry: newest version that is in the tables
	rows   map[string]string  // what was written last to a row of a table that is not written with each report
	holder map[string]holder  // of vmferry_disks
}

// maxKept bounds what a session remembers, in rows of each kind.
const maxKept = 200_000

// sessions has the present session, and makes it when it is needed.
type sessions struct {
	h       *DB
	opening chan struct{} // holds one token while a session is made

	mu          sync.Mutex
	now         *session // nil: none, or the last one failed
	write, read *sql.DB  // of the last session: MariaDB's pool is used on
	info        os.FileInfo
}

// get returns the present session, or makes one. It waits at most until ctx ends.
func (s *sessions) get(ctx context.Context) (*session, error) {
	if n := s.present(); n != nil {
		return n, nil
	}
	select {
	case s.opening <- struct{}{}:
		defer func() { <-s.opening }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if n := s.present(); n != nil {
		return n, nil
	}
	n, err := s.open(ctx)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = n
	return n, nil
}

func (s *sessions) present() *session {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.now != nil && s.h.dsn == nil {
		if info, err := os.Stat(s.h.cfg.Path); err != nil || !os.SameFile(info, s.now.file) {
			s.now = nil // the file was removed or replaced: no program reads what is written to the old one
		}
	}
	return s.now
}

// open connects, brings the tables up to date and looks which columns they have. Only one goroutine calls it at a time.
func (s *sessions) open(ctx context.Context) (*session, error) {
	n := &session{done: map[string]version{}, rows: map[string]string{}, holder: map[string]holder{}}
	if err := s.pools(ctx); err != nil {
		return nil, err
	}
	n.write, n.read, n.file = s.write, s.read, s.info
	if err := s.h.migrate(ctx, n.write); err != nil {
		return nil, err
	}
	var err error
	n.tables, err = s.h.inspect(ctx, n.write)
	return n, err
}

// pools makes the pools anew if they are of another file, or if there are none.
func (s *sessions) pools(ctx context.Context) (err error) {
	if s.write != nil && s.h.dsn == nil {
		info, err := os.Stat(s.h.cfg.Path)
		if err != nil || !os.SameFile(info, s.info) {
			_ = s.close() // of a file that is gone
		}
	}
	if s.write != nil {
		return nil
	}
	write, read, err := s.h.connect(ctx)
	if err != nil {
		return err
	}
	if s.h.dsn == nil {
		if s.info, err = os.Stat(s.h.cfg.Path); err != nil {
			return errors.Join(err, write.Close(), read.Close())
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.write, s.read = write, read
	return nil
}

// drop ends a session after an error: the next call looks at the tables again.
func (s *sessions) drop(old *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.now == old {
		s.now = nil
	}
}

func (s *sessions) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	if s.write != nil {
		errs = append(errs, s.write.Close())
	}
	if s.read != nil && s.read != s.write {
		errs = append(errs, s.read.Close())
	}
	s.now, s.write, s.read = nil, nil, nil
	if err := errors.Join(errs...); err != nil {
		return job.Errorf("close history", job.Unavailable, "", "%w", err)
	}
	return nil
}
