//go:build !slim

package main

// isForWhole says whether the whole program must carry a command line out and this is not it. This is.
func isForWhole([]string) bool { return false }

// handOver is only called where isForWhole.
func handOver([]string) int { return exitFailed }
