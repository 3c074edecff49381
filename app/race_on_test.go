//go:build race

package app_test

// With the race detector, which makes each job ten times as slow, there are fewer jobs, and limits of time are looser.
const (
	manyJobs  = 200
	raceSlack = 10
)
