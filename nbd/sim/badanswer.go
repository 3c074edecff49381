package sim

// badReply answers as a fault that applies to any command wants it; false if the request has none.
func (c *session) badReply(r *request) bool {
	switch {
	case r.faults.has(FaultCookie):
		c.send(simpleReply(0, ^r.cookie))
	case r.faults.has(FaultMagic):
		c.send(be64(be32(be32(nil, 0x11111111), 0), r.cookie))
	default:
		return false
	}
	return true
}

// badRead answers a read as a fault wants it; false if the request has none.
func (c *session) badRead(r *request, out outcome) bool {
	for _, f := range r.faults {
		if !c.structured {
			if f.Kind == FaultHalf {
				c.sendLast(simpleReply(0, r.cookie), out.data[:len(out.data)/2])
				return true
			}
			continue
		}
		if c.badStructuredRead(r, f, out.data) {
			return true
		}
	}
	return false
}

func (c *session) badStructuredRead(r *request, f Fault, data []byte) bool {
	half := uint64(len(data) / 2)
	switch f.Kind {
	case FaultHalf:
		c.sendLast(be64(chunkHead(chunkDone, chunkData, r.cookie, 8+r.n), r.off), data[:half])
	case FaultErrorLate:
		if half > 0 {
			c.send(dataChunk(0, r.cookie, r.off, data[:half]))
		}
		c.send(be64(be16(be32(chunkHead(chunkDone, chunkErrorAt, r.cookie, 14), f.Errno), 0), r.off+half))
	case FaultNothing:
		c.send(chunkHead(chunkDone, chunkNone, r.cookie, 0))
	case FaultOutside:
		c.send(dataChunk(chunkDone, r.cookie, r.off+uint64(r.n)+4096, data))
	case FaultHuge:
		c.send(be64(chunkHead(chunkDone, chunkData, r.cookie, 1<<32-16), r.off))
	case FaultOverlap:
		c.send(dataChunk(0, r.cookie, r.off, data))
		c.send(dataChunk(chunkDone, r.cookie, r.off+half, data[half:]))
	case FaultShuffle:
		if r.flags&cmdDF != 0 {
			return false // the client wants one chunk
		}
		c.shuffle(r, data)
	default:
		return false
	}
	return true
}

// shuffle answers in parts, the last first, with zeros as holes. A chunk without data ends the answer.
func (c *session) shuffle(r *request, data []byte) {
	const parts = 5
	step := max(1, (len(data)+parts-1)/parts)
	for from := (len(data) - 1) / step * step; from >= 0; from -= step {
		part := data[from:min(from+step, len(data))]
		if zeros(part) {
			c.send(holeChunk(0, r.cookie, r.off+uint64(from), uint32(len(part))))
			continue
		}
		c.send(dataChunk(0, r.cookie, r.off+uint64(from), part))
	}
	c.send(chunkHead(chunkDone, chunkNone, r.cookie, 0))
}

func zeros(b []byte) bool {
	for _, x := range b {
		if x != 0 {
			return false
		}
	}
	return true
}

// badStatus answers a request for block status as a fault wants it; false if the request has none.
func (c *session) badStatus(r *request) bool {
	context := uint32(allocationID)
	var body []byte
	for _, f := range r.faults {
		switch f.Kind {
		case FaultStatusEmpty:
		case FaultStatusZero:
			body = be32(be32(nil, 0), stateHole|stateZero)
		case FaultStatusLong:
			body = be32(be32(nil, 1<<32-512), 0)
		case FaultStatusOdd:
			body = garbage(11)
		case FaultStatusOther:
			context, body = allocationID+1, be32(be32(nil, r.n), stateHole|stateZero)
		case FaultStatusHole:
			body = be32(be32(nil, r.n), stateHole|stateZero)
		case FaultStatusNone:
			c.send(chunkHead(chunkDone, chunkNone, r.cookie, 0))
			return true
		default:
			continue
		}
		c.send(chunkHead(chunkDone, chunkStatus, r.cookie, uint32(4+len(body))), be32(nil, context), body)
		return true
	}
	return false
}
