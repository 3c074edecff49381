// Package cli is the command line that vmferry and vmferryd share: all commands but those of DaemonCommands, and what
// commands are made of: streams, forms of data, views of a job, exit codes. It decides nothing about a job: that is
// package job's. It must stay free of the daemon's packages, for vmferry is to start fast and small (docs/adr/0013).
package cli
