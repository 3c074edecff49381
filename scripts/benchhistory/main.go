// Command benchhistory measures what the history costs a MariaDB and an SQLite file.
//
//	start a MariaDB of its own, with the durability that it has by default
//	  write 10 000 jobs; read pages of 100 of them: rows that the server reads (Handler_read_*), time
//	  100 disks of 100 jobs run for a while: transactions in a second, CPU of this process and of the server
//	the same with an SQLite file, as far as it counts such things
//	copies of a VM by a daemon, in pairs: while a MariaDB hangs or is locked, and while it is not
//	write the figures between two marks of docs/benchmarks.md
//
// A running disk is what the daemon gives the history: a report every 2 s, and one call for all reports that are due,
// every 250 ms.
package main

import (
	"context"
	"database/sql"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	_ "github.com/go-sql-driver/mysql"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
	"github.com/vmferry/vmferry/scripts/document"
	"github.com/vmferry/vmferry/store/history"
	"github.com/vmferry/vmferry/store/history/mariadb"
)

// options is what the command line says.
type options struct {
	out   string // document that the figures go to; "" for none
	rows  int
	disks int
	run   time.Duration

	vmferryd string // path
	pairs    int    // of copies
	size     int64  // of the VM's disk, in bytes
}

const (
	tick     = 250 * time.Millisecond // between two calls
	interval = 2 * time.Second        // between two reports of a job
	page     = 100
	pages    = 20
)

func main() {
	var o options
	flag.StringVar(&o.out, "out", "docs/benchmarks.md", "write the figures into this document ('' only prints them)")
	flag.IntVar(&o.rows, "rows", 10_000, "jobs in the tables")
	flag.IntVar(&o.disks, "disks", 100, "running disks, each of a job of its own")
	flag.DurationVar(&o.run, "run", 20*time.Second, "how long they run")
	flag.StringVar(&o.vmferryd, "vmferryd", "bin/vmferryd", "the daemon that copies")
	flag.IntVar(&o.pairs, "pairs", 7, "pairs of copies for each trouble of the database; 0 for none")
	size := flag.String("size", "1GiB", "size of the disk that is copied")
	flag.Parse()
	document.Run("benchhistory", func(ctx context.Context, stdout io.Writer) (err error) {
		if o.size, err = job.ParseSize(*size); err != nil {
			return err
		}
		return run(ctx, o, stdout)
	})
}

func run(ctx context.Context, o options, stdout io.Writer) (err error) {
	if o.vmferryd, err = filepath.Abs(o.vmferryd); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "benchhistory")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := os.Chmod(dir, 0o711); err != nil { //nolint:gosec // MariaDB's user passes through
		return err
	}
	figures, err := ofMariaDB(ctx, o, dir)
	if err != nil {
		return err
	}
	lite := history.Config{Driver: history.SQLite, Path: filepath.Join(dir, "history.db"), Writer: "bench"}
	more, err := measure(ctx, o, "SQLite", lite, nil, 0)
	if err != nil {
		return err
	}
	figures = append(figures, more...)
	if o.pairs > 0 {
		if more, err = compareCopies(ctx, o, filepath.Join(dir, "c"), os.Stderr); err != nil {
			return err
		}
		figures = append(figures, more...)
	}
	text := section(o, figures)
	_, _ = io.WriteString(stdout, text)
	return marks.Write(o.out, text)
}

func ofMariaDB(ctx context.Context, o options, dir string) (figures []string, err error) {
	files := filepath.Join(dir, "m")
	if err := os.Mkdir(files, 0o711); err != nil { //nolint:gosec // MariaDB's user passes through
		return nil, err
	}
	server, err := mariadb.New(ctx, files)
	if err != nil {
		return nil, err
	}
	if err := server.Start(ctx); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, server.Stop()) }()
	dsn, err := server.WriteDSN(dir)
	if err != nil {
		return nil, err
	}
	counts, err := sql.Open("mysql", server.DSN(mariadb.Admin, mariadb.Database))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, counts.Close()) }()
	cfg := history.Config{Driver: history.MariaDB, DSNFile: dsn, Writer: "bench"}
	return measure(ctx, o, "MariaDB", cfg, counts, server.PID())
}

// measure measures one database. counts and pid are those of its server; nil and 0 without one.
func measure(ctx context.Context, o options, name string, cfg history.Config, counts *sql.DB, pid int) (
	figures []string, err error,
) {
	h, err := history.Open(cfg)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, h.Close()) }()
	took, err := fill(ctx, h, o.rows)
	if err != nil {
		return nil, err
	}
	figures = append(figures, line(name, fmt.Sprintf("%d jobs are written for the first time", o.rows),
		fmt.Sprintf("%.0f jobs/s", float64(o.rows)/took.Seconds()), "", true))
	more, err := readPages(ctx, h, name, counts)
	if err != nil {
		return nil, err
	}
	figures = append(figures, more...)
	more, err = runDisks(ctx, o, h, name, counts, pid)
	return append(figures, more...), err
}

func line(database, what, value, wanted string, met bool) string {
	result := ""
	if wanted != "" {
		result = map[bool]string{true: "met", false: "**missed**"}[met]
	}
	return fmt.Sprintf("| %s | %s | %s | %s | %s |", database, what, value, wanted, result)
}

func fill(ctx context.Context, h *history.DB, n int) (time.Duration, error) {
	begin := time.Now()
	for i := 0; i < n; i += 500 {
		var batch []history.Entry
		for k := i; k < min(n, i+500); k++ {
			batch = append(batch, entry(k, 1, job.StatusCompleted))
		}
		if err := h.Record(ctx, batch); err != nil {
			return 0, err
		}
	}
	return time.Since(begin), nil
}

// readPages reads the newest pages one after another.
func readPages(ctx context.Context, h *history.DB, name string, counts *sql.DB) ([]string, error) {
	before, err := rowsRead(ctx, counts)
	if err != nil {
		return nil, err
	}
	begin := time.Now()
	f := history.Filter{Limit: page}
	for range pages {
		p, err := h.Page(ctx, f)
		if err != nil {
			return nil, err
		}
		f.Cursor = p.Next
	}
	took := time.Since(begin) / pages
	figures := []string{
		line(name, fmt.Sprintf("a page of %d", page), took.Round(10*time.Microsecond).String(), "", true),
	}
	if counts == nil {
		return figures, nil
	}
	after, err := rowsRead(ctx, counts)
	if err != nil {
		return nil, err
	}
	idle, err := rowsRead(ctx, counts) // what asking costs by itself
	if err != nil {
		return nil, err
	}
	each := float64(after-before-(idle-after)) / pages
	return append(figures, line(name, "rows read in the server for it (Handler_read_*)", fmt.Sprintf("%.0f", each),
		"≤ 300", each <= 300)), nil
}

// rowsRead is the sum of the server's counters Handler_read_*.
func rowsRead(ctx context.Context, db *sql.DB) (int64, error) {
	if db == nil {
		return 0, nil
	}
	var n int64
	err := db.QueryRowContext(ctx, "SELECT SUM(variable_value) FROM information_schema.global_status WHERE "+
		"variable_name LIKE 'Handler_read_%'").Scan(&n)
	return n, err
}

func commits(ctx context.Context, db *sql.DB) (int64, error) {
	if db == nil {
		return 0, nil
	}
	var n int64
	err := db.QueryRowContext(ctx, "SELECT variable_value FROM information_schema.global_status WHERE "+
		"variable_name = 'Com_commit'").Scan(&n)
	return n, err
}

// runDisks records what running disks report, in the daemon's pace.
func runDisks(ctx context.Context, o options, h *history.DB, name string, counts *sql.DB, pid int) ([]string, error) {
	before, err := commits(ctx, counts)
	if err != nil {
		return nil, err
	}
	own, server := cpu(os.Getpid()), cpu(pid)
	begin, calls := time.Now(), 0
	slots := int(interval / tick)
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for n := 0; time.Since(begin) < o.run; n++ {
		var batch []history.Entry
		for d := n % slots; d < o.disks; d += slots {
			batch = append(batch, entry(d, int64(n+2), job.Running))
		}
		if err := h.Record(ctx, batch); err != nil {
			return nil, err
		}
		calls++
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	took := time.Since(begin).Seconds()
	what := fmt.Sprintf("%d running disks: ", o.disks)
	figures := []string{
		line(name, what+"CPU of the writing process", share(cpu(os.Getpid())-own, took), "", true),
	}
	if counts == nil {
		return append(figures, line(name, what+"transactions", rate(float64(calls)/took), "≤ 10 /s",
			float64(calls)/took <= 10)), nil
	}
	after, err := commits(ctx, counts)
	if err != nil {
		return nil, err
	}
	each := float64(after-before) / took
	return append(figures, line(name, what+"CPU of the server", share(cpu(pid)-server, took), "", true),
		line(name, what+"transactions", rate(each), "≤ 10 /s", each <= 10)), nil
}

func rate(n float64) string { return fmt.Sprintf("%.1f /s", n) }

func share(used time.Duration, took float64) string {
	return fmt.Sprintf("%.1f %% of one", used.Seconds()/took*100)
}

// cpu is the user and system time of a process; 0 for none.
func cpu(pid int) time.Duration {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, rest, ok := strings.Cut(string(text), ") ")
	words := strings.Fields(rest)
	if err != nil || !ok || len(words) < 13 {
		return 0
	}
	user, _ := strconv.ParseInt(words[11], 10, 64) // numbers on Linux
	system, _ := strconv.ParseInt(words[12], 10, 64)
	return time.Duration(user+system) * 10 * time.Millisecond
}

// entry is a report of a job with one disk.
func entry(n int, seq int64, status job.Status) history.Entry {
	total := int64(64 << 30)
	done := min(total, seq<<28)
	percent := float64(done) / float64(total) * 99
	speed := 200e6
	created := time.Date(2026, 1, 1, 0, 0, n, 0, time.UTC)
	r := report.Report{
		JobID: job.ID(fmt.Sprintf("job-20260101-%06d.000-%06x", n, n)), Epoch: 1, Seq: seq, Origin: report.Own,
		VM: report.VM{
			Name: fmt.Sprintf("vm-%d", n), Path: fmt.Sprintf("/DC0/vm/vm-%d", n), UUID: fmt.Sprintf("uuid-%d", n),
		},
		Mode: job.Full, Status: status, Phase: job.Transfer, Operation: "copies 1 disk, round 1 (full)", Round: 1,
		OverallPercent: percent, BytesToTransfer: &total, BytesTransferred: done, BytesPerSecond: &speed,
		CreatedAt: created, StartedAt: &created,
		Rounds: []report.Round{{Round: 1, Mode: job.Full, BytesToTransfer: total, BytesTransferred: done}},
		Disks: []report.Disk{{
			DiskID: "disk-2000", Label: "Hard disk 1", File: "[ds1] vm/vm.vmdk", Mode: job.Full,
			Status: job.DiskRunning, Percent: &percent, BytesCapacity: total, BytesToTransfer: &total,
			BytesTransferred: done, ChangeID: "52 de/7",
		}},
	}
	return history.Entry{Node: "local", Report: r}
}

// marks are those between which the figures stand in the document.
var marks = document.Marks{ //nolint:gochecknoglobals // a constant
	Begin: "<!-- benchhistory: written by make bench-history -->", End: "<!-- benchhistory: end -->",
}

func section(o options, figures []string) string {
	return fmt.Sprintf(`%s
## History

What the history costs its database, measured on %s by `+"`make bench-history`"+` with %d jobs in the tables.
%d cores, load average %s at the end. MariaDB is a server of its own, with the durability that it has by default.

| Database | What | Figure | Wanted | Result |
|---|---|---|---|---|
%s
%s
`, marks.Begin, time.Now().Format("2 January 2006"), o.rows, runtime.NumCPU(), document.LoadAverage(),
		strings.Join(figures, "\n"), marks.End)
}
