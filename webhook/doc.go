// Package webhook tells other programs of jobs that failed, wait for the cut-over or completed: it posts JSON to
// addresses that only the operator's configuration can name.
//
// A Sender follows the reports of the jobs. What becomes of a job is a delivery for each hook that wants it. All
// deliveries are in a file before they are sent, and leave it when the receiver has answered with 2xx; so a restart
// sends what was not sent, and may send something twice. Each delivery has an id by which a receiver knows a repeated
// one. A Sender that sees its hook for the first time takes what was there before for told.
//
// The goroutine that follows never waits for a receiver: each hook has a goroutine of its own, which sends one delivery
// after the other, tries a failed one again after pauses from 1 s to 5 min, and drops it after a day. A hook keeps at
// most 1000 deliveries; the oldest is dropped to make room. Nothing here can delay a job.
//
// A request has these headers beside its body:
//
//	Vmferry-Event      failed, waiting_cutover or completed
//	Vmferry-Delivery   the id, the same at each try
//	Vmferry-Signature  t=<seconds since 1970>,v1=<HMAC-SHA256 of "<t>.<body>" with the secret, in hex>
package webhook
