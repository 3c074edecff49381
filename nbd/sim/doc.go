// Package sim is the rehearsal NBD server. It serves one disk as a good server would. With a fault it lies, stalls,
// loses what was not flushed, or leaves out what the protocol allows to leave out. Tests run normal copies against it.
//
// It must not know the engine that is tested with it.
//
// A request, in short:
//
//	accept a connection           server.go     the faults of the connection are chosen here
//	do the handshake              handshake.go  fixed newstyle
//	read requests in their order  session.go    the faults of each request are chosen here, so that counts are exact
//	execute many at once          act.go        on the Backend: memory.go, file.go
//	answer                        answer.go, or badanswer.go if a fault wants that
//
// But for faults it follows the NBD project's doc/proto.md. It refuses what a client does against the protocol, and
// records it: see State.Violations.
//
// All methods of Server are safe for concurrent use, also while requests run: SetFaults and Crash too. A Backend must
// be safe for concurrent use; Memory and File are.
package sim
