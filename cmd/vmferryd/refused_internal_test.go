package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vmferry/vmferry/app"
	"github.com/vmferry/vmferry/cmd/internal/cli"
	"github.com/vmferry/vmferry/http/rest"
	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/vsphere/sim"
)

// refusing is a daemon for a rehearsal vCenter with a VM of two disks, two VMs of one name, and one with a disk that
// can't be copied.
type refusing struct {
	dir     string
	vcenter *sim.VCenter
	cfg     app.Config
	daemon  *app.Daemon
}

func newRefusing(t *testing.T) *refusing {
	t.Helper()
	r := &refusing{dir: t.TempDir()}
	r.file(t, "a.raw", 8<<20)
	r.file(t, "b.raw", 4<<20)
	r.file(t, "targets/small.raw", 1<<20)
	image := filepath.Join(r.dir, "b.raw")
	var err error
	r.vcenter, err = sim.Start(t.Context(), sim.Options{Password: job.NewSecret("rehearsal"), VMs: []sim.VM{
		{Name: "web", Disks: []string{filepath.Join(r.dir, "a.raw"), image}},
		{Name: "twin", Folder: "one", Disks: []string{image}},
		{Name: "twin", Folder: "two", Disks: []string{image}},
		{Name: "shared", Disks: []string{image}, Unfit: map[int]string{0: "shared"}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.vcenter.Close(); err != nil {
			t.Error(err)
		}
	})
	r.cfg = app.DefaultConfig()
	r.cfg.Listen, r.cfg.StateDir = "127.0.0.1:0", filepath.Join(r.dir, "s")
	r.cfg.Targets.Roots = []string{filepath.Join(r.dir, "targets")}
	r.cfg.VCenter.URL, r.cfg.VCenter.User = r.vcenter.URL(), r.vcenter.User()
	r.cfg.VCenter.Thumbprint, r.cfg.VCenter.PasswordFile = r.vcenter.Thumbprint(), filepath.Join(r.dir, "password")
	r.password(t, "rehearsal")
	r.daemon = r.start(t, r.cfg)
	return r
}

func (r *refusing) start(t *testing.T, cfg app.Config) *app.Daemon {
	t.Helper()
	d, err := app.Start(t.Context(), cfg, slog.New(slog.DiscardHandler), "test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Stop(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	return d
}

func (r *refusing) file(t *testing.T, name string, size int64) {
	t.Helper()
	path := filepath.Join(r.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
}

func (r *refusing) target(name string) string { return filepath.Join(r.dir, "targets", name) }

func (r *refusing) password(t *testing.T, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(r.dir, "password"), []byte(text+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
}

// run is one command line; it returns the exit code and standard error.
func (r *refusing) run(t *testing.T, d *app.Daemon, args ...string) (code int, words string) {
	t.Helper()
	var out, errs bytes.Buffer
	s := cli.Streams{Out: &out, Err: &errs, Getenv: func(string) string { return "" }}
	code = cli.Execute(t.Context(), s, append(args, "--server", d.URL()), commands(s)...)
	return code, errs.String()
}

// state is all that a request could have changed: jobs, volumes, and the files of the targets.
func (r *refusing) state(t *testing.T) map[string]string {
	t.Helper()
	c, err := rest.NewClient(r.daemon.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	all, err := c.Jobs(t.Context(), rest.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	rows, err := c.Volumes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, j := range all {
		out["job "+string(j.JobID)] = string(j.Status)
	}
	for _, v := range rows {
		out["volume "+v.Target] = v.ID
	}
	err = filepath.WalkDir(filepath.Join(r.dir, "targets"), func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		out["file "+path] = fmt.Sprintf("%x", sha256.Sum256(b))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestARequestThatCannotWorkMakesNoJobAndChangesNothing(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a daemon")
	}
	r := newRefusing(t)
	held := r.target("held.raw")
	if err := os.WriteFile(held, bytes.Repeat([]byte{0xAA}, 8<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	both := func(first, second string) []string {
		return []string{"web", "--target", "disk-2000=" + first, "--target", "disk-2001=" + second}
	}
	before := r.state(t)
	for name, tc := range map[string]struct {
		args []string
		code int
		want string // in what is said
	}{
		"no such VM":                  {[]string{"nosuch"}, 10, "has no such VM"},
		"no VM at that path":          {[]string{"/DC0/vm/nosuch"}, 10, "has no such VM"},
		"a name of two VMs":           {[]string{"twin"}, 2, "/DC0/vm/two/twin"},
		"a disk that can't be copied": {[]string{"shared"}, 2, "disk-2000"},
		"a disk that the VM lacks": {
			append(both(r.target("x.raw"), r.target("y.raw")), "--target", "disk-9="+r.target("z.raw")), 2, "disk-9",
		},
		"a disk without a target": {
			[]string{"web", "--target", "disk-2000=" + r.target("x.raw")}, 2, "disk-2001",
		},
		"a target that is not allowed":  {both("/etc/passwd", r.target("y.raw")), 2, "/etc/passwd"},
		"an export that is not allowed": {both("nbd://192.0.2.1/x", r.target("y.raw")), 2, "192.0.2.1"},
		"a target that is a folder":     {both(filepath.Dir(held), r.target("y.raw")), 2, "targets"},
		"a target too small":            {both(r.target("small.raw"), r.target("y.raw")), 2, "small.raw"},
		"a name of another format":      {both(r.target("x.qcow2"), r.target("y.raw")), 2, "qcow2"},
		"one target for two disks":      {both(r.target("x.raw"), r.target("x.raw")), 2, "the same target"},
		"a target with data of others":  {both(held, r.target("y.raw")), 7, "--adopt"},
		"incremental without a round":   {[]string{"web", "--mode", "incremental"}, 7, "never copied"},
		"an unknown mode":               {[]string{"web", "--mode", "fast"}, 2, "fast"},
		"an unknown verification":       {[]string{"web", "--verify", "some"}, 2, "some"},
		"a job id with a space":         {[]string{"web", "--job-id", "a b"}, 2, "a b"},
		"a target without a disk":       {[]string{"web", "--target", "x.raw"}, 2, "x.raw"},
		"a negative bandwidth":          {[]string{"web", "--bandwidth", "-1"}, 2, "-1"},
		"too many disks at once":        {[]string{"web", "--disks", "1000"}, 2, "256"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, more := range [][]string{nil, {"--idempotency-key", strings.ReplaceAll(name, " ", "-")}} {
				code, words := r.run(t, r.daemon, slices.Concat([]string{"run"}, tc.args, more)...)
				if code != tc.code || !strings.Contains(words, tc.want) {
					t.Errorf("exit code %d, want %d; %q, want %q in it", code, tc.code, words, tc.want)
				}
			}
			if diff := cmp.Diff(before, r.state(t)); diff != "" {
				t.Errorf("the request changed something (-before +after):\n%s", diff)
			}
		})
	}
	if list, err := r.vcenter.Snapshots("web"); err != nil || len(list) != 0 {
		t.Errorf("snapshots %v, %v", list, err)
	}
}

func TestAWrongPasswordEndsRunWithFourAndMakesNoJob(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a daemon")
	}
	r := newRefusing(t)
	r.password(t, "wrong")
	cfg := r.cfg
	cfg.StateDir = filepath.Join(r.dir, "s2")
	d := r.start(t, cfg)
	before := r.state(t)
	if code, words := r.run(t, d, "run", "web"); code != cli.ExitAuth || !strings.Contains(words, r.vcenter.User()) {
		t.Errorf("exit code %d, %q", code, words)
	}
	if code, words := r.run(t, d, "get"); code != cli.ExitOK || strings.Contains(words, "web") {
		t.Errorf("get: exit code %d, %q", code, words)
	}
	if after := r.state(t); !maps.Equal(before, after) {
		t.Errorf("something changed: %v", cmp.Diff(before, after))
	}
}

func TestAJobForAVCenterThatIsAwayIsAccepted(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a daemon")
	}
	r := newRefusing(t)
	cfg := r.cfg
	cfg.StateDir, cfg.VCenter.URL = filepath.Join(r.dir, "s2"), "https://127.0.0.1:1"
	d := r.start(t, cfg)
	if code, words := r.run(t, d, "run", "nosuch", "--no-wait", "--job-id", "one"); code != cli.ExitOK {
		t.Errorf("exit code %d, %q", code, words)
	}
	if code, words := r.run(t, d, "get", "job", "one"); code != cli.ExitOK {
		t.Errorf("exit code %d, %q", code, words)
	}
}
