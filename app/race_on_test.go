//go:build race

package app_test

// manyJobs are fewer with the race detector, which makes each of them ten times as slow, and limits of time are looser.
const (
	manyJobs  = 200
	raceSlack = 10
)
