// Package sim is an NBD server for rehearsals: it serves one disk as a good server would, and on request it lies,
// stalls, loses what was not flushed, or leaves out whatever the protocol allows to leave out. Tests and drills run
// normal copies against it.
//
// A request, in short:
//
//	accept                      server.go     the faults of this connection are chosen here
//	shake hands                 handshake.go  fixed newstyle
//	read requests in order      session.go    the faults of each request are chosen here, so that counting is exact
//	act, many at the same time  act.go        on the Backend: memory.go, file.go
//	answer                      answer.go, or misanswer.go if a fault asks for that
//
// It follows the NBD project's doc/proto.md, but for what faults ask for. What a client does against it is refused and
// noted, see State.Violations. It must not know the engine that is tested with it.
package sim
