package sim

import (
	"fmt"
	"log/slog"
	"net"
	"strings"
	"time"

	"github.com/vmferry/vmferry/job"
)

// Options says what the rehearsal server has. The zero value of every field but Backend means: as a good server.
type Options struct {
	// Backend holds the disk. It belongs to the caller, who closes it after the server.
	Backend Backend
	// Listen is the path of a unix socket, or address and port of the loopback interface; "" means a free port of
	// 127.0.0.1. Every program that can connect can read and write the disk.
	Listen string
	// Control is the path of a unix socket for Server.Handler, which controls the server over HTTP; "" for none.
	Control string
	Export  string // the name of the one export; "" is the default one

	Without    Capabilities // capabilities that the server lacks
	ReadOnly   bool
	BlockSizes BlockSizes
	// Connections is how many there can be at the same time; one more is closed at once. 0 for no limit.
	Connections int
	// Requests is how many of a connection are executed at the same time; more wait in the socket. 0 for 16.
	Requests int

	Faults []Fault      // set from the start, as by SetFaults
	Log    *slog.Logger // nil for none
}

// BlockSizes are announced to a client that asks for them. Zeros mean 1, 4096 and 32 MiB.
type BlockSizes struct {
	Min       uint32 // requests must be multiples of it
	Preferred uint32
	Max       uint32 // bytes of data in one request
}

// Capabilities is a set of capabilities of a server.
type Capabilities uint16

// The capabilities.
const (
	CanStructured Capabilities = 1 << iota // structured replies; without them there are no extents
	CanExtents                             // base:allocation
	CanZero                                // write zeroes; without it there is no fast zero
	CanFastZero                            // refuses a zero that would be slow, if the client wants that
	CanTrim                                // discard
	CanFUA                                 // force unit access
	CanFlush                               // flush
	CanMultiConn                           // a flush on one connection covers all
	CanBlockSize                           // announces block sizes
	CanGo                                  // the options INFO and GO; without them there is only OPT_EXPORT_NAME
	CanNoZeroes                            // leaves out 124 zeros in the answer to OPT_EXPORT_NAME
	CanDF                                  // answers a read in one part if the client wants that

	allCapabilities = 1<<iota - 1
)

// CapabilityNames are the names that ParseCapabilities reads, in the order of the bits.
func CapabilityNames() []string {
	return []string{
		"structured", "extents", "zero", "fast-zero", "trim", "fua", "flush", "multi-conn", "block-size",
		"go", "no-zeroes", "df",
	}
}

// ParseCapabilities reads names with commas or plus signs between them, as in extents,zero. The error is of kind
// Invalid.
func ParseCapabilities(text string) (c Capabilities, err error) {
	words := strings.FieldsFunc(text, func(r rune) bool { return r == ',' || r == '+' })
next:
	for _, word := range words {
		for i, name := range CapabilityNames() {
			if name == word {
				c |= 1 << i
				continue next
			}
		}
		return 0, job.Errorf("read capabilities", job.Invalid, "Use "+strings.Join(CapabilityNames(), ", "),
			"there is no capability %q", word)
	}
	return c, nil
}

// String lists the names.
func (c Capabilities) String() string {
	var names []string
	for i, name := range CapabilityNames() {
		if c&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	return strings.Join(names, "+")
}

// capabilitiesWithout are all capabilities but those, and but those that need one of them.
func capabilitiesWithout(without Capabilities) Capabilities {
	c := allCapabilities &^ without
	if c&CanStructured == 0 {
		c &^= CanExtents | CanDF
	}
	if c&CanZero == 0 {
		c &^= CanFastZero
	}
	return c
}

const (
	standardRequests  = 16
	standardPreferred = 4 << 10
	standardMax       = 32 << 20  // bytes of data in one request
	mostPayload       = 64 << 20  // bytes of a write; a client that sends more is disconnected
	mostOption        = 64 << 10  // bytes of an option; a client that sends more is disconnected
	mostExport        = 4096      // bytes of a name, by the protocol
	socketPathMost    = 107       // of a unix socket, by the kernel's sockaddr_un
	mostDescriptors   = 1 << 12   // in one answer about block status
	mostMessages      = 100       // violations that are kept
	pageSize          = 64 << 10  // bytes of a page of Memory
	largestPreferred  = 1<<31 - 1 // bounds sums with it

	acceptPause = 10 * time.Millisecond // after a connection that could not be accepted
)

func (o *Options) prepare() error {
	const op = "check the rehearsal server's options"
	if o.Backend == nil {
		return job.Errorf(op, job.Invalid, "Give a disk", "there is no disk to serve")
	}
	if len(o.Export) > mostExport {
		return job.Errorf(op, job.Invalid, "", "the export's name has %d bytes, at most %d", len(o.Export), mostExport)
	}
	if o.Requests <= 0 {
		o.Requests = standardRequests
	}
	if o.Listen == "" {
		o.Listen = "127.0.0.1:0"
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	b := &o.BlockSizes
	if b.Max == 0 {
		b.Max = standardMax
	}
	if b.Min == 0 {
		b.Min = 1
	}
	if b.Preferred == 0 {
		b.Preferred = min(max(standardPreferred, b.Min), b.Max)
	}
	if err := b.check(); err != nil {
		const next = "Use powers of two in ascending order. " +
			"For block sizes that make no sense there is a fault: block-size"
		return &job.Error{Op: op, Kind: job.Invalid, Next: next, Err: err}
	}
	for _, place := range []string{o.Listen, o.Control} {
		if err := checkPlace(place); err != nil {
			return &job.Error{Op: op, Kind: job.Invalid, Err: err}
		}
	}
	if o.Control != "" && !isSocket(o.Control) {
		return job.Errorf(op, job.Invalid, "Give the path of a unix socket, with a slash in it",
			"the control address %s is not the path of a unix socket", o.Control)
	}
	return nil
}

func (b BlockSizes) check() error {
	power := func(n uint32) bool { return n&(n-1) == 0 }
	switch {
	case b.Min > standardMax || !power(b.Min) || !power(b.Preferred) || b.Preferred > largestPreferred:
		return fmt.Errorf("block sizes %d and %d are not powers of two", b.Min, b.Preferred)
	case b.Preferred < b.Min || b.Max < b.Preferred || b.Max%b.Min != 0 || b.Max > mostPayload:
		return fmt.Errorf("block sizes %d, %d and %d do not fit together", b.Min, b.Preferred, b.Max)
	default:
		return nil
	}
}

// isSocket says whether an address to listen at is the path of a unix socket.
func isSocket(place string) bool { return strings.Contains(place, "/") }

func checkPlace(place string) error {
	if place == "" {
		return nil
	}
	if isSocket(place) {
		if len(place) > socketPathMost {
			return fmt.Errorf("the socket's path has %d bytes, at most %d", len(place), socketPathMost)
		}
		return nil
	}
	host, _, err := net.SplitHostPort(place)
	if err != nil {
		return fmt.Errorf("%q is neither HOST:PORT nor the path of a socket: %w", place, err)
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return fmt.Errorf("%s is not a loopback address, and the server does not authenticate clients", host)
	}
	return nil
}
