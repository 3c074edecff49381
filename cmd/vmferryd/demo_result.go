package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strconv"

	"github.com/vmferry/vmferry/cmd/internal/cli"
	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
)

func itoa(n int) string { return strconv.Itoa(n) }

// demoResult is what demo -o json writes.
type demoResult struct {
	JobID  job.ID       `json:"job_id"`
	VM     string       `json:"vm"`
	Rounds []demoRound  `json:"rounds"`
	Disks  []resultDisk `json:"disks"`
	Redis  redisCounts  `json:"redis"`
	Status job.Status   `json:"status"`

	left int // snapshots that the VM still has
}

type demoRound struct {
	Round            int      `json:"round"`
	Mode             job.Mode `json:"mode"`
	BytesToTransfer  int64    `json:"bytes_to_transfer"`
	BytesTransferred int64    `json:"bytes_transferred"`
	BytesSkipped     int64    `json:"bytes_skipped"`
	BytesResent      int64    `json:"bytes_resent"`
	DurationSeconds  float64  `json:"duration_seconds"`
}

type resultDisk struct {
	DiskID        job.DiskID `json:"disk_id"`
	BytesCapacity int64      `json:"bytes_capacity"`
	SourceSHA256  string     `json:"source_sha256"`
	TargetSHA256  string     `json:"target_sha256"`
	Equal         bool       `json:"equal"`
	Restarts      int        `json:"restarts"`

	target string
}

type redisCounts struct {
	Events    int64 `json:"events"`
	Snapshots int64 `json:"snapshots"`
}

func newDemoResult(r report.Report) *demoResult {
	d := &demoResult{JobID: r.JobID, VM: r.VM.Path, Status: r.Status, Rounds: []demoRound{}, Disks: []resultDisk{}}
	for _, o := range r.Rounds {
		x := demoRound{
			Round: o.Round, Mode: o.Mode, BytesToTransfer: o.BytesToTransfer, BytesTransferred: o.BytesTransferred,
			BytesSkipped: o.BytesSkipped, BytesResent: o.BytesResent,
		}
		if o.DurationSeconds != nil {
			x.DurationSeconds = *o.DurationSeconds
		}
		d.Rounds = append(d.Rounds, x)
	}
	return d
}

func (r *demoResult) add(d report.Disk, source, target string) {
	r.Disks = append(r.Disks, resultDisk{
		d.DiskID, d.BytesCapacity, source, target, source == target, d.Restarts, d.Target,
	})
}

// verdict is nil only if all disks are equal, one was restarted, and no snapshot is left.
func (r *demoResult) verdict() error {
	restarts := 0
	for _, d := range r.Disks {
		if !d.Equal {
			return cli.Exit(cli.ExitJobFailed, job.Errorf("compare", job.Corrupt,
				"Report this fault of vmferry, with the logs", "%s and its target differ", d.DiskID))
		}
		restarts += d.Restarts
	}
	switch {
	case r.left > 0:
		return cli.Exit(cli.ExitFailed, job.Errorf("look at the vCenter", job.Internal, "", "%d snapshots are left",
			r.left))
	case restarts == 0:
		return cli.Exit(cli.ExitFailed, job.Errorf("show a restart", job.Conflict,
			"Try larger disks, as in --size 2GiB",
			"every disk is equal, but none was restarted: the copy was too fast to kill its reader"))
	}
	return nil
}

// write writes the result to standard output, as data or as a table.
func (d *demo) write(r *demoResult) error {
	if d.out.Structured() {
		return d.out.Data(d.Out, r)
	}
	var rows [][]string
	for _, o := range r.Rounds {
		rows = append(rows, []string{
			itoa(o.Round), string(o.Mode), job.FormatSize(o.BytesToTransfer),
			job.FormatSize(o.BytesTransferred), job.FormatSize(o.BytesSkipped), job.FormatSize(o.BytesResent),
			fmt.Sprintf("%.1fs", o.DurationSeconds),
		})
	}
	head := []string{"ROUND", "MODE", "TO TRANSFER", "TRANSFERRED", "SKIPPED", "SENT AGAIN", "TOOK"}
	if err := cli.Table(d.Out, head, rows); err != nil {
		return err
	}
	fmt.Fprintln(d.Out)
	rows = nil
	for _, k := range r.Disks {
		rows = append(rows, []string{
			string(k.DiskID), job.FormatSize(k.BytesCapacity), itoa(k.Restarts),
			cli.Clip(k.SourceSHA256, 13), cli.Clip(k.TargetSHA256, 13), yesNo(k.Equal),
		})
	}
	return cli.Table(d.Out, []string{"DISK", "BYTES", "RESTARTS", "SOURCE SHA-256", "TARGET SHA-256", "EQUAL"},
		rows)
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "NO"
}

// keepRunning shows commands to try, and waits for Ctrl-C.
func (d *demo) keepRunning(ctx context.Context, r *demoResult) {
	server := ""
	if d.stack.serving.URL != cli.StandardServer {
		server = " --server " + d.stack.serving.URL
	}
	socket := d.stack.redis.command.Socket
	d.words("%s", d.paint.Bold("Everything keeps running until Ctrl-C. In a browser:"))
	d.words("  %s/", d.stack.serving.URL)
	d.words("%s", d.paint.Bold("In another terminal:"))
	d.words("  vmferry describe %s%s", r.JobID, server)
	d.words("  vmferry run %s --cutover manual%s          moves what changed since, if anything did", demoVM, server)
	d.words("  vmferry watch%s", server)
	d.words("  curl -s %s/api/v1/jobs/%s", d.stack.serving.URL, r.JobID)
	d.words("  curl -s %s/api/v1/progress/%s", d.stack.serving.URL, r.JobID)
	d.words("  curl -N %s/api/v1/events", d.stack.serving.URL)
	d.words("  redis-cli -s %s HGETALL 'vmferry:v1:{%s}:snap'", socket, r.JobID)
	d.words("  redis-cli -s %s XRANGE 'vmferry:v1:{%s}:events' - +", socket, r.JobID)
	d.words("  redis-cli -s %s SUBSCRIBE vmferry:v1:events", socket)
	d.words("  %s", d.stack.history.command(d.stack.serving.StateDir, r.JobID))
	body := fmt.Sprintf(`{"vm":"%s","disk":"%s","offset":%d,"length":1048576,"seed":7}`,
		demoVM, d.disks[0].id, d.size/2)
	d.words("  curl -sku %s:$(cat %s) %s/rehearsal/write -d '%s'",
		d.stack.sim.User, d.stack.sim.PasswordFile, trimSDK(d.stack.sim.URL), body)
	<-ctx.Done()
}

// lastWords says what the demo has shown, and which files it leaves.
func (d *demo) lastWords(r *demoResult) {
	d.words("")
	d.words("Summary: the first round moved every byte of the VM's disks while the guest ran. A reader was killed, and")
	d.words("its disk went on from its checkpoint. The guest wrote, and the second round moved only these writes.")
	d.words("Redis held %d events of the job. %d snapshots are left.", r.Redis.Events, r.left)
	d.words("No process of the demo runs any more. The files are in %s:", d.dir)
	for i, k := range r.Disks {
		d.words("  %s   and its target   %s", d.disks[i].image, k.target)
	}
	d.words("Try next:")
	d.words("  cmp %s %s", d.disks[0].image, r.Disks[0].target)
	d.words("  e2fsck -fn %s", r.Disks[0].target)
	d.words("  vmferry demo --keep --size 4GiB          and vmferry watch in another terminal")
	d.words("  rm -r %s", filepath.Clean(d.dir))
	d.words("")
}
