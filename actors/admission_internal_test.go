package actors

import (
	"testing"
	"time"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/messages"
)

func TestWhatADeletedJobSaysLateIsNotTakenForTheNextOfItsID(t *testing.T) {
	created := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	j, k := &jobs{}, &member{id: "mine", created: created}
	if !j.take(k, messages.PhaseChanged{ID: "mine", Created: created, Seq: 1, Phase: job.Queued, Since: created}) {
		t.Error("the job's own phase was not taken")
	}
	late := messages.PhaseChanged{ID: "mine", Created: created.Add(-time.Minute), Seq: 90, Phase: job.Completed}
	if j.take(k, late) || k.phase != job.Queued || k.seq != 1 {
		t.Errorf("the phase of the deleted job was taken: %+v", k)
	}
}
