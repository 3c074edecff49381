//go:build !slim

package main

import (
	"fmt"
	"os"
)

// isForWhole says whether the whole program must carry a command line out and this is not it. This is.
func isForWhole([]string) bool { return false }

// handOver is only called where isForWhole.
func handOver([]string) int { return exitFailed }

// greetStarter warns of a slim program of another version: who updates one of the two files forgets the other.
func greetStarter(s streams) {
	starter, started := os.LookupEnv(starterVersion)
	if !started {
		return
	}
	_ = os.Unsetenv(starterVersion) // fails only for names that no variable can have; what we start is not meant
	if starter != version {
		fmt.Fprintf(s.err, "warning: vmferry is %s, and vmferryd, which it started, is %s\nnext: install both from the same release\n", starter, version)
	}
}
