package sim

import (
	"github.com/vmferry/vmferry/job"
)

// answer tells what came of a request, in the way of a fault if there is one for it.
func (c *session) answer(r *request, out outcome) {
	switch {
	case c.strange(r):
	case out.err != nil:
		c.sendError(r, wireErrno(out.err), out.err.Error())
	case r.command == Read && c.misread(r, out), r.command == Status && c.misstate(r):
	default:
		c.tell(r, out)
		if r.faults.has(FaultTwice) {
			c.tell(r, out)
		}
	}
}

// tell answers a request that went well.
func (c *session) tell(r *request, out outcome) {
	switch {
	case r.command == Status:
		c.sendStatus(r, out.may)
	case r.command == Read && c.structured:
		c.sendPieces(r, out)
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

// piece is a part of a read that is all data, or a hole.
type piece struct {
	job.Extent
	hole bool
}

// pieces cuts a read at the borders of what may hold data. A read that may not be cut is one piece.
func pieces(r *request, may job.Extents) (out []piece) {
	whole := job.Extent{Offset: int64(r.off), Length: int64(r.n)}
	if r.flags&cmdDF != 0 {
		return []piece{{whole, false}}
	}
	at := whole.Offset
	for _, e := range may {
		if e.Offset > at {
			out = append(out, piece{job.Extent{Offset: at, Length: e.Offset - at}, true})
		}
		out = append(out, piece{e, false})
		at = e.End()
	}
	if at < whole.End() {
		out = append(out, piece{job.Extent{Offset: at, Length: whole.End() - at}, true})
	}
	return out
}

// sendPieces answers a read as structured replies want it. Parts of answers to other requests can come between.
func (c *session) sendPieces(r *request, out outcome) {
	all := pieces(r, out.may)
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

// sendStatus tells of data and holes.
func (c *session) sendStatus(r *request, may job.Extents) {
	b := be32(nil, allocationID)
	for i, p := range pieces(&request{off: r.off, n: r.n}, may) {
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
