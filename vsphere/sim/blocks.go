package sim

import "math/bits"

// blockSize is the size in bytes of the blocks of tracking and of overlays. ESXi starts with the same size.
const blockSize = 64 << 10

// blocks is a set of block numbers: one bit for each block of the disk.
type blocks []uint64

func newBlocks(capacity int64) blocks {
	n := (capacity + blockSize - 1) / blockSize
	return make(blocks, (n+63)/64)
}

func (s blocks) has(b int64) bool { return s[b/64]&(1<<(b%64)) != 0 }
func (s blocks) add(b int64)      { s[b/64] |= 1 << (b % 64) }

// addBytes adds every block that has one of the bytes in [from, to).
func (s blocks) addBytes(from, to int64) {
	for b := from / blockSize; b*blockSize < to; b++ {
		s.add(b)
	}
}

func (s blocks) unite(t blocks) {
	for i := range t {
		s[i] |= t[i]
	}
}

// resized is a copy for a disk of another size.
func (s blocks) resized(capacity int64) blocks {
	out := newBlocks(capacity)
	copy(out, s)
	return out
}

func (s blocks) clone() blocks { return append(blocks(nil), s...) }

// next is the first block from b on that is in the set, or, if in is false, that is not in it; at most end.
func (s blocks) next(b, end int64, in bool) int64 {
	for b < end {
		word := s[b/64]
		if !in {
			word = ^word
		}
		if word >>= b % 64; word != 0 {
			return min(end, b+int64(bits.TrailingZeros64(word)))
		}
		b = (b/64 + 1) * 64
	}
	return end
}

// count is how many blocks are in the set.
func (s blocks) count() (n int64) {
	for _, w := range s {
		n += int64(bits.OnesCount64(w))
	}
	return n
}
