//go:build race

package app_test

// manyJobs are fewer with the race detector, which makes each of them ten times as slow.
const manyJobs = 200
