package nbd

import "time"

// Sizes, in bytes.
const (
	// measured with nbdkit: half of it costs servers half as much again, twice as much is slower
	defaultRequestSize = 1 << 20
	largestDisk        = 1 << 60 // VMware's end at 62 TiB; servers that claim more lie
	largestRequestSize = 16 << 20
	// for servers that are far, at first: they need fresh memory for all that is in flight, which costs them time
	deepRequestSize = 768 << 10
	// for those that keep up with that, or are very far; also the most that VDDK takes through a vCenter
	farRequestSize = 2 << 20
	smallChunks    = 128 << 10 // on average: little data in many places, see ADR 10
	nearBytes      = 3 << 20   // in flight to a source that answers at once, over all connections
	// likewise, where a file is the target: one chunk is read while another is being written
	fileBytes     = 4 << 20
	blockBytes    = 8 << 20  // likewise, where a block device is: a disk works on several writes at once
	memoryPerCopy = 24 << 20 // buffers of all threads of one copy together
	// of that, shared out among the threads that work near a fast source, as long as nothing is slow,
	memoryAtFirst    = 5 << 20
	blockMemory      = 8 << 20  // and where a block device is the target,
	blockMemoryMost  = 36 << 20 // with that in the end
	hugePage         = 2 << 20
	probeSize        = 64 << 10
	zeroUnit         = 4 << 10   // zeros are looked for in blocks of this size
	shortestZeroRun  = 64 << 10  // a shorter run of zeros is cheaper to write than to split off
	shortestHole     = 32 << 10  // a shorter one, as the source tells of it, is read with what is around it
	longestZero      = 128 << 20 // a zero request; a slow server must be able to answer one within the deadline
	statusWindow     = 128 << 20 // first question about block status; VDDK answers long ones very slowly
	statusWindowMost = 1 << 30
	statusWorthwhile = 16 << 20  // shorter ranges are simply read
	mediumPart       = 64 << 10  // a request that failed twice is cut into parts of this size,
	smallPart        = 4 << 10   // and those into parts of that size, to find what is really bad
	mostBadBytes     = 64 << 20  // more than that, and trying on makes no sense
	writebackMost    = 32 << 20  // written to a target file and still on its way from the page cache to the disk
	mostPlain        = 1 << 20   // of zeros written as data in one request
	checkpointBytes  = 64 << 20  // after which a copy with a checkpoint flushes: half of all kills cost less
	generationBytes  = 256 << 20 // after which one without flushes: only a target that was lost costs anything
	mostUnflushed    = 256 << 20 // data that was asked for and is not durable yet; of large disks a hundredth
	leastUnflushed   = 8 << 20   // after which is flushed where connections are lost again and again
	recheckBytes     = 4 << 20   // of what an earlier attempt has copied, read again before a copy goes on
	plannedAhead     = 64 << 20  // data known to lie ahead, below which the next window is asked for
	socketPathMost   = 107       // of a unix socket, by the kernel's sockaddr_un
	checkpointMost   = 64 << 20  // a larger file is not one of ours
)

// Counts.
const (
	defaultRequests = 64 // over all threads, and at least leastRequests on each; only far sources get that many
	leastRequests   = 32
	deepRequests    = 16 // on each connection to a server that is far: nbdkit works on so many at once
	// measured: 6 with 12 MiB each move 1 GiB from a server 50 ms away in 1.1 s, 4 with 16 MiB in 1.35 s, 8 with 12 MiB
	// in 1.3 s
	defaultConnections = 6
	leastConnections   = 2 // of each copy, however many there are
	// of all copies of one process that run together; measured: 8 near disks take .94 of the time with 2 each, not 6
	sharedConnections = 16
	// of them that work as long as the source is near and fast, one for each processor at most; measured: a third
	// brings nothing
	nearConnections   = 2
	probes            = 2  // small reads at the beginning, by which is seen how far the source is
	middleChunks      = 8  // after which servers that were not near for any of them are believed to be at some distance
	provingChunks     = 64 // after which that is believed on a busy machine, too
	queueDepthMean    = 16 // chunks over which their size is averaged
	queueDepthAnswers = 2  // times that the fastest chunk took, before a speed is believed
	deepAnswers       = 5  // likewise where much is in flight: it comes in waves
	widenTimes        = 20 // and so many times as long as that one took
	wholeTries        = 2  // of a request, before it is cut into parts
	smallTries        = 4  // of its smallest parts
	mostBadRanges     = 1000
	recheckCells      = 4
	bulkZeroHoles     = 16 // holes that are zeroed at once; for fewer the data need not wait
	mostBulkZeros     = 2  // such requests in flight: the target has data to write, too
	fileWorkers       = 4  // blocking reads and writes at once, for one thread on a local file
	// likewise, where writes go past the page cache; measured with a disk 5 ms away: 4 take a quarter longer
	directWorkers = 16
)

// Times.
const (
	defaultDeadline        = 60 * time.Second
	defaultCheckpointEvery = 2 * time.Second
	leastCheckpointEvery   = 100 * time.Millisecond // where connections are lost again and again
	// for a target that somebody else has: a process that ends needs a moment
	lockPatience = 250 * time.Millisecond
	lockPause    = 20 * time.Millisecond
	// a flush with its record takes at most one part of so many of the time, as long as little waits for it
	flushShare         = 8
	giveWay            = 5 * time.Millisecond   // after which a thread gives way, see ADR 16
	accountEvery       = time.Second            // a longer wait is accounted for in parts
	drainGrace         = 700 * time.Millisecond // after a cancel: for writes in flight
	flushGrace         = 700 * time.Millisecond // after a cancel: for the last flush
	closeGrace         = 400 * time.Millisecond // for the good-bye of one connection; all say it at once
	nearServer         = 2 * time.Millisecond   // servers that need more for a small chunk are not near
	farServer          = 10 * time.Millisecond
	veryFarServer      = 100 * time.Millisecond
	widenPatience      = 200 * time.Millisecond // for connections beyond the first,
	queueDepthWindow   = 40 * time.Millisecond  // over which speed is measured, at least
	queueDepthHold     = time.Second            // after more did not help for the first time; doubles
	queueDepthHoldMost = 30 * time.Second
	retryPause         = 20 * time.Millisecond // before a request that failed is tried again
	retryLastPause     = 500 * time.Millisecond
	reconnectPause     = 50 * time.Millisecond // before the first try to get a connection back; doubles
	reconnectPauseMost = 2 * time.Second
	throttlePatience   = time.Second // a limiter that asks for more is asked again, it may change meanwhile
	throttleRetry      = 100 * time.Millisecond
)

// waitsShare is how much of what a server's distance allows must come, for the distance to be the reason.
const waitsShare = 0.8

// queueDepthGain is how much faster it must become with the next step, for that to stay.
const queueDepthGain = 1.3

// deepGain is the same where the next step costs no connections and no processor, but only memory of a server.
const deepGain = 1.1
