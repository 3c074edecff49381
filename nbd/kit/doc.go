// Package kit runs nbdkit: one process in front of one frozen disk, on a private unix socket. It writes the command
// line, hands secrets over by file, and reads from what nbdkit, VDDK and curl write on stderr why a disk can't be read.
// It knows no job and no target.
//
//	Serve   starts the process and returns when it listens
//	Cause   says why it ended or could not read, by its last lines on stderr
//	Renew   replaces a secret while it runs
//	Stop    ends it with SIGTERM, then SIGKILL, and removes its secrets
package kit
