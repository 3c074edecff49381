package nbd

import (
	"bytes"
	"encoding/binary"
	"reflect"
	"slices"
	"testing"

	"github.com/zeebo/xxh3"

	"github.com/vmferry/vmferry/job"
)

// FuzzCheckpoint adds a right checksum, so that the fuzzer reaches the code that parses the content.
func FuzzCheckpoint(f *testing.F) {
	c := checkpoint{identity: "a > b", plan: 7, capacity: 3 << 20, progressSnapshot: progressSnapshot{
		done: job.Extents{{Offset: 0, Length: 4096}, {Offset: 1 << 20, Length: 1 << 20}}, transferred: 4096,
		skipped: 1 << 20, sent: 8192,
	}}
	plain := c.encode()
	c.digests = newDigests(c.capacity)
	c.digests.add(c.digests.sums(0, content(4096, 1, false)))
	whole := c.encode()
	c.unhashed = c.done[:1]
	inherited := c.encode()
	old := slices.Clone(plain[:len(plain)-9]) // without digests, as in version 1
	old[len(checkpointMagic)] = 1
	for _, seed := range [][]byte{
		plain[:len(plain)-8], whole[:len(whole)-8], inherited[:len(inherited)-8], old, []byte(checkpointMagic), nil,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		got, err := decode(binary.BigEndian.AppendUint64(slices.Clone(body), xxh3.Hash(body)))
		if err != nil {
			if k := job.KindOf(err); k != job.Corrupt && k != job.Conflict {
				t.Errorf("kind %q: %v", k, err)
			}
			return
		}
		if err := got.done.Check(got.capacity); err != nil || got.done.Merge(0).Sum() != got.done.Sum() {
			t.Errorf("ranges %v of %d bytes: %v", got.done, got.capacity, err)
		}
		again, err := decode(got.encode())
		if err != nil || !reflect.DeepEqual(again, got) {
			t.Errorf("%+v comes back as %+v, %v", got, again, err)
		}
	})
}

func FuzzTree(f *testing.F) {
	const size = 100<<10 + 3
	data := content(size, 1, true)
	tr := newTree(size)
	feed(tr, data, 96<<10, size-96<<10)
	f.Add(int64(size), tr.encode())
	feed(tr, data, 3<<10, 20<<10)
	f.Add(int64(size), tr.encode())
	feed(tr, data, 0, 3<<10)
	feed(tr, data, 23<<10, 73<<10)
	f.Add(int64(size), tr.encode())
	f.Add(int64(0), newTree(0).encode())
	f.Add(int64(1)<<61, []byte{0})
	f.Fuzz(func(t *testing.T, size int64, b []byte) {
		size &= 1<<62 - 1
		got, err := decodeTree(size, b)
		if err != nil {
			if job.KindOf(err) != job.Corrupt {
				t.Errorf("kind %q: %v", job.KindOf(err), err)
			}
			return
		}
		if len(got.pending) > len(b)/nodeLeast {
			t.Errorf("%d nodes out of %d bytes", len(got.pending), len(b))
		}
		text := got.encode()
		again, err := decodeTree(size, text)
		if err != nil || !reflect.DeepEqual(again, got) || !bytes.Equal(text, again.encode()) {
			t.Errorf("%+v comes back as %+v, %v", got, again, err)
		}
		if got.done() != (got.root() != "") {
			t.Errorf("done %v, root %q", got.done(), got.root())
		}
	})
}
