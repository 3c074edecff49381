package actors

import (
	"testing"

	"github.com/vmferry/vmferry/job"
)

// TestNoTwoTransfersOfAJobHaveOneName: the news that an actor has ended goes by its name. A first verification has the
// number of the copy, and numbers begin anew in each round.
func TestNoTwoTransfersOfAJobHaveOneName(t *testing.T) {
	seen := map[string]job.TransferTask{}
	for round := range 3 {
		for attempt := range 3 {
			for _, verify := range []job.VerifyMode{"", job.VerifySample} {
				for _, disk := range []job.DiskID{"disk-2000", "disk-2001"} {
					task := job.TransferTask{Job: "job-1", Round: round + 1, Verify: verify}
					task.Disk.Disk.ID, task.Disk.Attempt = disk, attempt+1
					name := transferName(task)
					if other, ok := seen[name]; ok {
						t.Errorf("%s is the name of %+v and of %+v", name, other, task)
					}
					seen[name] = task
				}
			}
		}
	}
}
