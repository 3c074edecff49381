// Package mariadb runs a MariaDB server of its own: in one folder, at a unix socket, without a port, with small files.
// It is for tests, benchmarks and rehearsals. It needs Debian's mariadb-server-core only.
//
// A server that root starts runs as the user without rights, 65534. Its folder then belongs to that user, and the
// folders above it must let every user pass.
package mariadb

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/vmferry/vmferry/child"
	"github.com/vmferry/vmferry/job"
)

const (
	// User has all rights in Database, and is no administrator: a read-only server refuses it.
	User = "vmferry"
	// Database is there from the start, and empty.
	Database = "oma"
	// Admin is the administrator.
	Admin = "root"

	grace     = 20 * time.Second
	installed = "/usr/share/mysql"
	powerless = "65534" // user without rights
)

// accounts follow the system tables; each statement ends at the end of its line.
const accounts = "CREATE DATABASE " + Database + ";\nFLUSH PRIVILEGES;\n" +
	"CREATE USER " + Admin + "@localhost;\nGRANT ALL ON *.* TO " + Admin + "@localhost WITH GRANT OPTION;\n" +
	"CREATE USER " + User + "@localhost;\nGRANT ALL ON " + Database + ".* TO " + User + "@localhost;\n"

// Server is a server in a folder. One goroutine uses it.
type Server struct {
	dir     string
	program string
	options []string
	process *child.Process
}

// Find returns the path of the server's program. It fails with Missing.
func Find() (string, error) {
	for _, name := range []string{"mariadbd", "/usr/sbin/mariadbd", "/usr/local/sbin/mariadbd"} {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", job.Errorf("find MariaDB", job.Missing, "Install mariadb-server-core", "mariadbd is not installed")
}

// New makes the files of a server in dir, which exists, unless they are there; options are more ones of mariadbd, as
// --max-connections=5. It takes some seconds. Errors are of kind Missing or Internal.
func New(ctx context.Context, dir string, options ...string) (*Server, error) {
	program, err := Find()
	if err != nil {
		return nil, err
	}
	s := &Server{dir: dir, program: program, options: options}
	if _, err := os.Stat(s.data()); err == nil {
		return s, s.own()
	}
	if err := os.MkdirAll(filepath.Join(s.data(), "mysql"), 0o700); err != nil {
		return nil, err
	}
	if err := s.own(); err != nil {
		return nil, err
	}
	script := bytes.NewBufferString("USE mysql;\n")
	tables, err := os.ReadFile(filepath.Join(installed, "mysql_system_tables.sql"))
	if err != nil {
		return nil, job.Errorf("find MariaDB", job.Missing, "Install mariadb-server-core", "%w", err)
	}
	script.Write(tables)
	script.WriteString(accounts)
	cmd := exec.CommandContext(ctx, program, append(s.arguments(), "--bootstrap")...) //nolint:gosec // its own program
	cmd.Stdin = script
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, job.Errorf("make the files of MariaDB", job.Internal, "", "%w: %s", err,
			out[max(0, len(out)-600):])
	}
	return s, nil
}

func (s *Server) data() string { return filepath.Join(s.dir, "data") }

// Socket is where the server listens.
func (s *Server) Socket() string { return filepath.Join(s.dir, "s") }

// Log is the file that the server logs to.
func (s *Server) Log() string { return filepath.Join(s.dir, "log") }

// DSN is the address of a database for go-sql-driver.
func (s *Server) DSN(user, database string) string {
	return fmt.Sprintf("%s@unix(%s)/%s", user, s.Socket(), database)
}

// WriteDSN writes a file that sql.dsn_file can name: for User and Database. It returns its path.
func (s *Server) WriteDSN(dir string) (string, error) {
	path := filepath.Join(dir, "dsn")
	return path, os.WriteFile(path, []byte(s.DSN(User, Database)+"\n"), 0o600)
}

// own gives the folder to the user without rights, if root calls.
func (s *Server) own() error {
	if os.Geteuid() != 0 {
		return nil
	}
	u, err := user.LookupId(powerless)
	if err != nil {
		return err
	}
	uid, _ := strconv.Atoi(u.Uid) // numbers on Linux
	gid, _ := strconv.Atoi(u.Gid)
	return filepath.Walk(s.dir, func(path string, _ os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, uid, gid) //nolint:gosec // a folder that the caller has made
	})
}

func (s *Server) arguments() []string {
	args := []string{
		"--no-defaults", "--datadir=" + s.data(), "--socket=" + s.Socket(), "--skip-networking",
		"--pid-file=" + filepath.Join(s.dir, "pid"), "--innodb-log-file-size=4M", "--innodb-buffer-pool-size=16M",
		"--innodb-data-file-path=ibdata1:12M:autoextend", "--aria-log-file-size=8M", "--performance-schema=OFF",
	}
	if u, err := user.LookupId(powerless); err == nil && os.Geteuid() == 0 { // New has looked it up
		args = append(args, "--user="+u.Username)
	}
	return append(args, s.options...)
}

// Start starts the server and returns when it answers. Errors are those of child.Start.
func (s *Server) Start(ctx context.Context) (err error) {
	s.process, err = child.Start(ctx, child.Command{
		Name: "mariadbd", Argv: append([]string{s.program}, s.arguments()...), Log: s.Log(), Socket: s.Socket(),
		Grace: grace, Orphaned: syscall.SIGKILL,
	})
	return err
}

// Stop ends the server politely. It does nothing if the server does not run.
func (s *Server) Stop() error { return s.end(syscall.SIGTERM) }

// Kill ends the server at once.
func (s *Server) Kill() error { return s.end(syscall.SIGKILL) }

func (s *Server) end(sig syscall.Signal) error {
	if s.process == nil {
		return nil
	}
	err := errors.Join(s.Resume(), s.process.End(sig))
	s.process = nil
	return err
}

// Pause makes the server hang: it takes connections and answers nothing.
func (s *Server) Pause() error { return syscall.Kill(s.process.PID(), syscall.SIGSTOP) }

// Resume ends what Pause began.
func (s *Server) Resume() error {
	if err := syscall.Kill(s.process.PID(), syscall.SIGCONT); !errors.Is(err, syscall.ESRCH) {
		return err
	}
	return nil
}

// PID is the number of the running server's process.
func (s *Server) PID() int { return s.process.PID() }
