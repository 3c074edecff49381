package nbd

import "time"

// Sizes, in bytes.
const (
	defaultRequestSize = 512 << 10 // measured: 256 KiB to 1 MiB are alike on dense data, more is slower
	largestRequestSize = 16 << 20
	memoryPerCopy      = 64 << 20  // buffers of all lanes of one copy together
	zeroUnit           = 4 << 10   // zeros are looked for in blocks of this size
	shortestZeroRun    = 64 << 10  // a shorter run of zeros is cheaper to write than to split off
	shortestHole       = 32 << 10  // a shorter one, as the source tells of it, is read with what is around it
	longestZero        = 128 << 20 // a zero request; a slow server must be able to answer one within the deadline
	statusWindow       = 128 << 20 // first question about block status; VDDK answers long ones very slowly
	statusWindowMost   = 1 << 30
	statusWorthwhile   = 16 << 20 // shorter ranges are simply read
	plannedAhead       = 64 << 20 // data known to lie ahead, below which the next window is asked for
	socketPathMost     = 107      // of a unix socket, by the kernel's sockaddr_un
	checkpointMost     = 64 << 20 // a larger file is not one of ours
)

// Counts.
const (
	defaultRequests    = 16
	mostRequests       = 256
	defaultConnections = 4
	mostConnections    = 16
	fileWorkers        = 4 // blocking reads and writes at once, for one lane on a local file
)

// Times.
const (
	defaultDeadline        = 60 * time.Second
	defaultCheckpointEvery = 2 * time.Second
	defaultCheckpointBytes = 256 << 20
	drainGrace             = 700 * time.Millisecond // after a cancel: for writes in flight
	flushGrace             = 700 * time.Millisecond // after a cancel: for the last flush
	closeGrace             = 400 * time.Millisecond // for the good-bye of one connection; all say it at once
	throttlePatience       = time.Second            // a limiter that asks for more is asked again, it may change meanwhile
	throttleRetry          = 100 * time.Millisecond
)
