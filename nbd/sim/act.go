package sim

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/vmferry/vmferry/job"
)

// outcome is the result of a request on the disk.
type outcome struct {
	err     error
	data    []byte      // of a read
	extents job.Extents // of a read or block status: the ranges that may hold data
	silent  bool        // a crash came before: no answer is sent
}

// handle executes a request and answers it.
func (c *session) handle(r *request) {
	var out outcome
	if f, ok := r.faults.find(FaultError); ok {
		c.respond(r, func() { c.sendError(r, f.Errno, "injected fault") })
		return
	}
	if out.err = c.check(r); out.err == nil {
		out = c.act(r)
	}
	if !out.silent {
		c.respond(r, func() { c.answer(r, out) })
	}
}

// respond calls answer, later or not at all if a fault asks for that.
func (c *session) respond(r *request, answer func()) {
	for _, f := range r.faults {
		if f.Kind == FaultLate && !c.pause(f.Delay) {
			return
		}
	}
	if !r.faults.has(FaultIgnore) {
		answer()
	}
}

// check refuses a request that the protocol forbids, and records it as a violation.
func (c *session) check(r *request) error {
	words, err := c.violationIn(r)
	if words == "" {
		return err
	}
	c.s.violation("%s: %s", r, words)
	return fmt.Errorf("%s: %w", words, err)
}

// violationIn says what is not allowed about a request, and with which error it is refused. An error without words is
// no violation by the client.
func (c *session) violationIn(r *request) (words string, err error) {
	known := r.command != ""
	offered, flags := c.offered(r)
	switch {
	case !known:
		return fmt.Sprintf("there is no command %d", r.number), unix.EINVAL
	case r.command != Read && r.command != Status && r.command != Flush && c.s.opt.ReadOnly:
		return c.unless(c.flags&flagReadOnly == 0, "the export is read-only"), unix.EPERM
	case !offered:
		return "the command was not offered", unix.EINVAL
	case r.flags&^flags != 0:
		return fmt.Sprintf("flags %#x were not offered", r.flags&^flags), unix.EINVAL
	case r.command == Flush && (r.off != 0 || r.n != 0):
		return "a flush has no offset and no length", unix.EINVAL
	case r.command == Flush:
		return "", nil
	case r.n == 0:
		return "the length is 0", unix.EINVAL
	}
	return c.violationInRange(r)
}

// unless returns words, or "" if the client is not to blame for the request.
func (c *session) unless(excused bool, words string) string {
	if excused {
		return ""
	}
	return words
}

// offered says whether the command of a request was offered, and with which flags.
func (c *session) offered(r *request) (offered bool, flags uint16) {
	final := c.finalFlags()
	has := func(flag uint16) bool { return final&flag != 0 }
	add := func(yes bool, flag uint16) {
		if yes {
			flags |= flag
		}
	}
	switch r.command {
	case Read:
		add(has(flagDF), cmdDF)
		return true, flags
	case Flush:
		return has(flagFlush), 0
	case Status:
		return c.extents, cmdReqOne
	case Write:
		offered = true
	case Trim:
		offered = has(flagTrim)
	case Zero:
		offered = has(flagZero)
		flags = cmdNoHole
		add(has(flagFastZero), cmdFastZero)
	}
	add(has(flagFUA), cmdFUA)
	return offered, flags
}

// violationInRange is violationIn for the range of a request.
func (c *session) violationInRange(r *request) (words string, err error) {
	end, size := r.off+uint64(r.n), uint64(c.s.disk.Size())
	outside := unix.EINVAL
	if r.command == Write || r.command == Zero {
		outside = unix.ENOSPC
	}
	switch {
	case end < r.off || end > c.size: // a client that was told another size is not to blame
		return "beyond the end", outside
	case end > size:
		return "", outside
	case c.faults.has(FaultBlockSize):
		return "", nil
	}
	b := c.s.opt.BlockSizes
	if r.off%uint64(b.Min) != 0 || end%uint64(b.Min) != 0 && end != size {
		return c.unless(!c.knowsBlockSizes, fmt.Sprintf("not in whole blocks of %d bytes", b.Min)), unix.EINVAL
	}
	if (r.command == Read || r.command == Write) && r.n > b.Max {
		return c.unless(!c.knowsBlockSizes && r.n <= standardMax, fmt.Sprintf("more than %d bytes", b.Max)), unix.EINVAL
	}
	return "", nil
}

// act executes a request on the disk, unless a crash came before.
func (c *session) act(r *request) (out outcome) {
	c.s.power.RLock()
	defer c.s.power.RUnlock()
	if c.dead.Load() {
		return outcome{silent: true}
	}
	switch r.command {
	case Read:
		return c.read(r)
	case Status:
		out.extents, out.err = c.dataExtents(r)
	case Write:
		out.err = c.write(r)
	case Zero, Trim:
		out.err = c.zero(r)
	case Flush:
		if !r.faults.has(FaultFlushLie) {
			out.err = c.s.disk.Flush()
		}
	}
	return out
}

// dataExtents asks the disk which ranges may hold data, in whole blocks.
func (c *session) dataExtents(r *request) (job.Extents, error) {
	x, err := c.s.disk.Extents(int64(r.off), int64(r.n))
	if err != nil {
		return nil, err
	}
	asked := job.Extents{{Offset: int64(r.off), Length: int64(r.n)}}
	return x.Align(int64(c.s.opt.BlockSizes.Min), c.s.disk.Size()).Within(asked), nil
}

func (c *session) read(r *request) (out outcome) {
	r.data = c.s.memory.get(int(r.n))
	out.data = r.data
	if _, out.err = c.s.disk.ReadAt(out.data, int64(r.off)); out.err != nil {
		return out
	}
	if c.structured && r.flags&cmdDF == 0 {
		out.extents, out.err = c.dataExtents(r)
	}
	for _, f := range r.faults {
		if f.Kind == FaultFlipRead {
			flip(out.data, r, f)
			out.extents = job.Extents{{Offset: int64(r.off), Length: int64(r.n)}}
		}
	}
	return out
}

// flip inverts the lowest bit of the first byte of b that the fault names.
func flip(b []byte, r *request, f Fault) {
	at := int64(0)
	if f.At != nil {
		at = f.At.Within(job.Extents{{Offset: int64(r.off), Length: int64(r.n)}})[0].Offset - int64(r.off)
	}
	b[at] ^= 1
}

func (c *session) write(r *request) error {
	for _, f := range r.faults {
		if f.Kind == FaultFlipWritten {
			flip(r.data, r, f)
		}
	}
	off := int64(r.off)
	if t, ok := c.s.disk.(through); ok && r.flags&cmdFUA != 0 && !r.faults.has(FaultFlushLie) {
		return t.WriteThrough(r.data, off)
	}
	if _, err := c.s.disk.WriteAt(r.data, off); err != nil {
		return err
	}
	return c.flushIfFUA(r)
}

func (c *session) zero(r *request) error {
	punch := r.flags&cmdNoHole == 0
	if r.flags&cmdFastZero != 0 && !punch {
		return unix.ENOTSUP // the zeros would have to be written
	}
	if r.faults.has(FaultTrimGarbage) {
		b := garbage(int(min(r.n, pageSize)))
		if _, err := c.s.disk.WriteAt(b, int64(r.off)); err != nil {
			return err
		}
		return c.flushIfFUA(r)
	}
	off, n := int64(r.off), int64(r.n)
	if t, ok := c.s.disk.(through); ok && r.flags&cmdFUA != 0 && !r.faults.has(FaultFlushLie) {
		return t.ZeroThrough(off, n, punch)
	}
	if err := c.s.disk.Zero(off, n, punch); err != nil {
		return err
	}
	return c.flushIfFUA(r)
}

// flushIfFUA makes a request with FUA durable.
func (c *session) flushIfFUA(r *request) error {
	if r.flags&cmdFUA == 0 || r.faults.has(FaultFlushLie) {
		return nil
	}
	return c.s.disk.Flush()
}
