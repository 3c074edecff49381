package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vmferry/vmferry/job"
)

const (
	copiesMost   = 2                  // copies of earlier journals that are kept
	copyUnready  = "journal.db.copy"  // the name of a copy until it is complete
	copyTime     = "20060102T150405Z" // in the names of copies
	migrateSpare = 16 << 20           // bytes that must be free beside twice the journal's size
)

// copyName has the version of the tables and the time.
var copyName = regexp.MustCompile(`^journal\.db\.v(\d+)-(\d{8}T\d{6}Z)$`)

// journalCopy is a copy of the journal as it was before its tables were changed.
type journalCopy struct {
	name    string
	version int64
	at      string
}

// copies lists the copies beside the journal, the newest first.
func copies(dir string) ([]journalCopy, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var out []journalCopy
	for _, e := range entries {
		m := copyName.FindStringSubmatch(e.Name())
		if m == nil || !e.Type().IsRegular() {
			continue
		}
		version, err := strconv.ParseInt(m[1], 10, 64)
		if err == nil {
			out = append(out, journalCopy{e.Name(), version, m[2]})
		}
	}
	slices.SortFunc(out, func(a, b journalCopy) int { return strings.Compare(b.at, a.at) })
	return out, nil
}

// keepCopy keeps the journal as it is, beside it, before its tables are brought from that version to the newest one.
// With it an older program can be used again. Of each version the newest copy is kept, and two in all.
func (j *Journal) keepCopy(ctx context.Context, dir string, version int64, now time.Time) error {
	const op = "copy the journal before its tables are changed"
	if version == 0 || version >= tablesVersion {
		return nil
	}
	if err := j.roomForCopy(ctx, op, dir); err != nil {
		return err
	}
	unready := filepath.Join(dir, copyUnready)
	if err := os.Remove(unready); err != nil && !errors.Is(err, fs.ErrNotExist) { // of a start that was killed
		return fileFailure(op, err)
	}
	f, err := os.OpenFile(unready, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600) // SQLite takes an empty file, and its mode
	if err != nil {
		return fileFailure(op, err)
	}
	_, err = j.write.ExecContext(ctx, "VACUUM INTO ?", unready)
	if err == nil {
		err = j.sync(f)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(failure(ctx, op, err), os.Remove(unready))
	}
	name := fmt.Sprintf("%s.v%d-%s", journalFile, version, now.UTC().Format(copyTime))
	if err := os.Rename(unready, filepath.Join(dir, name)); err != nil {
		return fileFailure(op, err)
	}
	if err := j.syncDir(dir); err != nil {
		return fileFailure(op, err)
	}
	j.log.Info("the tables of the journal are brought to a newer version; the journal as it was is kept",
		"from", version, "to", tablesVersion, "copy", filepath.Join(dir, name))
	return dropCopies(op, dir)
}

func (j *Journal) roomForCopy(ctx context.Context, op, dir string) error {
	var size int64
	err := j.write.QueryRowContext(ctx, "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size").
		Scan(&size)
	if err != nil {
		return failure(ctx, op, err)
	}
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return fileFailure(op, err)
	}
	if free, need := int64(s.Bavail)*s.Bsize, 2*size+migrateSpare; free < need {
		return job.Errorf(op, job.NoSpace, "Free "+job.FormatSize(need-free)+" more on the file system of "+dir,
			"the journal has %s; its copy and the change of its tables need %s, %s are free", job.FormatSize(size),
			job.FormatSize(need), job.FormatSize(free))
	}
	return nil
}

// dropCopies removes copies that are not kept any more.
func dropCopies(op, dir string) error {
	all, err := copies(dir)
	if err != nil {
		return fileFailure(op, err)
	}
	kept := map[int64]bool{}
	for _, c := range all {
		if !kept[c.version] && len(kept) < copiesMost {
			kept[c.version] = true
			continue
		}
		if err := os.Remove(filepath.Join(dir, c.name)); err != nil {
			return fileFailure(op, err)
		}
	}
	return nil
}

// newer is the error for a journal that a newer program wrote. Its next step is how to go back.
func newer(op, dir string, version int64) error {
	next := "Start the newer vmferry that wrote this state directory, or give this one another state_dir: " +
		"there is no copy of an older journal beside it"
	all, err := copies(dir)
	if err == nil {
		for _, c := range all {
			if c.version <= tablesVersion {
				next = fmt.Sprintf("Start the newer vmferry again. Or go back to the journal of version %d, and lose "+
					"what was done since, by: %s", c.version, goBack(dir, c))
				break
			}
		}
	}
	return job.Errorf(op, job.Corrupt, next, "its tables are of version %d, this program knows versions up to %d",
		version, tablesVersion)
}

// goBack is a command that puts the journal aside and a copy in its place. Without journal.mark the copy is taken as
// possibly older than the targets: what it says of them is not believed.
func goBack(dir string, c journalCopy) string {
	return fmt.Sprintf("cd %s && mkdir journal.newer && "+
		"find . -maxdepth 1 '(' -name journal.db -o -name 'journal.db-*' -o -name journal.mark ')' "+
		"-exec mv -t journal.newer '{}' + && cp -p %s journal.db", quoted(dir), c.name)
}

// quoted is a text for a shell.
func quoted(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// JournalState is what can be seen of a journal without using it.
type JournalState struct {
	Version, Known int64    // of its tables, and the newest that this program knows
	Size           int64    // bytes of the file
	Copies         []string // names of the copies of earlier versions, the newest first
}

// LookAtJournal looks at the journal in a state directory, also while a daemon uses it. It changes nothing. An error is
// of kind NotFound if there is none, and Corrupt if a newer program wrote it.
func LookAtJournal(ctx context.Context, dir string) (s JournalState, err error) {
	path := filepath.Join(dir, journalFile)
	op := "look at journal " + path
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return s, &job.Error{Op: op, Kind: job.NotFound, Err: err}
	}
	if err != nil {
		return s, fileFailure(op, err)
	}
	s.Known, s.Size = tablesVersion, info.Size()
	all, err := copies(dir)
	if err != nil {
		return s, fileFailure(op, err)
	}
	for _, c := range all {
		s.Copies = append(s.Copies, c.name)
	}
	db, err := sql.Open("sqlite", (&url.URL{Scheme: "file", Path: path}).String()+readOnly(path))
	if err != nil {
		return s, failure(ctx, op, err)
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if s.Version, err = versionOf(ctx, op, dir, db); err != nil {
		return s, failure(ctx, op, err)
	}
	return s, nil
}
