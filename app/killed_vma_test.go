package app_test

import (
	"cmp"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vmferry/vmferry/app"
	"github.com/vmferry/vmferry/http/rest"
	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/store/history"
)

// asVMA makes the configuration file of a site that of a VMA with an address that stays.
func (s *site) asVMA(t *testing.T) (url string) {
	t.Helper()
	text, err := os.ReadFile(s.file)
	must(t, err)
	at := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	config := strings.Replace(string(text), "listen: 127.0.0.1:0", "role: vma\nlisten: "+at, 1)
	must(t, os.WriteFile(s.file, []byte(config), 0o600))
	return "http://" + at
}

// kill ends a process as a power failure would.
func kill(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	must(t, cmd.Process.Kill())
	_ = cmd.Wait() // says that it was killed
}

// TestTheRowOfAnOMAShowsThatItsVMAWasKilledAndThatItIsBack kills a VMA in the middle of a job with SIGKILL, and starts
// it again. The row is read as operators read it.
func TestTheRowOfAnOMAShowsThatItsVMAWasKilledAndThatItIsBack(t *testing.T) {
	if testing.Short() {
		t.Skip("a VMA is away for as long as it takes an OMA to believe it")
	}
	for name, prepare := range map[string]func(*testing.T, *app.Config) asker{
		"sqlite": func(t *testing.T, cfg *app.Config) asker {
			t.Helper()
			need(t, "sqlite3")
			cfg.SQL.Driver = history.SQLite
			return func(query string) (string, error) {
				at := filepath.Join(cfg.StateDir, "history.db")
				return ask(t, "sqlite3", "-readonly", "-separator", "\t", at, query)
			}
		},
		"mariadb": func(t *testing.T, cfg *app.Config) asker {
			t.Helper()
			s := &site{dir: t.TempDir()}
			_, q := mariaDB(t, s)
			cfg.SQL = s.cfg.SQL
			return q
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, 32)
			url := s.asVMA(t)
			vma, _ := s.daemonProcess(t)
			cfg := omaConfig(t, app.Node{Name: "vma-1", URL: url, Kind: "vmferry"})
			cfg.Report.Interval = 200 * time.Millisecond
			q := prepare(t, &cfg)
			_, c := start(t, cfg)
			shows := func(why string, want func(seen) bool) []seen {
				t.Helper()
				id := theJob(t, c)
				all := followUntil(t, q, id, want)
				t.Logf("%s: %+v", why, all[len(all)-1])
				return all
			}
			submit(t, c, job.Spec{Options: job.Options{Bandwidth: 5 << 20}})
			all := shows("it moves", func(r seen) bool { return r.bytes > 12<<20 })
			kill(t, vma)
			away := shows("its VMA is away", func(r seen) bool { return r.status == job.Unreachable })
			all = append(all, away...)
			last := away[len(away)-1]
			if !strings.HasPrefix(last.operation, "unreachable since 2") || last.bytes < 12<<20 {
				t.Errorf("the row of an unreachable job is %+v", last)
			}
			vma, _ = s.daemonProcess(t)
			defer kill(t, vma)
			all = append(all, shows("it is back", func(r seen) bool { return r.status == job.Running })...)
			must(t, c.Limit(t.Context(), theJob(t, c), 0))
			all = append(all, shows("it ends", func(r seen) bool { return r.status.Terminal() })...)
			if !slices.IsSortedFunc(all, func(a, b seen) int { return cmp.Compare(a.percent, b.percent) }) {
				t.Errorf("the percent decreased: %+v", all)
			}
			last = all[len(all)-1]
			if last.status != job.StatusCompleted || last.percent != 100 || last.bytes < 32<<20 {
				t.Errorf("the row ends with %+v", last)
			}
			r, err := c.Job(t.Context(), theJob(t, c))
			must(t, err)
			s.equal(t, r)
		})
	}
}

// theJob is the only job of a daemon.
func theJob(t *testing.T, c *rest.Client) job.ID {
	t.Helper()
	all, err := c.Jobs(t.Context(), rest.ListOptions{})
	if err != nil || len(all) != 1 {
		t.Fatalf("there are %d jobs: %v", len(all), err)
	}
	return all[0].JobID
}
