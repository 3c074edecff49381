// Package app is the configuration and the wiring: it reads the operator's configuration, puts the parts of the daemon
// together and owns them while they run. It is the only package that imports all others. It decides nothing about a
// job, and it must not know how a VM is read or a disk is copied.
//
//	Load    file, environment, flags -> Config, checked
//	Doctor  Config -> checks of programs, folders, Redis and vCenter, before a start
//	Start   Config -> Daemon; wiring.go builds the parts, each after those that it needs
//	Run     Start, systemd's notifications, Stop
//
// The parts are started in this order and stopped in the reverse one:
//
//	journal -> vCenter session -> projections (memory, Redis) -> actors, in a new epoch -> HTTP handler and server
//
// Small types adapt one package to the interface of another: sinks.go and journal.go for actors, rest.go and
// preflight.go for http. There is no global state, so one process may run several daemons.
//
// The methods of a Daemon may be called from any goroutine. The package starts goroutines for the listener and, in Run,
// for systemd; Stop or Run waits for them.
package app
