package main

import (
	"reflect"
	"testing"

	"github.com/vmferry/vmferry/job"
)

func TestASeedGivesTheSamePlanAgain(t *testing.T) {
	for seed := range uint64(50) {
		if !reflect.DeepEqual(makePlan(seed, true), makePlan(seed, true)) {
			t.Error(seed)
		}
	}
}

// What makes no step of its own, such as a pause, is a moment.
func TestTwoHundredSeedsTryEverything(t *testing.T) {
	seen := map[any]int{}
	for seed := range uint64(200) {
		p := makePlan(seed, true)
		for _, b := range p.benches {
			seen[b.kind]++
			seen["before "+b.before]++
			seen["named "+b.named]++
			seen[b.silent]++
		}
		for _, o := range p.orders {
			seen[o.verify]++
			for _, s := range o.steps {
				seen[s.verb]++
				if s.act != "" {
					seen[s.when]++
					seen[s.act]++
				}
			}
		}
		if p.peer != nil {
			seen["peer"]++
		}
	}
	all := []any{
		onFile, onDevice, onExport, job.VerifyNone, job.VerifySample, job.VerifyFull, job.Cancel, true, "peer",
		"before nothing", "before zeros", "before garbage", "named link", "named hardlink", "named dots",
		atWait, atPlan, atCopy, atPause, atVerify, atCommit, atBetween,
	}
	for _, d := range deeds() {
		all = append(all, d.name)
	}
	for _, what := range all {
		if seen[what] == 0 {
			t.Errorf("no seed tries: %v", what)
		}
	}
}
