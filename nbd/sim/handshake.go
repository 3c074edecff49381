package sim

import (
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
)

// negotiate does the handshake. on says whether requests follow.
func (c *session) negotiate() (on bool, err error) {
	switch {
	case c.faults.has(FaultGarbage):
		c.send(garbage(4096))
		c.discardInput()
		return false, nil
	case c.faults.has(FaultStallGreeting):
		c.discardInput()
		return false, nil
	}
	flags := uint16(fixedNewstyle)
	if c.can&CanNoZeroes != 0 {
		flags |= noZeroes
	}
	c.send(be16([]byte(greeting), flags))
	var b [4]byte
	if _, err := io.ReadFull(c.conn, b[:]); err != nil {
		return false, err
	}
	answered := binary.BigEndian.Uint32(b[:])
	if answered&^uint32(flags) != 0 || answered&fixedNewstyle == 0 {
		c.s.violation("the client answers flags %#x by %#x", flags, answered)
		return false, fmt.Errorf("the client answers flags %#x by %#x", flags, answered)
	}
	c.noZeroes = answered&noZeroes != 0
	if c.faults.has(FaultStallOptions) {
		c.discardInput()
		return false, nil
	}
	for {
		option, data, err := c.option()
		if err != nil {
			return false, err
		}
		on, end := c.handleOption(option, data)
		if on || end {
			return on, nil
		}
	}
}

// garbage is n bytes that look random and are always the same.
func garbage(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(b) // never fails
	return b
}

// option reads the client's next option.
func (c *session) option() (option uint32, data []byte, err error) {
	head := make([]byte, 16)
	if _, err := io.ReadFull(c.conn, head); err != nil {
		return 0, nil, err
	}
	if binary.BigEndian.Uint64(head) != optionMagic {
		c.s.violation("an option begins with %x", head[:8])
		return 0, nil, fmt.Errorf("an option begins with %x", head[:8])
	}
	option = binary.BigEndian.Uint32(head[8:])
	n := binary.BigEndian.Uint32(head[12:])
	if n > mostOption {
		c.send(optionReply(option, repTooBig, nil))
		c.s.violation("option %d has %d bytes", option, n)
		return 0, nil, fmt.Errorf("option %d has %d bytes", option, n)
	}
	data = make([]byte, n)
	_, err = io.ReadFull(c.conn, data)
	return option, data, err
}

// handleOption answers one option. on means that requests follow, end that the connection ends.
func (c *session) handleOption(option uint32, data []byte) (on, end bool) {
	reply := func(kind uint32, payload []byte) { c.send(optionReply(option, kind, payload)) }
	if c.faults.has(FaultOptionLength) {
		c.send(be32(be32(be32(be64(nil, replyMagic), option), repInfo), 1<<32-1))
		c.discardInput()
		return false, true
	}
	switch option {
	case optExportName:
		return c.exportName(string(data)), true
	case optAbort:
		reply(repAck, nil)
		return false, true
	case optList:
		if len(data) > 0 {
			reply(repInvalid, nil)
			break
		}
		reply(repServer, append(be32(nil, uint32(len(c.s.opt.Export))), c.s.opt.Export...))
		reply(repAck, nil)
	case optInfo, optGo:
		if c.can&CanGo == 0 {
			reply(repUnsup, nil)
			break
		}
		return c.info(option, data)
	case optStructured:
		c.handleStructured(reply, data)
	case optListMeta, optSetMeta:
		c.meta(option, data)
	default:
		reply(repUnsup, nil)
	}
	return false, false
}

// exportName answers the old option that begins transmission. It can refuse only by closing the connection.
func (c *session) exportName(name string) (on bool) {
	if c.stalls() || name != c.s.opt.Export {
		return false
	}
	b := be16(be64(nil, c.size), c.finalFlags())
	if !c.noZeroes {
		b = append(b, make([]byte, 124)...)
	}
	c.send(b)
	return true
}

// stalls says whether a fault leaves the last option without an answer. It returns true only when the client has gone.
func (c *session) stalls() bool {
	if !c.faults.has(FaultStallGo) {
		return false
	}
	c.discardInput()
	return true
}

// finalFlags are the transmission flags after the options were agreed on.
func (c *session) finalFlags() uint16 {
	if c.structured && c.can&CanDF != 0 {
		return c.flags | flagDF
	}
	return c.flags
}

func (c *session) handleStructured(reply func(kind uint32, payload []byte), data []byte) {
	switch {
	case c.can&CanStructured == 0:
		reply(repUnsup, nil)
	case len(data) > 0:
		reply(repInvalid, nil)
	default:
		c.structured = true
		reply(repAck, nil)
	}
}

// info answers INFO and GO. data is the export's name, then the numbers of the information that the client wants.
func (c *session) info(option uint32, data []byte) (on, end bool) {
	reply := func(kind uint32, payload []byte) { c.send(optionReply(option, kind, payload)) }
	if option == optGo && c.stalls() {
		return false, true
	}
	name, rest, ok := cutText(data)
	if !ok || len(rest) < 2 || len(rest) != 2+2*int(binary.BigEndian.Uint16(rest)) {
		c.s.violation("option %d is malformed", option)
		reply(repInvalid, nil)
		return false, false
	}
	if name != c.s.opt.Export {
		reply(repUnknown, []byte("there is no such export"))
		return false, false
	}
	wants := map[uint16]bool{}
	for b := rest[2:]; len(b) > 0; b = b[2:] {
		wants[binary.BigEndian.Uint16(b)] = true
	}
	blocks := c.blockSizes()
	if c.can&CanBlockSize != 0 && blocks[0] > 1 && !wants[infoBlockSize] {
		reply(repNoBlock, nil)
		return false, false
	}
	reply(repInfo, be16(be64(be16(nil, infoExport), c.size), c.finalFlags()))
	if wants[infoName] {
		reply(repInfo, append(be16(nil, infoName), name...))
	}
	if wants[infoDescription] {
		reply(repInfo, append(be16(nil, infoDescription), "a disk for rehearsals"...))
	}
	if wants[infoBlockSize] && c.can&CanBlockSize != 0 {
		c.knowsBlockSizes = true
		reply(repInfo, be32(be32(be32(be16(nil, infoBlockSize), blocks[0]), blocks[1]), blocks[2]))
	}
	reply(repAck, nil)
	return option == optGo, false
}

// blockSizes are the block sizes that the server announces.
func (c *session) blockSizes() [3]uint32 {
	if f, ok := c.faults.find(FaultBlockSize); ok {
		return f.Blocks
	}
	b := c.s.opt.BlockSizes
	return [3]uint32{b.Min, b.Preferred, b.Max}
}

// cutText reads a text that follows its length.
func cutText(b []byte) (text string, rest []byte, ok bool) {
	if len(b) < 4 {
		return "", nil, false
	}
	n := binary.BigEndian.Uint32(b)
	if uint64(n) > uint64(len(b)-4) {
		return "", nil, false
	}
	return string(b[4 : 4+n]), b[4+n:], true
}

// meta answers the options for metadata contexts.
func (c *session) meta(option uint32, data []byte) {
	reply := func(kind uint32, payload []byte) { c.send(optionReply(option, kind, payload)) }
	if c.can&CanExtents == 0 {
		reply(repUnsup, nil)
		return
	}
	name, queries, ok := metaQueries(data)
	switch {
	case !ok, option == optSetMeta && !c.structured:
		c.s.violation("option %d is malformed, or comes too early", option)
		reply(repInvalid, nil)
		return
	case name != c.s.opt.Export:
		reply(repUnknown, nil)
		return
	}
	found := option == optListMeta && len(queries) == 0
	for _, q := range queries {
		if q == allocation || option == optListMeta && strings.HasPrefix(allocation, q) && strings.HasSuffix(q, ":") {
			found = true
		}
	}
	if option == optSetMeta {
		c.extents = found
	}
	if found {
		id := uint32(allocationID)
		if option == optListMeta {
			id = 0
		}
		reply(repMeta, append(be32(nil, id), allocation...))
	}
	reply(repAck, nil)
}

func metaQueries(data []byte) (export string, queries []string, ok bool) {
	export, rest, ok := cutText(data)
	if !ok || len(rest) < 4 {
		return "", nil, false
	}
	n := binary.BigEndian.Uint32(rest)
	rest = rest[4:]
	for ; n > 0; n-- {
		var q string
		if q, rest, ok = cutText(rest); !ok {
			return "", nil, false
		}
		queries = append(queries, q)
	}
	return export, queries, len(rest) == 0
}
