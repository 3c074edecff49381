package store

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/vmferry/vmferry/job"
)

const (
	markFile   = "journal.mark"
	markFormat = "vmferry journal %s write %020d\n" // all marks have one length, so that each replaces the one before
)

const (
	nextLost = "Put back the journal.db-wal that belongs to it. If that is gone for good, remove journal.mark to go " +
		"on with what is left: the next round of each disk is a full one then"
	nextMark = "Restore the journal.db and journal.db-wal that belong to it, or remove journal.mark to go on with " +
		"what is there: the next round of each disk is a full one then"
)

// mark is the file journal.mark: the number of the newest write of the journal, kept outside of it. Each transaction
// counts one up in the journal, and the file gets the number after the commit. So a journal with a lower number than
// the file's has lost writes: SQLite takes a log that was cut, or that is not there, for one that ended there. The file
// is not flushed: after a power loss it may have an older number, which is harmless.
type mark struct {
	mu      sync.Mutex
	file    *os.File // nil until the journal is open
	id      string
	number  int64 // of the newest transaction that was begun
	written int64 // newest in the file
}

// marked is what a journal or a mark says of itself: whose it is, and its newest write. In the journal it is one row,
// which each transaction writes: so a log always says of which journal it is.
type marked struct {
	ID     string `json:"id"` // random: no other journal has it
	Number int64  `json:"write"`
}

// addMark gives a journal its id, and a number that no write has had: it never had a mark.
func addMark(ctx context.Context, tx *sql.Tx) error {
	return setSetting(ctx, tx, settingJournal, marked{ID: rand.Text()})
}

// readMarked returns what the journal says of itself.
func readMarked(ctx context.Context, q rowQuerier) (m marked, err error) {
	found, err := setting(ctx, q, settingJournal, &m)
	if err == nil && !found {
		err = damaged(errors.New("the journal has no id"))
	}
	return m, err
}

// readMark reads the file; nil without an error if there is none.
func readMark(op, dir string) (*marked, error) {
	text, err := os.ReadFile(filepath.Join(dir, markFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var m marked
	if _, err := fmt.Sscanf(string(text), markFormat, &m.ID, &m.Number); err != nil || string(text) != m.text() {
		return nil, job.Errorf(op, job.Corrupt, nextMark,
			"%s is damaged, so it cannot say whether the journal is complete", markFile)
	}
	return &m, nil
}

func (m marked) text() string { return fmt.Sprintf(markFormat, m.ID, m.Number) }

// checkMark compares the journal with its mark. A journal that has no mark, but had one, is a backup: see forget.
func checkMark(op string, have marked, mark *marked) error {
	switch {
	case mark == nil:
		return nil
	case mark.ID != have.ID:
		return job.Errorf(op, job.Corrupt, nextMark, "%s belongs to another journal: this one is from another state "+
			"directory, is new, or its log journal.db-wal is from another one or gone", markFile)
	case mark.Number > have.Number:
		return job.Errorf(op, job.Corrupt, nextLost, "its last %d writes are lost: it is at write %d, %s says %d. "+
			"Its log journal.db-wal was removed, cut or damaged, or this is a backup", mark.Number-have.Number,
			have.Number, markFile, mark.Number)
	default:
		return nil
	}
}

// openMark opens the file, and makes it if there is none. The next transaction gives the journal a number that says
// that there is one; first is true if that is its first one.
func (j *Journal) openMark(ctx context.Context, dir string) (first bool, err error) {
	have, err := readMarked(ctx, j.write)
	if err != nil {
		return false, err
	}
	j.mark.id, j.mark.number = have.ID, have.Number
	path := filepath.Join(dir, markFile)
	_, err = os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		if have.Number > 0 {
			if err := j.forget(ctx); err != nil {
				return false, err
			}
		}
		err = j.replaceFile(path, marked{j.mark.id, j.mark.number}.text())
	}
	if err != nil {
		return false, err
	}
	j.mark.mu.Lock()
	defer j.mark.mu.Unlock()
	j.mark.file, err = os.OpenFile(path, os.O_RDWR, 0) // no O_TRUNC: a kill must not leave an empty one
	return have.Number == 0, err
}

// replaceFile makes a file anew, durable: a file that was written without a flush can be empty after a power loss.
func (j *Journal) replaceFile(path, text string) error {
	f, err := os.OpenFile(path+".new", os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	if err == nil {
		err = j.sync(f)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return err
	}
	return j.syncDir(filepath.Dir(path))
}

// forget is for a journal that was restored from a backup, or whose mark was removed: what came after its last write is
// not known, so nothing that it says of a target is believed. Its sets are dropped, and its volumes get new ids, as if
// they were adopted: no checkpoint fits them. Its jobs stay. The journal gets another id, so that an old mark does not
// fit it any more.
func (j *Journal) forget(ctx context.Context) error {
	sets, volumes := 0, 0
	j.mark.id = rand.Text()
	err := j.tx(ctx, "forget what may be old", func(tx *sql.Tx) (err error) {
		if sets, err = dropSets(ctx, tx); err != nil {
			return err
		}
		volumes, err = renewVolumes(ctx, tx)
		return err
	})
	if err != nil {
		return err
	}
	j.log.Warn("the journal has no journal.mark, so it may be older than the targets: the next round of each disk is "+
		"a full one", "write", j.mark.number, "sets", sets, "volumes", volumes)
	return nil
}

// begin counts a transaction. Numbers are never used again, also not that of a transaction that failed.
func (m *mark) begin(ctx context.Context, tx *sql.Tx) (int64, error) {
	m.mu.Lock()
	m.number++
	number := m.number
	m.mu.Unlock()
	return number, setSetting(ctx, tx, settingJournal, marked{m.id, number})
}

// end writes the number of a transaction that is durable.
func (m *mark) end(number int64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.file == nil || number <= m.written {
		return nil
	}
	if _, err := m.file.WriteAt([]byte(marked{m.id, number}.text()), 0); err != nil {
		return err
	}
	m.written = number
	return nil
}

func (m *mark) close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.file == nil {
		return nil
	}
	return m.file.Close()
}
