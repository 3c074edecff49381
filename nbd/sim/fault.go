package sim

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vmferry/vmferry/job"
)

// FaultKind is what goes wrong.
type FaultKind string

// Faults of a connection. They are chosen when it is accepted.
const (
	FaultHangUp        FaultKind = "hang-up"        // closes the connection at once
	FaultGarbage       FaultKind = "garbage"        // greets with random bytes
	FaultStallGreeting FaultKind = "stall-greeting" // never greets
	FaultStallOptions  FaultKind = "stall-options"  // greets, and answers no option
	FaultStallGo       FaultKind = "stall-go"       // answers options, but not the last one
	FaultOptionLength  FaultKind = "option-length"  // announces 4 GiB in answer to an option
	FaultSize          FaultKind = "size"           // announces another size
	FaultFlags         FaultKind = "flags"          // inverts bits of the transmission flags
	FaultLose          FaultKind = "lose"           // lacks capabilities, and refuses what needs them
	FaultBlockSize     FaultKind = "block-size"     // announces other block sizes to a client that asks
)

// Faults of a request. They are chosen when it is read. The protocol allows those that are marked as allowed.
const (
	FaultStall       FaultKind = "stall"        // answers nothing from this request on, but reads
	FaultFreeze      FaultKind = "freeze"       // does not even read from this request on, as a stopped process
	FaultIgnore      FaultKind = "ignore"       // never answers this request
	FaultClose       FaultKind = "close"        // closes the connection instead of answering
	FaultLate        FaultKind = "late"         // answers later
	FaultError       FaultKind = "error"        // answers with an error and does nothing
	FaultErrorLate   FaultKind = "error-late"   // a read: answers half, then with an error
	FaultHalf        FaultKind = "half"         // a read: answers half, then closes the connection
	FaultNothing     FaultKind = "nothing"      // a read: reports success without data
	FaultCookie      FaultKind = "cookie"       // answers with a cookie that no request has
	FaultMagic       FaultKind = "magic"        // begins the answer with a wrong magic number
	FaultTwice       FaultKind = "twice"        // answers twice
	FaultOutside     FaultKind = "outside"      // a read: answers with a range past the requested one
	FaultHuge        FaultKind = "huge"         // a read: announces 4 GiB
	FaultOverlap     FaultKind = "overlap"      // a read: answers some bytes twice
	FaultShuffle     FaultKind = "shuffle"      // a read: answers in many parts, the last first (allowed)
	FaultFlipRead    FaultKind = "flip-read"    // a read: inverts a bit of the answer
	FaultFlipWritten FaultKind = "flip-written" // a write: inverts a bit of the stored bytes
	FaultFlushLie    FaultKind = "flush-lie"    // a flush, or FUA: reports success without flushing
	FaultTrimGarbage FaultKind = "trim-garbage" // a trim: leaves random bytes (allowed)
	FaultStatusEmpty FaultKind = "status-empty" // block status: no extent
	FaultStatusZero  FaultKind = "status-zero"  // block status: an extent of no bytes
	FaultStatusLong  FaultKind = "status-long"  // block status: an extent that ends far past the disk
	FaultStatusOdd   FaultKind = "status-odd"   // block status: random bytes of an odd length
	FaultStatusOther FaultKind = "status-other" // block status: of a context that was not agreed on
	FaultStatusNone  FaultKind = "status-none"  // block status: reports success without an answer
	FaultStatusHole  FaultKind = "status-hole"  // block status: reports that everything is a hole
)

// Fault is one fault to inject. It counts from the moment when it is set: connections if it is a fault of those, else
// the requests that match Op and At.
type Fault struct {
	Kind FaultKind
	Op   Command // of requests: only of this command; "" for any
	// of requests: only those that touch these ranges; nil for any. A flip inverts the lowest bit of the first byte of
	// a request that is in them
	At    job.Extents
	After int // the first so many are left out
	Every int // only each nth of those that follow, where n is Every; 0 for each
	Count int // at most so many times; 0 for no limit

	Size   uint64        // FaultSize
	Flags  uint16        // FaultFlags
	Lose   Capabilities  // FaultLose
	Blocks [3]uint32     // FaultBlockSize: least, preferred, most
	Delay  time.Duration // FaultLate
	Errno  uint32        // FaultError, FaultErrorLate: as it goes over the wire
}

// FaultHelp describes a kind for people.
type FaultHelp struct {
	Kind  FaultKind
	Value string // what its value is, as in SIZE; "" if it has none
	Text  string
}

// FaultKinds lists all kinds: those of connections first, then those of requests.
func FaultKinds() []FaultHelp {
	return append([]FaultHelp{
		{FaultHangUp, "", "close the connection at once"},
		{FaultGarbage, "", "greet with random bytes"},
		{FaultStallGreeting, "", "never greet"},
		{FaultStallOptions, "", "greet, and answer no option"},
		{FaultStallGo, "", "answer options, but not the last one"},
		{FaultOptionLength, "", "announce 4 GiB in answer to an option"},
		{FaultSize, "SIZE", "announce another size; -1 is 2^64-1"},
		{FaultFlags, "MASK", "invert transmission flags, as 2 for read-only"},
		{FaultLose, "CAPABILITY+...", "lack what --without can name"},
		{FaultBlockSize, "LEAST/PREFERRED/MOST", "announce such block sizes"},
	}, requestFaults()...)
}

func requestFaults() []FaultHelp {
	return []FaultHelp{
		{FaultStall, "", "answer nothing from this request on, but read"},
		{FaultFreeze, "", "not even read from this request on, as a stopped process"},
		{FaultIgnore, "", "never answer this request"},
		{FaultClose, "", "close the connection instead"},
		{FaultLate, "DURATION", "answer later"},
		{FaultError, "ERRNO", "answer with EIO, ENOSPC, ESHUTDOWN, 0xdeadbeef, ..."},
		{FaultErrorLate, "ERRNO", "read: half the data, then the error"},
		{FaultHalf, "", "read: half the data, then close"},
		{FaultNothing, "", "read: report success without data"},
		{FaultCookie, "", "answer with a cookie that no request has"},
		{FaultMagic, "", "begin the answer with a wrong magic number"},
		{FaultTwice, "", "answer twice"},
		{FaultOutside, "", "read: answer with a range past the requested one"},
		{FaultHuge, "", "read: announce 4 GiB"},
		{FaultOverlap, "", "read: some bytes twice"},
		{FaultShuffle, "", "read: many parts, the last first (allowed)"},
		{FaultFlipRead, "", "read: one bit wrong in the answer"},
		{FaultFlipWritten, "", "write: one bit wrong on the disk"},
		{FaultFlushLie, "", "flush, FUA: report success without flushing"},
		{FaultTrimGarbage, "", "trim: leave random bytes (allowed)"},
		{FaultStatusEmpty, "", "extents: none in the answer"},
		{FaultStatusZero, "", "extents: one of no bytes"},
		{FaultStatusLong, "", "extents: one that ends far past the disk"},
		{FaultStatusOdd, "", "extents: random bytes of an odd length"},
		{FaultStatusOther, "", "extents: of another context"},
		{FaultStatusNone, "", "extents: report success without an answer"},
		{FaultStatusHole, "", "extents: all is a hole, even data"},
	}
}

func (f *Fault) ofRequests() bool {
	return slices.ContainsFunc(requestFaults(), func(h FaultHelp) bool { return h.Kind == f.Kind })
}

// ParseFault reads NAME[=VALUE][,op=COMMAND][,at=OFFSET+LENGTH]...[,after=N][,every=N][,count=N]. The error is of kind
// Invalid.
func ParseFault(text string) (Fault, error) {
	words := strings.Split(text, ",")
	name, value, _ := strings.Cut(words[0], "=")
	f := Fault{Kind: FaultKind(name)}
	i := slices.IndexFunc(FaultKinds(), func(h FaultHelp) bool { return h.Kind == f.Kind })
	if i < 0 {
		names := make([]string, 0, 64)
		for _, h := range FaultKinds() {
			names = append(names, string(h.Kind))
		}
		return Fault{}, job.Errorf("read fault", job.Invalid, "Use one of "+strings.Join(names, ", "),
			"there is no fault %q", name)
	}
	err := f.setValue(value)
	for _, w := range words[1:] {
		if err == nil {
			err = f.set(w)
		}
	}
	if err == nil {
		err = f.check()
	}
	if err != nil {
		const next = "Write it as in error=EIO,op=write,at=1M+64K,after=5,every=3,count=2"
		err = fmt.Errorf("%q: %w", text, err)
		return Fault{}, &job.Error{Op: "read fault", Kind: job.Invalid, Next: next, Err: err}
	}
	return f, nil
}

// setValue reads the value after the name of the kind.
func (f *Fault) setValue(v string) (err error) {
	switch f.Kind {
	case FaultSize:
		if v == "-1" {
			f.Size = 1<<64 - 1
			return nil
		}
		if f.Size, err = strconv.ParseUint(v, 0, 64); err != nil {
			var n int64
			n, err = job.ParseSize(v)
			f.Size = uint64(n)
		}
	case FaultFlags:
		var n uint64
		n, err = strconv.ParseUint(v, 0, 16)
		f.Flags = uint16(n)
	case FaultLose:
		f.Lose, err = ParseCapabilities(v)
	case FaultBlockSize:
		parts := strings.Split(v, "/")
		if len(parts) != len(f.Blocks) {
			return fmt.Errorf("%q is not LEAST/PREFERRED/MOST", v)
		}
		for i, p := range parts {
			var n uint64
			if n, err = strconv.ParseUint(p, 0, 32); err != nil {
				return err
			}
			f.Blocks[i] = uint32(n)
		}
	case FaultLate:
		f.Delay, err = time.ParseDuration(v)
	case FaultError, FaultErrorLate:
		f.Errno, err = parseErrno(v)
	default:
		if v != "" {
			err = fmt.Errorf("%s takes no value", f.Kind)
		}
	}
	return err
}

// set reads one of the conditions.
func (f *Fault) set(word string) (err error) {
	key, v, _ := strings.Cut(word, "=")
	switch key {
	case "op":
		f.Op = Command(v)
	case "at":
		from, n, ok := strings.Cut(v, "+")
		e := job.Extent{Length: 1}
		if e.Offset, err = job.ParseSize(from); err == nil && ok {
			e.Length, err = job.ParseSize(n)
		}
		f.At = append(f.At, e)
	case "after":
		f.After, err = strconv.Atoi(v)
	case "every":
		f.Every, err = strconv.Atoi(v)
	case "count":
		f.Count, err = strconv.Atoi(v)
	default:
		err = fmt.Errorf("there is no condition %q", key)
	}
	return err
}

// check refuses a fault that could never apply.
func (f *Fault) check() error {
	switch {
	case f.After < 0 || f.Every < 0 || f.Count < 0:
		return fmt.Errorf("after, every or count is negative")
	case f.Delay < 0:
		return fmt.Errorf("the delay is negative")
	case f.Op != "" && !slices.Contains(commands(), f.Op):
		return fmt.Errorf("there is no command %q, only %v", f.Op, commands())
	case f.ofRequests() && f.Op != "" && !f.concerns(f.Op):
		return fmt.Errorf("%s does not apply to %s", f.Kind, f.Op)
	case !f.ofRequests() && (f.Op != "" || f.At != nil):
		return fmt.Errorf("%s applies to connections, which have no command and no range", f.Kind)
	case (f.Kind == FaultError || f.Kind == FaultErrorLate) && f.Errno == 0:
		return fmt.Errorf("%s needs an errno", f.Kind)
	case f.Kind == FaultLate && f.Delay == 0:
		return fmt.Errorf("%s needs a duration", f.Kind)
	}
	return f.At.Check(1<<63 - 1)
}

// String writes the fault in the form that ParseFault reads.
func (f Fault) String() string {
	var b strings.Builder
	b.WriteString(string(f.Kind))
	switch f.Kind {
	case FaultSize:
		fmt.Fprintf(&b, "=%d", f.Size)
	case FaultFlags:
		fmt.Fprintf(&b, "=%#x", f.Flags)
	case FaultLose:
		fmt.Fprintf(&b, "=%s", f.Lose)
	case FaultBlockSize:
		fmt.Fprintf(&b, "=%d/%d/%d", f.Blocks[0], f.Blocks[1], f.Blocks[2])
	case FaultLate:
		fmt.Fprintf(&b, "=%s", f.Delay)
	case FaultError, FaultErrorLate:
		fmt.Fprintf(&b, "=%s", formatErrno(f.Errno))
	default:
	}
	if f.Op != "" {
		fmt.Fprintf(&b, ",op=%s", f.Op)
	}
	for _, e := range f.At {
		fmt.Fprintf(&b, ",at=%v", e)
	}
	for _, c := range []struct {
		name string
		n    int
	}{{"after", f.After}, {"every", f.Every}, {"count", f.Count}} {
		if c.n != 0 {
			fmt.Fprintf(&b, ",%s=%d", c.name, c.n)
		}
	}
	return b.String()
}

// MarshalText writes the fault as String does.
func (f Fault) MarshalText() ([]byte, error) { return []byte(f.String()), nil }

// UnmarshalText reads the fault as ParseFault does.
func (f *Fault) UnmarshalText(text []byte) (err error) {
	*f, err = ParseFault(string(text))
	return err
}
