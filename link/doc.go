// Package link joins two nodes: one connection with TLS 1.3 and certificates of both sides, which either side may dial.
// In it are a control stream with frames of our own, and the streams of protoactor's remote in both directions. It
// knows no job and no disk.
//
//	dial or accept -> TLS: certificate, name, revoked or not -> Hello: name, role, versions -> one session a name
//	every 500 ms a ping; not heard for 2 s, or the certificate was revoked -> down, with the reason; dialled again
//
// There are three ways to say something to an actor of another node:
//
//   - Latest: progress. Only the newest message of a key is kept, and sent when the link has room for it.
//   - Post: what must arrive. It has an id, is sent again after a reconnect until it is acknowledged, and the
//     receiver hands it on once. The receiver remembers ids as long as its process and that of the sender live.
//   - protoactor's remote, with node:///NAME as address: requests, and watching an actor. At most once, and without
//     pressure back on the sender, so for few and small messages. See Remote.
//
// All of them pass the same Policy: which types go to which actors, and that PIDs in a message are those of the two
// nodes. What is refused is counted by peer and cause. A frame that is not sound ends the session.
package link
