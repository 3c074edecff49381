package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/vmferry/vmferry/child"
	"github.com/vmferry/vmferry/http/rest"
	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
	"github.com/vmferry/vmferry/store/history/mariadb"
)

// trouble is what the database does while a copy runs. spoil returns how it is mended.
type trouble struct {
	name  string
	spoil func(context.Context, *copies) (mend func() error, err error)
}

// copies are a rehearsal vCenter with one VM, a daemon whose history is in MariaDB, and that MariaDB.
type copies struct {
	server          *mariadb.Server
	admin           *sql.DB
	vcenter, daemon *child.Process
	client          *rest.Client
}

// passed is one copy.
type passed struct{ wall, cpu, right time.Duration }

const rightMost = time.Minute // that the row of a job may take to be right

func troubles() []trouble {
	return []trouble{
		{"nothing is wrong (noise)", func(context.Context, *copies) (func() error, error) {
			return func() error { return nil }, nil
		}},
		{"it hangs (SIGSTOP)", func(_ context.Context, k *copies) (func() error, error) {
			return k.server.Resume, k.server.Pause()
		}},
		{"its table is locked (LOCK TABLES)", lockTable},
	}
}

func lockTable(ctx context.Context, k *copies) (func() error, error) {
	c, err := k.admin.Conn(ctx)
	if err != nil {
		return nil, err
	}
	if _, err := c.ExecContext(ctx, "LOCK TABLES replication_jobs WRITE"); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return func() error {
		_, err := c.ExecContext(ctx, "UNLOCK TABLES")
		return errors.Join(err, c.Close())
	}, nil
}

// compareCopies compares copies while the database has a trouble with copies while it has none, in pairs.
func compareCopies(ctx context.Context, o options, dir string, say io.Writer) (figures []string, err error) {
	k := &copies{}
	defer func() { err = errors.Join(err, k.end()) }()
	if err := k.begin(ctx, o, dir); err != nil {
		return nil, err
	}
	none := troubles()[0]
	if _, err := k.copy(ctx, none); err != nil { // the first one makes the target
		return nil, err
	}
	for _, t := range troubles() {
		var walls, cpus []float64
		worst := time.Duration(0)
		for i := range o.pairs {
			usual, spoiled, err := k.pair(ctx, none, t, i%2 == 1)
			if err != nil {
				return nil, err
			}
			walls = append(walls, float64(spoiled.wall)/float64(usual.wall))
			cpus = append(cpus, float64(spoiled.cpu)/float64(usual.cpu))
			worst = max(worst, spoiled.right)
			_, _ = fmt.Fprintf(say, "%s: %.2f s, else %.2f s; CPU %.2f s, else %.2f s; right after %.2f s\n", t.name,
				spoiled.wall.Seconds(), usual.wall.Seconds(), spoiled.cpu.Seconds(), usual.cpu.Seconds(),
				spoiled.right.Seconds())
		}
		figures = append(figures, k.figures(o, t, walls, cpus, worst)...)
	}
	return figures, nil
}

// pair copies twice: without a trouble and with one, or the other way round.
func (k *copies) pair(ctx context.Context, none, t trouble, turned bool) (usual, spoiled passed, err error) {
	if turned {
		if spoiled, err = k.copy(ctx, t); err == nil {
			usual, err = k.copy(ctx, none)
		}
		return usual, spoiled, err
	}
	if usual, err = k.copy(ctx, none); err == nil {
		spoiled, err = k.copy(ctx, t)
	}
	return usual, spoiled, err
}

// figures are the lines of one trouble. That of no trouble says how far two equal copies differ.
func (k *copies) figures(o options, t trouble, walls, cpus []float64, worst time.Duration) []string {
	wall, cpu := median(walls), median(cpus)
	wanted, wantedTime := "≤ +2 %", "≤ 10 s"
	if t.name == troubles()[0].name {
		wanted, wantedTime = "", ""
	}
	what := fmt.Sprintf("a copy of %s while %s: ", job.FormatSize(o.size), t.name)
	return []string{
		line("MariaDB", fmt.Sprintf("%stime, median of %d pairs", what, o.pairs), percentMore(walls), wanted,
			wall <= 1.02),
		line("MariaDB", what+"CPU of the daemon, likewise", percentMore(cpus), wanted, cpu <= 1.02),
		line("MariaDB", what+"until its row is right afterwards, the longest", fmt.Sprintf("%.1f s", worst.Seconds()),
			wantedTime, worst <= 10*time.Second),
	}
}

func median(list []float64) float64 {
	sorted := slices.Sorted(slices.Values(list))
	return (sorted[(len(sorted)-1)/2] + sorted[len(sorted)/2]) / 2
}

// percentMore is the median, and the least and greatest ratio.
func percentMore(list []float64) string {
	more := func(x float64) string { return fmt.Sprintf("%+.1f %%", (x-1)*100) }
	return fmt.Sprintf("%s (%s to %s)", more(median(list)), more(slices.Min(list)), more(slices.Max(list)))
}

func (k *copies) begin(ctx context.Context, o options, dir string) error {
	for _, sub := range []string{"db", "vc", "t"} {
		//nolint:gosec // MariaDB's user passes through
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o711); err != nil {
			return err
		}
	}
	dsn, err := k.database(ctx, dir)
	if err != nil {
		return err
	}
	return k.serve(ctx, o, dir, dsn)
}

// database starts the MariaDB, and returns the file with its address.
func (k *copies) database(ctx context.Context, dir string) (dsn string, err error) {
	if k.server, err = mariadb.New(ctx, filepath.Join(dir, "db")); err != nil {
		return "", err
	}
	if err := k.server.Start(ctx); err != nil {
		return "", err
	}
	if k.admin, err = sql.Open("mysql", k.server.DSN(mariadb.Admin, mariadb.Database)); err != nil {
		return "", err
	}
	return k.server.WriteDSN(dir)
}

// serve starts the vCenter and the daemon.
func (k *copies) serve(ctx context.Context, o options, dir, dsn string) error {
	at := func(name string) string { return filepath.Join(dir, name) }
	err := fillFile(at("disk.raw"), o.size)
	if err != nil {
		return err
	}
	var sim struct {
		URL          string `json:"url"`
		User         string `json:"user"`
		PasswordFile string `json:"password_file"`
		Thumbprint   string `json:"thumbprint"`
	}
	vcenter := child.NewProgram(dir, "vcenter", o.vmferryd, "sim", "vcenter", "--vm", "web", "--in-place", "--dir",
		at("vc"), "--disk", at("disk.raw"), "-o", "json").Command
	vcenter.Answer = &sim
	if k.vcenter, err = child.Start(ctx, vcenter); err != nil {
		return err
	}
	config := fmt.Sprintf(`listen: unix:%s
state_dir: %s
vcenter: {url: %q, user: %q, password_file: %q, thumbprint: %q}
source: {transport: curl}
targets: {roots: [%s]}
sql: {dsn_file: %s}
`, at("d.sock"), at("s"), sim.URL, sim.User, sim.PasswordFile, sim.Thumbprint, at("t"), dsn)
	if err := os.WriteFile(at("vmferry.yaml"), []byte(config), 0o600); err != nil {
		return err
	}
	daemon := child.NewProgram(dir, "daemon", o.vmferryd, "serve", "--config", at("vmferry.yaml")).Command
	daemon.Socket = at("d.sock")
	if k.daemon, err = child.Start(ctx, daemon); err != nil {
		return err
	}
	k.client, err = rest.NewClient("unix:" + at("d.sock"))
	return err
}

func (k *copies) end() error {
	var errs []error
	if k.client != nil {
		k.client.Close()
	}
	errs = append(errs, k.daemon.End(syscall.SIGTERM), k.vcenter.End(syscall.SIGTERM))
	if k.admin != nil {
		errs = append(errs, k.admin.Close())
	}
	if k.server != nil {
		errs = append(errs, k.server.Stop())
	}
	return errors.Join(errs...)
}

// copy moves the whole VM once, while the database has a trouble.
func (k *copies) copy(ctx context.Context, t trouble) (p passed, err error) {
	mend, err := t.spoil(ctx, k)
	if err != nil {
		return p, err
	}
	before := cpu(k.daemon.PID())
	r, err := k.move(ctx)
	p.cpu = cpu(k.daemon.PID()) - before
	if err := errors.Join(err, mend()); err != nil {
		return p, err
	}
	mended := time.Now()
	if r.Status != job.StatusCompleted {
		return p, fmt.Errorf("job %s is %s: %v", r.JobID, r.Status, r.Error)
	}
	for _, phase := range r.Phases {
		if phase.Name == job.Transfer && phase.DurationSeconds != nil {
			p.wall += time.Duration(*phase.DurationSeconds * float64(time.Second))
		}
	}
	err = k.right(ctx, r.JobID)
	p.right = time.Since(mended)
	return p, err
}

func (k *copies) move(ctx context.Context) (report.Report, error) {
	spec, err := job.Spec{VM: "web", Mode: job.Full, Options: job.Options{Verify: job.VerifyNone}}.Normal()
	if err != nil {
		return report.Report{}, err
	}
	last, _, err := k.client.Submit(ctx, spec, rest.SubmitOptions{})
	if err != nil {
		return last, err
	}
	err = k.client.Watch(ctx, "", func(r report.Report) error {
		if last = r; r.Status.Terminal() {
			return io.EOF
		}
		return nil
	}, last.JobID)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return last, err
}

// right waits until the row of a job says that it is completed.
func (k *copies) right(ctx context.Context, id job.ID) error {
	query := "SELECT COUNT(*) FROM replication_jobs WHERE id = ? AND progress_percent = 100 AND status = 'completed'"
	return child.Until(ctx, 50*time.Millisecond, rightMost, "the row of "+string(id), func() bool {
		n := 0
		err := k.admin.QueryRowContext(ctx, query, string(id)).Scan(&n)
		return err == nil && n == 1
	})
}

// fillFile makes a disk without zeros and without repetitions.
func fillFile(path string, size int64) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = io.CopyN(f, rand.NewChaCha8([32]byte{1}), size)
	return errors.Join(err, f.Close())
}
