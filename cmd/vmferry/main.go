// Command vmferry moves running VMware VMs to a KVM cloud: the daemon, the commands that speak with it, a copy of one
// disk without it, and a rehearsal of everything on one machine. It decides nothing about a job: that is package job's.
package main

import (
	"context"
	"os"
	"os/signal"
	"runtime"
	"syscall"
)

// version is the release; the linker sets it.
var version = "dev"

func main() { os.Exit(run()) }

// leastProcs keeps Go's scheduler from taking the processor away from a thread that waits in poll: measured on two
// cores, a copy between two local servers takes 0.8 instead of 1.25 times as long as nbdcopy's.
const leastProcs = 8

// run is main with an exit code, so that deferred calls happen.
func run() int {
	if isForWhole(os.Args[1:]) {
		return handOver(os.Args[1:]) // before signals are ours, so that none is lost on the way
	}
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(max(leastProcs, runtime.NumCPU()))
	}
	ends := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) { // as under nohup
		ends = append(ends, syscall.SIGHUP)
	}
	ctx, stop := signal.NotifyContext(context.Background(), ends...)
	defer stop()
	defer context.AfterFunc(ctx, stop)() // the second signal ends the program at once
	s := streams{in: os.Stdin, out: os.Stdout, err: os.Stderr, getenv: os.Getenv}
	greetStarter(s)
	return execute(ctx, s, os.Args[1:])
}
