package browser_test

import (
	"fmt"
	"syscall"
	"testing"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
	"github.com/vmferry/vmferry/web/browser"
)

// barOf is an expression: the value of a bar; NaN if it is not there.
func barOf(name string) string {
	return fmt.Sprintf("parseFloat((%s)?.getAttribute('aria-valuenow'))", browser.At("bar", name))
}

// moves waits until the value of a bar grows.
func (p *page) moves(name string) {
	p.Helper()
	p.until(barOf(name) + " >= 0")
	before := value[float64](p, barOf(name))
	p.until(fmt.Sprintf("%s > %v", barOf(name), before))
}

// limited is a job that is slow enough to be looked at.
func limited(bytesPerSecond int64) job.Options {
	return job.Options{Bandwidth: bytesPerSecond, Cutover: job.CutoverManual, Verify: job.VerifySample}
}

// jobOf is the newest report of a job.
func jobOf(tb testing.TB, d *browser.Daemon, id job.ID) report.Report {
	tb.Helper()
	r, err := d.Client.Job(tb.Context(), id)
	if err != nil {
		tb.Fatal(err)
	}
	return r
}

// TestAMigrationMovesOnThePage is the short part of the suite.
func TestAMigrationMovesOnThePage(t *testing.T) {
	d := rehearsed(t, "", browser.VM{Name: "web", Disks: []int64{32 * mib, 32 * mib}})
	p := open(t, d.URL, "/")
	p.shows("No migration yet")
	p.accessible("no migration")
	r := submit(t, d, "web", limited(2*mib))
	p.moves("Progress of web")
	p.accessible("migrations")
	p.press("j")
	p.until("document.activeElement.textContent === 'web'")
	p.press("\r")
	p.until("location.pathname === '/jobs/" + string(r.JobID) + "'")
	p.moves("Progress of disk-2000")
	p.moves("Progress of disk-2001")
	p.accessible("job")
	killReader(t, d, r.JobID, "disk-2001")
	p.until(restartsOf("disk-2001") + " >= 1")
	p.shows("nbdkit was ended by signal")
	p.quiet()
}

// restartsOf is an expression: how often the page says that a disk was restarted.
func restartsOf(disk string) string {
	return fmt.Sprintf(`+[...(%s)?.querySelectorAll('dt') ?? []].find((e) => e.textContent === 'Restarts')
		?.nextElementSibling.textContent`, browser.At("region", "Disk "+disk))
}

// killReader kills the nbdkit that reads a disk, as soon as there is one and something was copied.
func killReader(tb testing.TB, d *browser.Daemon, id job.ID, disk job.DiskID) {
	tb.Helper()
	eventually(tb, "a reader of "+string(disk), func() bool {
		for _, k := range jobOf(tb, d, id).Disks {
			if k.DiskID == disk && k.SourcePID != 0 && k.BytesTransferred > 0 {
				return syscall.Kill(k.SourcePID, syscall.SIGKILL) == nil
			}
		}
		return false
	})
}

func TestAMigrationIsStartedCommandedAndReportedFromThePage(t *testing.T) {
	if testing.Short() {
		t.Skip("long: make it runs it")
	}
	d := rehearsed(t, "", browser.VM{Name: "web", Disks: []int64{24 * mib, 24 * mib}},
		browser.VM{Name: "db", Disks: []int64{16 * mib}})
	p := open(t, d.URL, "/")
	p.shows("No migration yet")
	p.press("n")
	p.until("location.pathname === '/new'")
	p.shows("2 VMs of")
	p.fill("Search the VMs", "we")
	p.until(fmt.Sprintf("!(%s)", browser.At("field", "db")))
	p.click("field", "web")
	p.fill("Limit", "1MiB")
	p.click("button", "Check")
	p.shows("can run")
	p.quiet()
	p.click("button", "Start")
	p.shows("started")
	p.click("link", "job-")
	p.until("location.pathname.startsWith('/jobs/')")
	id := job.ID(value[string](p, "location.pathname.slice(6)"))
	p.moves("Progress of disk-2000")
	p.click("button", "Pause")
	p.shows("Copying stops")
	p.accessible("dialog of a command")
	p.click("button", "Pause")
	p.until("document.querySelector('header .chip').textContent.includes('Paused')")
	if got := jobOf(t, d, id).Status; got != "paused" {
		t.Errorf("status %s", got)
	}
	p.click("button", "Resume")
	p.click("button", "Resume")
	p.moves("Progress of disk-2001")
	if err := d.Client.Limit(t.Context(), id, 0); err != nil {
		t.Fatal(err)
	}
	p.shows("Waits for cut-over")
	p.click("button", "Cut over")
	p.shows("shut the guest down first")
	p.click("button", "Cut over")
	p.until("document.querySelector('header .chip').textContent.includes('Completed')")
	p.downloads(id)
	p.quiet()
}
