//go:build !race

package app_test

const (
	manyJobs  = 1000
	raceSlack = 1
)
