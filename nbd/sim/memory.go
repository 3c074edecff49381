package sim

import (
	"io"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/vmferry/vmferry/job"
)

// Memory is a disk in memory. Only written pages take memory.
type Memory struct {
	size  int64
	cache bool

	mu    sync.RWMutex
	base  map[int64]*page // durable; by offset/pageSize. A page that is missing is a hole
	fresh map[int64]*page // not flushed yet; nil is a new hole. Empty without a cache
}

type page [pageSize]byte

// NewMemory makes a disk of zeros. What is written is durable at once.
func NewMemory(size int64) *Memory {
	return &Memory{size: size, base: map[int64]*page{}, fresh: map[int64]*page{}}
}

// NewVolatileMemory makes a disk of zeros with a cache: Crash loses what was not flushed.
func NewVolatileMemory(size int64) *Memory {
	m := NewMemory(size)
	m.cache = true
	return m
}

// Size is the size of the disk in bytes.
func (m *Memory) Size() int64 { return m.size }

// at finds a page as readers see it; nil for a hole. The caller holds the lock.
func (m *Memory) at(i int64) *page {
	if p, ok := m.fresh[i]; ok {
		return p
	}
	return m.base[i]
}

// inside says whether a range is inside the disk.
func (m *Memory) inside(off, n int64) bool {
	return off >= 0 && n >= 0 && off <= m.size && n <= m.size-off
}

// each calls f for the part of every page that a range touches, in order.
func each(off, n int64, f func(i int64, from, to int)) {
	for end := off + n; off < end; {
		from := off % pageSize
		to := min(pageSize, from+end-off)
		f(off/pageSize, int(from), int(to))
		off += to - from
	}
}

// ReadAt reads all of p, or nothing.
func (m *Memory) ReadAt(p []byte, off int64) (int, error) {
	if !m.inside(off, int64(len(p))) {
		return 0, io.EOF
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	rest := p
	each(off, int64(len(p)), func(i int64, from, to int) {
		part := rest[:to-from]
		rest = rest[to-from:]
		if pg := m.at(i); pg != nil {
			copy(part, pg[from:to])
			return
		}
		clear(part)
	})
	return len(p), nil
}

// WriteAt writes all of p, or nothing.
func (m *Memory) WriteAt(p []byte, off int64) (int, error) {
	if !m.inside(off, int64(len(p))) {
		return 0, unix.ENOSPC
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.write(p, off, m.upper)
	return len(p), nil
}

func (m *Memory) write(p []byte, off int64, where func(i int64) *page) {
	each(off, int64(len(p)), func(i int64, from, to int) {
		copy(where(i)[from:to], p)
		p = p[to-from:]
	})
}

// upper is a page to write to, as readers see it. The caller holds the lock.
func (m *Memory) upper(i int64) *page {
	if !m.cache {
		return m.lower(i)
	}
	p, ok := m.fresh[i]
	if p == nil {
		p = &page{}
		if below := m.base[i]; below != nil && !ok {
			*p = *below
		}
		m.fresh[i] = p
	}
	return p
}

// lower is a durable page to write to. The caller holds the lock.
func (m *Memory) lower(i int64) *page {
	p := m.base[i]
	if p == nil {
		p = &page{}
		m.base[i] = p
	}
	return p
}

// Zero makes a range read as zeros. With punch, whole pages become holes.
func (m *Memory) Zero(off, n int64, punch bool) error {
	if !m.inside(off, n) {
		return unix.ENOSPC
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.zero(off, n, punch, m.at, m.upper, m.hole)
	return nil
}

func (m *Memory) zero(off, n int64, punch bool, look, change func(i int64) *page, hole func(i int64)) {
	each(off, n, func(i int64, from, to int) {
		whole := to-from == pageSize || from == 0 && i*pageSize+int64(to) == m.size
		switch {
		case punch && whole:
			hole(i)
		case punch && look(i) == nil: // zeros already
		default:
			clear(change(i)[from:to])
		}
	})
}

// hole makes a page a hole, as readers see it. The caller holds the lock.
func (m *Memory) hole(i int64) {
	if !m.cache {
		delete(m.base, i)
		return
	}
	if m.at(i) != nil {
		m.fresh[i] = nil
	}
}

// WriteThrough writes p and makes these bytes durable, but no others.
func (m *Memory) WriteThrough(p []byte, off int64) error {
	if _, err := m.WriteAt(p, off); err != nil || !m.cache {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.write(p, off, m.lower)
	return nil
}

// ZeroThrough makes a range read as zeros and makes that durable, but no other change.
func (m *Memory) ZeroThrough(off, n int64, punch bool) error {
	if err := m.Zero(off, n, punch); err != nil || !m.cache {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.zero(off, n, punch, func(i int64) *page { return m.base[i] }, m.lower, func(i int64) { delete(m.base, i) })
	return nil
}

// Flush makes everything durable.
func (m *Memory) Flush() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, p := range m.fresh {
		if p == nil {
			delete(m.base, i)
			continue
		}
		m.base[i] = p
	}
	clear(m.fresh)
	return nil
}

// Crash loses what was not flushed.
func (m *Memory) Crash() {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.fresh)
}

// Unflushed is how many bytes Crash would lose, in whole pages.
func (m *Memory) Unflushed() int64 {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return int64(len(m.fresh)) * pageSize
}

// Extents are the pages that were written.
func (m *Memory) Extents(off, n int64) (job.Extents, error) {
	if !m.inside(off, n) {
		return nil, unix.EINVAL
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	var out job.Extents
	each(off, n, func(i int64, from, to int) {
		if m.at(i) != nil {
			out = append(out, job.Extent{Offset: i*pageSize + int64(from), Length: int64(to - from)})
		}
	})
	return out.Merge(0), nil
}
