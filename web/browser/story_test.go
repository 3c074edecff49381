package browser_test

import (
	"fmt"
	"testing"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/web/browser"
)

// barOf is an expression: the value of a bar; undefined if it is not there.
func barOf(name string) string {
	return fmt.Sprintf("+(%s)?.getAttribute('aria-valuenow')", browser.At("bar", name))
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

func TestAMigrationMovesOnThePage(t *testing.T) {
	d := rehearsed(t, "", browser.VM{Name: "web", Disks: []int64{48 * mib, 48 * mib}})
	p := open(t, d.URL, "/")
	p.shows("No migration yet")
	p.quiet()
	r := submit(t, d, "web", limited(8*mib))
	p.moves("Progress of web")
	p.click("link", "web")
	p.until("location.pathname === '/jobs/" + string(r.JobID) + "'")
	p.moves("Progress of disk-2000")
	p.moves("Progress of disk-2001")
	p.quiet()
}
