package nbd

import (
	"cmp"
	"encoding/binary"
	"encoding/hex"
	"maps"
	"math/bits"
	"slices"

	"lukechampine.com/blake3/guts"

	"github.com/vmferry/vmferry/job"
)

// tree makes the BLAKE3 digest of a whole disk, as b3sum prints it, from parts in any order.
//
// BLAKE3 hashes chunks of 1 KiB (in this file a chunk is one of these), and pairs of hashes up to one root. So a part
// of the disk is hashed by itself into few nodes (subtrees, zeros: expensive, without a lock), and then the nodes are
// joined (add: cheap, one call at a time). The tree keeps the nodes whose sibling is missing: a few for each gap, at
// most about two times the logarithm of the disk's size.
//
// A chunk's number goes into its hash. So zeros have another hash at each place and are hashed like data.
type tree struct {
	size    int64 // bytes of the disk
	chunks  int64 // at least 1: an empty disk has one empty chunk
	top     int   // level of the root
	pending map[place]chain
}

// place is the place of a node. The node covers 1<<level chunks from index<<level on, or fewer at the end of the disk.
type place struct {
	level int
	index int64
}

// chain is BLAKE3's chaining value. At the root it is the digest.
type chain = [8]uint32

// node is a subtree that has been hashed.
type node struct {
	place
	chain
}

const (
	chunkSize  = guts.ChunkSize
	batchLevel = 4                       // 16 chunks are hashed at once if the processor supports that
	batchSize  = chunkSize << batchLevel // bytes
	chainSize  = 32                      // bytes
	nodeLeast  = 2 + chainSize           // bytes of a node in a checkpoint
)

func newTree(size int64) *tree {
	chunks := max(1, (size+chunkSize-1)/chunkSize)
	t := &tree{size: size, chunks: chunks, top: bits.Len64(uint64(chunks - 1)), pending: map[place]chain{}}
	if size == 0 {
		t.add([]node{{chain: t.hash(place{}, func(int64) []byte { return nil })}})
	}
	return t
}

func (t *tree) clone() *tree {
	if t == nil {
		return nil
	}
	c := *t
	c.pending = maps.Clone(t.pending)
	return &c
}

// subtrees hashes the bytes b at off. They must begin and end where chunks do, or end with the disk; bytes past the end
// of the disk are left out. For other bytes it returns nil, so the digest never gets complete. It may be called from
// any goroutine.
func (t *tree) subtrees(off int64, b []byte) []node {
	return t.split(off, int64(len(b)), func(at int64) []byte { return b[at-off:] })
}

// zeros is subtrees of n zero bytes. It costs what hashing from the cache costs: one second for 2 to 6 GB.
func (t *tree) zeros(off, n int64) []node {
	if t == nil {
		return nil
	}
	var nothing [batchSize]byte
	return t.split(off, n, func(int64) []byte { return nothing[:] })
}

// split hashes a range as the largest subtrees in it. from returns the bytes from at on: at least a batch of them, or
// all up to the end of the range.
func (t *tree) split(off, n int64, from func(at int64) []byte) []node {
	if t == nil || off < 0 || off >= t.size || n <= 0 || off%chunkSize != 0 {
		return nil
	}
	end := off + min(n, t.size-off)
	if end%chunkSize != 0 && end != t.size {
		return nil
	}
	var out []node
	for at, last := off/chunkSize, (end+chunkSize-1)/chunkSize; at < last; {
		level := bits.Len64(uint64(last-at)) - 1
		if at > 0 {
			level = min(level, bits.TrailingZeros64(uint64(at)))
		}
		if level == t.top && level > 0 {
			level-- // the root is another kind of node, and only add makes it
		}
		p := place{level, at >> level}
		out = append(out, node{p, t.hash(p, from)})
		at += 1 << level
	}
	return out
}

// hash hashes the bytes of a node.
func (t *tree) hash(p place, from func(at int64) []byte) chain {
	if p.level > batchLevel {
		left := place{p.level - 1, p.index * 2}
		return parent(t.hash(left, from), t.hash(place{left.level, left.index + 1}, from), 0)
	}
	at := p.start() * chunkSize
	n := int(min(chunkSize<<p.level, t.size-at))
	b := from(at)
	if p.level == 0 {
		chunk := guts.CompressChunk(b[:n], &guts.IV, uint64(p.index), 0)
		if t.top == 0 {
			chunk.Flags |= guts.FlagRoot
		}
		return guts.ChainingValue(chunk)
	}
	if len(b) < batchSize {
		var batch [batchSize]byte
		copy(batch[:], b[:n])
		b = batch[:]
	}
	return guts.ChainingValue(guts.CompressBuffer((*[batchSize]byte)(b), n, &guts.IV, uint64(p.start()), 0))
}

func parent(left, right chain, flags uint32) chain {
	return guts.ChainingValue(guts.ParentNode(left, right, &guts.IV, flags))
}

// add adds nodes. Each chunk must be in one of them only. It joins siblings to their parent as soon as both are there.
func (t *tree) add(nodes []node) {
	if t == nil {
		return
	}
	for _, n := range nodes {
		for n.level < t.top {
			sibling := place{n.level, n.index ^ 1}
			up := place{n.level + 1, n.index / 2}
			if sibling.start() >= t.chunks {
				n.place = up // a node without a sibling takes its parent's place
				continue
			}
			other, there := t.pending[sibling]
			if !there {
				break
			}
			delete(t.pending, sibling)
			left, right, flags := n.chain, other, uint32(0)
			if n.index%2 == 1 {
				left, right = other, n.chain
			}
			if up.level == t.top {
				flags = guts.FlagRoot
			}
			n = node{up, parent(left, right, flags)}
		}
		t.pending[n.place] = n.chain
	}
}

// done says whether the whole disk was added.
func (t *tree) done() bool {
	if t == nil {
		return false
	}
	_, whole := t.pending[place{level: t.top}]
	return whole
}

// root is the digest in hex; "" if a part is missing.
func (t *tree) root() string {
	if !t.done() {
		return ""
	}
	return hex.EncodeToString(appendChain(nil, t.pending[place{level: t.top}]))
}

func (p place) start() int64 { return p.index << p.level }

// end is the first chunk after the node.
func (t *tree) end(p place) int64 { return min((p.index+1)<<p.level, t.chunks) }

// encode returns the form that a checkpoint keeps: the number of nodes, then for each in the order of the disk the
// chunks since the end of the node before, its level (both uvarints) and its chaining value.
func (t *tree) encode() []byte {
	places := slices.SortedFunc(maps.Keys(t.pending), func(a, b place) int { return cmp.Compare(a.start(), b.start()) })
	b := binary.AppendUvarint(nil, uint64(len(places)))
	var at int64
	for _, p := range places {
		b = binary.AppendUvarint(b, uint64(p.start()-at))
		b = binary.AppendUvarint(b, uint64(p.level))
		b = appendChain(b, t.pending[p])
		at = t.end(p)
	}
	return b
}

func appendChain(b []byte, c chain) []byte {
	for _, word := range c {
		b = binary.LittleEndian.AppendUint32(b, word)
	}
	return b
}

// decodeTree refuses what encode would not have written for a disk of that size. The error is of kind Corrupt.
func decodeTree(size int64, b []byte) (*tree, error) {
	bad := func(why string) (*tree, error) {
		return nil, job.Errorf("read digest", job.Corrupt, "", "%s", why)
	}
	r := reader{rest: b}
	n := r.number()
	if size < 0 || r.failed || n > int64(len(r.rest))/nodeLeast {
		return bad("it is cut short")
	}
	t := newTree(size)
	var at int64
	for range n { // for an empty disk, this replaces the node that newTree added
		gap, level := r.number(), r.number()
		value := r.bytes(chainSize)
		if r.failed {
			return bad("it is cut short")
		}
		if level > int64(t.top) || gap >= t.chunks-at || (at+gap)%(1<<level) != 0 {
			return bad("its parts do not fit the disk")
		}
		p := place{int(level), (at + gap) >> level}
		var c chain
		for i := range c {
			c[i] = binary.LittleEndian.Uint32(value[4*i:])
		}
		t.add([]node{{p, c}})
		at = t.end(p)
	}
	if len(r.rest) > 0 || int64(len(t.pending)) != n {
		return bad("its fields cannot be read")
	}
	return t, nil
}
