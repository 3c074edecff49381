package sim

import "github.com/vmferry/vmferry/job"

// Backend is a disk. All methods must be safe for concurrent use. They are called only with ranges inside the disk.
// Every later call sees what a write or Zero changed, and the change is durable after the next Flush.
type Backend interface {
	Size() int64
	ReadAt(p []byte, off int64) (int, error)
	WriteAt(p []byte, off int64) (int, error)
	// Zero makes a range read as zeros. With punch it may become a hole. Without punch it must stay allocated.
	Zero(off, n int64, punch bool) error
	Flush() error
	// Extents are the parts of a range that may hold data, as a normal list. All other bytes are zeros.
	Extents(off, n int64) (job.Extents, error)
}

// through is a Backend that can make one change durable without the others.
type through interface {
	WriteThrough(p []byte, off int64) error
	ZeroThrough(off, n int64, punch bool) error
}

// volatile is a Backend that can lose what was not flushed.
type volatile interface {
	Crash()
	Unflushed() int64 // bytes, in whole pages
}
