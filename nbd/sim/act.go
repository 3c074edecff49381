package sim

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/vmferry/vmferry/job"
)

// outcome is what came of a request on the disk.
type outcome struct {
	err    error
	data   []byte      // of a read
	may    job.Extents // of a read or a question: what may be anything but zeros
	silent bool        // a crash came before; nobody is told anything
}

// handle does what a request wants and answers it.
func (c *session) handle(r *request) {
	var out outcome
	if f, ok := r.faults.find(FaultError); ok {
		c.afterwards(r, func() { c.sendError(r, f.Errno, "as ordered") })
		return
	}
	if out.err = c.check(r); out.err == nil {
		out = c.act(r)
	}
	if !out.silent {
		c.afterwards(r, func() { c.answer(r, out) })
	}
}

// afterwards answers, perhaps late, perhaps never.
func (c *session) afterwards(r *request, answer func()) {
	for _, f := range r.faults {
		if f.Kind == FaultLate && !c.pause(f.Delay) {
			return
		}
	}
	if !r.faults.has(FaultIgnore) {
		answer()
	}
}

// check refuses what the client may not ask for.
func (c *session) check(r *request) error {
	words, err := c.wrong(r)
	if words == "" {
		return err
	}
	c.s.violation("%s: %s", r, words)
	return fmt.Errorf("%s: %w", words, err)
}

// wrong says what is not allowed about a request; an error without words is nobody's fault.
func (c *session) wrong(r *request) (words string, err error) {
	known := r.command != ""
	need, flags := c.needs(r)
	switch {
	case !known:
		return fmt.Sprintf("there is no command %d", r.number), unix.EINVAL
	case r.command != Read && r.command != Status && r.command != Flush && c.s.opt.ReadOnly:
		return c.unless(c.flags&flagReadOnly == 0, "it is read-only"), unix.EPERM
	case !need:
		return "not offered", unix.EINVAL
	case r.flags&^flags != 0:
		return fmt.Sprintf("flags %#x", r.flags&^flags), unix.EINVAL
	case r.command == Flush && (r.off != 0 || r.n != 0):
		return "a flush is of everything", unix.EINVAL
	case r.command == Flush:
		return "", nil
	case r.n == 0:
		return "of nothing", unix.EINVAL
	}
	return c.wrongPlace(r)
}

func (c *session) unless(fault bool, words string) string {
	if fault {
		return ""
	}
	return words
}

// needs says whether a command was offered, and with which flags.
func (c *session) needs(r *request) (offered bool, flags uint16) {
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

// wrongPlace looks at where a request goes to.
func (c *session) wrongPlace(r *request) (words string, err error) {
	end, size := r.off+uint64(r.n), uint64(c.s.disk.Size())
	outside := unix.EINVAL
	if r.command == Write || r.command == Zero {
		outside = unix.ENOSPC
	}
	switch {
	case end < r.off || end > c.size: // where we lie about the size it is not the client who is wrong
		return "beyond the end", outside
	case end > size:
		return "", outside
	case c.faults.has(FaultBlockSize):
		return "", nil
	}
	b := c.s.opt.BlockSizes
	if r.off%uint64(b.Min) != 0 || end%uint64(b.Min) != 0 && end != size {
		return c.unless(!c.askedBlock, fmt.Sprintf("not in whole blocks of %d bytes", b.Min)), unix.EINVAL
	}
	if (r.command == Read || r.command == Write) && r.n > b.Max {
		return c.unless(!c.askedBlock && r.n <= standardMax, fmt.Sprintf("more than %d bytes", b.Max)), unix.EINVAL
	}
	return "", nil
}

// act does it, unless a crash came before.
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
		out.may, out.err = c.may(r)
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

// may asks the disk what can hold data, in whole blocks.
func (c *session) may(r *request) (job.Extents, error) {
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
		out.may, out.err = c.may(r)
	}
	for _, f := range r.faults {
		if f.Kind == FaultFlipRead {
			flip(out.data, r, f)
			out.may = job.Extents{{Offset: int64(r.off), Length: int64(r.n)}}
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
	return c.force(r)
}

func (c *session) zero(r *request) error {
	punch := r.flags&cmdNoHole == 0
	if r.flags&cmdFastZero != 0 && !punch {
		return unix.ENOTSUP // would have to be written
	}
	if r.faults.has(FaultTrimGarbage) {
		b := rubbish(int(min(r.n, pageSize)))
		if _, err := c.s.disk.WriteAt(b, int64(r.off)); err != nil {
			return err
		}
		return c.force(r)
	}
	off, n := int64(r.off), int64(r.n)
	if t, ok := c.s.disk.(through); ok && r.flags&cmdFUA != 0 && !r.faults.has(FaultFlushLie) {
		return t.ZeroThrough(off, n, punch)
	}
	if err := c.s.disk.Zero(off, n, punch); err != nil {
		return err
	}
	return c.force(r)
}

// force is the rest of a request that wants to be durable.
func (c *session) force(r *request) error {
	if r.flags&cmdFUA == 0 || r.faults.has(FaultFlushLie) {
		return nil
	}
	return c.s.disk.Flush()
}
