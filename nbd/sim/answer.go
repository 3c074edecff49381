package sim

import "github.com/vmferry/vmferry/job"

// answer sends the answer to a request, as a fault wants it if the request has one.
func (c *session) answer(r *request, out outcome) {
	switch {
	case c.badReply(r):
	case out.err != nil:
		c.sendError(r, wireErrno(out.err), out.err.Error())
	case r.command == Read && c.badRead(r, out), r.command == Status && c.badStatus(r):
	default:
		c.sendResult(r, out)
		if r.faults.has(FaultTwice) {
			c.sendResult(r, out)
		}
	}
}

// sendResult answers a request that succeeded.
func (c *session) sendResult(r *request, out outcome) {
	switch {
	case r.command == Status:
		c.sendStatus(r, out.extents)
	case r.command == Read && c.structured:
		c.sendChunks(r, out)
	default:
		c.send(simpleReply(0, r.cookie), out.data)
	}
}

func (c *session) sendError(r *request, code uint32, words string) {
	if c.structured {
		c.send(errorChunk(r.cookie, code, words[:min(len(words), 1000)]))
		return
	}
	c.send(simpleReply(code, r.cookie))
}

// chunk is a part of a read that is all data, or a hole.
type chunk struct {
	job.Extent
	hole bool
}

// splitChunks splits a read at the borders of the ranges that may hold data. A read with DF is one chunk.
func splitChunks(r *request, data job.Extents) (out []chunk) {
	whole := job.Extent{Offset: int64(r.off), Length: int64(r.n)}
	if r.flags&cmdDF != 0 {
		return []chunk{{whole, false}}
	}
	at := whole.Offset
	for _, e := range data {
		if e.Offset > at {
			out = append(out, chunk{job.Extent{Offset: at, Length: e.Offset - at}, true})
		}
		out = append(out, chunk{e, false})
		at = e.End()
	}
	if at < whole.End() {
		out = append(out, chunk{job.Extent{Offset: at, Length: whole.End() - at}, true})
	}
	return out
}

// sendChunks answers a read with structured replies. Chunks of answers to other requests can come between.
func (c *session) sendChunks(r *request, out outcome) {
	all := splitChunks(r, out.extents)
	for i, p := range all {
		flags := uint16(0)
		if i == len(all)-1 {
			flags = chunkDone
		}
		off := uint64(p.Offset)
		if p.hole {
			c.send(holeChunk(flags, r.cookie, off, uint32(p.Length)))
			continue
		}
		data := out.data[off-r.off:][:p.Length]
		c.send(be64(chunkHead(flags, chunkData, r.cookie, uint32(8+len(data))), off), data)
	}
}

// sendStatus answers a request for block status.
func (c *session) sendStatus(r *request, data job.Extents) {
	b := be32(nil, allocationID)
	for i, p := range splitChunks(&request{off: r.off, n: r.n}, data) {
		if i == mostDescriptors || i > 0 && r.flags&cmdReqOne != 0 {
			break
		}
		state := uint32(0)
		if p.hole {
			state = stateHole | stateZero
		}
		b = be32(be32(b, uint32(p.Length)), state)
	}
	c.send(chunkHead(chunkDone, chunkStatus, r.cookie, uint32(len(b))), b)
}
