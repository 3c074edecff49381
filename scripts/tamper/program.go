package main

import (
	"syscall"
	"time"

	"github.com/vmferry/vmferry/child"
)

const (
	readyTime = 30 * time.Second // most that a program may take to answer a request
	pollEvery = 10 * time.Millisecond
)

// endBy ends a program by a signal, and says so if that took too long.
func endBy(p *child.Program, sig syscall.Signal) {
	if err := p.End(sig); err != nil {
		say("%v", err)
	}
}
