package store_test

import (
	"fmt"
	"testing"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
)

// BenchmarkJournal saves one event of a job with four disks, flushed, and the 200 reports of one tick.
func BenchmarkJournal(b *testing.B) {
	ctx, j := b.Context(), openJournal(b, b.TempDir())
	st := state("a", "/web")
	for i := range 4 {
		st.Disks = append(st.Disks, job.DiskState{Disk: job.Disk{ID: job.NewDiskID(int32(2000 + i))}})
	}
	must(b, j.Create(ctx, st, nil))
	b.Run("save", func(b *testing.B) {
		for b.Loop() {
			st = then(st, job.Transfer)
			must(b, j.Save(ctx, st, []byte(`{"event":"progress"}`)))
		}
	})
	b.Run("200 reports", func(b *testing.B) {
		reports := make([]report.Report, 200)
		for i := range reports {
			reports[i] = reportOf(job.ID(fmt.Sprint("job-", i)), 1, 0)
			reports[i].Origin = report.External
		}
		for b.Loop() {
			for i := range reports {
				reports[i].Seq++
			}
			must(b, j.SaveReports(ctx, reports))
		}
	})
}
