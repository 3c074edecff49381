package nbd

import (
	"encoding/hex"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"lukechampine.com/blake3"
	"pgregory.net/rapid"

	"github.com/vmferry/vmferry/job"
)

// content is reproducible. With holes it has runs of zeros of 64 KiB.
func content(size int, seed uint64, holes bool) []byte {
	b := make([]byte, size)
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	_, _ = r.Read(b)
	for at := 0; holes && at < size; at += 64 << 10 {
		if r.Uint64()%2 == 0 {
			clear(b[at:min(size, at+64<<10)])
		}
	}
	return b
}

func sum256(b []byte) string {
	sum := blake3.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// feed hashes a part of a disk; if the part is zeros, by the method for zeros.
func feed(t *tree, b []byte, off, n int) {
	part := b[off:min(len(b), off+n)]
	if isZero(part) {
		t.add(t.zeros(int64(off), int64(len(part))))
		return
	}
	t.add(t.subtrees(int64(off), part))
}

func TestATreeIsTheDigestOfTheWholeInWhateverOrderItsPartsCome(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.IntRange(1<<20, 5<<20).Draw(t, "size")
		b := content(size, rapid.Uint64().Draw(t, "seed"), rapid.Bool().Draw(t, "holes"))
		cuts := []int{0, size}
		for range rapid.IntRange(0, 60).Draw(t, "cuts") {
			cuts = append(cuts, rapid.IntRange(0, size/chunkSize).Draw(t, "cut")*chunkSize)
		}
		slices.Sort(cuts)
		cuts = slices.Compact(cuts)
		order := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "order"), 0)).Perm(len(cuts) - 1)
		stop := rapid.IntRange(0, len(order)).Draw(t, "stop")
		tr := newTree(int64(size))
		for i, k := range order {
			if i == stop {
				again, err := decodeTree(int64(size), tr.encode())
				if err != nil {
					t.Fatal(err)
				}
				tr = again
			}
			if tr.done() || tr.root() != "" {
				t.Fatalf("done before the last part")
			}
			feed(tr, b, cuts[k], cuts[k+1]-cuts[k])
		}
		if got, want := tr.root(), sum256(b); got != want {
			t.Fatalf("got %s, want %s", got, want)
		}
	})
}

func TestATreeOfEverySmallSizeIsTheDigest(t *testing.T) {
	sizes := []int{0, 1, 63, 64, 65, 512, 1023, 1024, 1025, 2047, 2048, 2049}
	for chunks := 3; chunks <= 70; chunks++ {
		sizes = append(sizes, chunks*chunkSize-1, chunks*chunkSize, chunks*chunkSize+1)
	}
	sizes = append(sizes, 1<<20, 1<<20-512, 1<<20+512)
	for _, size := range sizes {
		b := content(size, uint64(size), false)
		for _, part := range []int{1, 3, 16, 31, 64, 5000} {
			tr := newTree(int64(size))
			for off := (size - 1) / (part * chunkSize) * part * chunkSize; off >= 0 &&
				size > 0; off -= part * chunkSize {
				feed(tr, b, off, part*chunkSize)
			}
			if got, want := tr.root(), sum256(b); got != want || !tr.done() {
				t.Errorf("%d bytes in parts of %d: got %s, want %s", size, part, got, want)
			}
			again, err := decodeTree(int64(size), tr.encode())
			if err != nil || again.root() != tr.root() {
				t.Errorf("%d bytes come back as %s, %v", size, again.root(), err)
			}
		}
	}
}

func TestATreeOfZerosIsThatOfTheirBytes(t *testing.T) {
	const size = 3<<20 + 512
	whole, halves := newTree(size), newTree(size)
	whole.add(whole.zeros(0, size))
	halves.add(halves.zeros(1<<20, 5<<20)) // bytes past the end are left out
	halves.add(halves.subtrees(0, make([]byte, 1<<20)))
	if want := sum256(make([]byte, size)); whole.root() != want || halves.root() != want {
		t.Errorf("got %s and %s, want %s", whole.root(), halves.root(), want)
	}
}

func TestATreeKeepsFewNodes(t *testing.T) {
	const size = 1 << 50
	tr := newTree(size)
	for i := range int64(1000) {
		tr.add([]node{{place: place{9, i}}})
	}
	if n := len(tr.pending); n > 20 {
		t.Errorf("%d nodes after work in order", n)
	}
	odd := newTree(size)
	for i := range int64(1000) {
		odd.add([]node{{place: place{9, 2*i + 1}}})
	}
	if n := len(odd.encode()); n > 1000*(nodeLeast+2)+8 {
		t.Errorf("%d bytes for 1000 gaps", n)
	}
}

func TestPartsThatDoNotFitNeverMakeADigest(t *testing.T) {
	tr := newTree(10_000)
	for name, nodes := range map[string][]node{
		"begins inside a chunk": tr.subtrees(512, make([]byte, 1024)),
		"ends inside a chunk":   tr.subtrees(0, make([]byte, 1000)),
		"past the end":          tr.subtrees(10_240, make([]byte, 1024)),
		"negative":              tr.zeros(-1024, 2048),
		"empty":                 tr.zeros(1024, 0),
	} {
		if nodes != nil {
			t.Errorf("%s: %v", name, nodes)
		}
	}
	var none *tree
	none.add(none.subtrees(0, []byte{1}))
	if none.done() || none.root() != "" || none.clone() != nil {
		t.Error("no tree has a digest")
	}
}

func TestSubtreesAreMadeByManyAtOnce(t *testing.T) {
	const size, part = 8<<20 + 100, 256 << 10
	b := content(size, 1, true)
	tr := newTree(size)
	var mu sync.Mutex
	var all sync.WaitGroup
	for off := 0; off < size; off += part {
		all.Go(func() {
			nodes := tr.subtrees(int64(off), b[off:min(size, off+part)])
			mu.Lock()
			defer mu.Unlock()
			tr.add(nodes)
		})
	}
	all.Wait()
	if got, want := tr.root(), sum256(b); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestACloneGoesItsOwnWay(t *testing.T) {
	b := content(4<<10, 1, false)
	tr := newTree(4 << 10)
	feed(tr, b, 0, 2<<10)
	kept := tr.clone()
	feed(tr, b, 2<<10, 2<<10)
	if kept.done() || !tr.done() {
		t.Error("the clone changes with the tree")
	}
	feed(kept, b, 2<<10, 2<<10)
	if kept.root() != tr.root() {
		t.Error("the clone has another root than the tree")
	}
}

func TestATreeThatEncodeDidNotWriteIsRefused(t *testing.T) {
	value := make([]byte, chainSize)
	raw := func(count byte, nodes ...[2]byte) []byte {
		b := []byte{count}
		for _, n := range nodes {
			b = append(append(b, n[0], n[1]), value...)
		}
		return b
	}
	const size = 10 << 10
	for name, b := range map[string][]byte{
		"nothing":               nil,
		"more nodes than bytes": {200, 1, 0, 0},
		"cut short":             raw(1, [2]byte{0, 0})[:20],
		"too much":              append(raw(1, [2]byte{0, 0}), 0),
		"out of range":          raw(1, [2]byte{10, 0}),
		"level above the root":  raw(1, [2]byte{0, 5}),
		"level without bound":   raw(1, [2]byte{0, 120}),
		"unaligned":             raw(1, [2]byte{1, 1}),
		"siblings not made one": raw(2, [2]byte{0, 0}, [2]byte{0, 0}),
		"one after the last":    raw(2, [2]byte{8, 1}, [2]byte{0, 0}),
	} {
		if _, err := decodeTree(size, b); job.KindOf(err) != job.Corrupt {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, none := range []int64{-1, 0} {
		if _, err := decodeTree(none, raw(0)); job.KindOf(err) != job.Corrupt {
			t.Errorf("%d bytes: %v", none, err)
		}
	}
	// nine chunks, the ninth without a sibling
	tr, err := decodeTree(size-chunkSize, raw(2, [2]byte{0, 2}, [2]byte{4, 0}))
	if err != nil || len(tr.pending) != 2 {
		t.Errorf("a good one: %v", err)
	}
}

func BenchmarkTree(b *testing.B) {
	data := content(512<<10, 1, false)
	tr := newTree(1 << 50)
	b.Run("data", func(b *testing.B) {
		b.SetBytes(int64(len(data)))
		for i := range b.N {
			tr.add(tr.subtrees(int64(i)*int64(len(data)), data))
		}
	})
	b.Run("zeros", func(b *testing.B) {
		b.SetBytes(64 << 20)
		for i := range b.N {
			tr.zeros(int64(i)*(64<<20), 64<<20)
		}
	})
	b.Run("add", func(b *testing.B) {
		tr, nodes := newTree(1<<50), tr.subtrees(0, data)
		for i := range b.N {
			nodes[0].index = int64(i)
			tr.add(nodes)
		}
	})
}
