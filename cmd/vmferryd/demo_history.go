package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/store/history/mariadb"
)

// demoHistory is the database of the daemon's history: a MariaDB of the demo's own, or the file in the state directory.
type demoHistory struct {
	server *mariadb.Server // nil: the file
	dir    string          // of the server
	dsn    string          // file with the server's address
}

const (
	historyBytes = 128 << 20 // that an empty MariaDB takes
	historyFile  = "history.db"
	rowsQuery    = "SELECT progress_percent, current_operation, bytes_transferred FROM replication_jobs WHERE id = '%s'"
)

// startHistory starts a MariaDB if it is installed. One that does not start is no reason to stop the demo.
func (d *demo) startHistory(ctx context.Context) error {
	if _, err := mariadb.Find(); err != nil {
		return nil //nolint:nilerr // the history is a file then
	}
	h := demoHistory{dir: filepath.Join(d.dir, "mariadb")}
	err := h.start(ctx, d.dir)
	if ctx.Err() != nil {
		return errors.Join(ctx.Err(), h.stop())
	}
	if err != nil {
		d.words("MariaDB did not start, so the history is in a file: %v", errors.Join(err, h.stop()))
		return nil
	}
	d.stack.history = h
	return nil
}

func (h *demoHistory) start(ctx context.Context, dir string) error {
	if os.Geteuid() == 0 { // MariaDB runs as another user then, and must reach its folder
		if err := os.Chmod(dir, 0o711); err != nil { //nolint:gosec // it may be passed, and not be listed
			return err
		}
	}
	if err := os.Mkdir(h.dir, 0o711); err != nil { //nolint:gosec // likewise
		return err
	}
	server, err := mariadb.New(ctx, h.dir)
	if err != nil {
		return err
	}
	if err := server.Start(ctx); err != nil {
		return err
	}
	h.server = server
	h.dsn, err = server.WriteDSN(dir)
	return err
}

// stop ends the server and removes its files: nothing can read them without it.
func (h *demoHistory) stop() error {
	var err error
	if h.server != nil {
		err = h.server.Stop()
	}
	if h.dir != "" {
		err = errors.Join(err, os.RemoveAll(h.dir))
	}
	*h = demoHistory{}
	return err
}

// config is the section of the daemon's configuration.
func (h *demoHistory) config() string {
	if h.server == nil {
		return ""
	}
	return fmt.Sprintf("sql:\n  dsn_file: %s\n", h.dsn)
}

// where is the database, for people.
func (h *demoHistory) where(state string) string {
	if h.server == nil {
		return "SQLite, " + filepath.Join(state, historyFile)
	}
	return "MariaDB, " + h.server.Socket()
}

// command shows the row of a job, in a shell.
func (h *demoHistory) command(state string, id job.ID) string {
	query := fmt.Sprintf(rowsQuery, id)
	if h.server == nil {
		return fmt.Sprintf("sqlite3 %s \"%s\"", filepath.Join(state, historyFile), query)
	}
	return fmt.Sprintf("mariadb -S %s -u %s %s -e \"%s\"", h.server.Socket(), mariadb.User, mariadb.Database, query)
}
