package nbd

import "time"

// Sizes, in bytes.
const (
	// Measured with nbdkit: half of this costs servers half as much again, twice as much is slower.
	defaultRequestSize = 1 << 20
	largestDisk        = 1 << 60 // VMware's largest disk has 62 TiB; a server that claims more than this is wrong
	largestRequestSize = 16 << 20
	// For far servers at first: they need fresh memory for all that is in flight, which costs them time.
	deepRequestSize = 768 << 10
	// For far servers that keep up with that, and for very far ones; also the most that VDDK takes through a vCenter.
	farRequestSize   = 2 << 20
	smallChunks      = 128 << 10 // chunks of this size on average mean little data in many places (ADR 10)
	nearBytes        = 3 << 20   // in flight from a source that answers at once, over all connections
	fileBytes        = 4 << 20   // the same with a file as target: one chunk is read while another is written
	blockBytes       = 8 << 20   // the same with a block device as target: a disk works on several writes at once
	memoryPerCopy    = 24 << 20  // buffers of all threads of a copy
	memoryAtFirst    = 5 << 20   // of memoryPerCopy: lent at first, shared by the threads that work near a fast source
	blockMemory      = 8 << 20   // the same as memoryAtFirst with a block device as target
	blockMemoryMost  = 36 << 20  // the same as memoryPerCopy with a block device as target
	hugePage         = 2 << 20
	probeSize        = 64 << 10
	zeroUnit         = 4 << 10   // the copy looks for zeros in blocks of this size
	shortestZeroRun  = 64 << 10  // a shorter run of zeros is cheaper to write than to split off
	shortestHole     = 32 << 10  // a shorter hole that the source reports is read with the data around it
	longestZero      = 128 << 20 // of one request to zero; a slow server must answer it within the deadline
	statusWindow     = 128 << 20 // of the first request for block status; VDDK answers long ones very slowly
	statusWindowMost = 1 << 30   // of a later request for block status
	statusWorthwhile = 16 << 20  // a shorter range is read without asking for its block status
	mediumPart       = 64 << 10  // a request that failed twice is cut into parts of this size
	smallPart        = 4 << 10   // a medium part that fails is cut into parts of this size, to find the bad bytes
	mostBadBytes     = 64 << 20  // after more bad bytes the copy gives up
	writebackMost    = 32 << 20  // written to a target file and still on the way from the page cache to the disk
	mostPlain        = 1 << 20   // zeros written as data in one request
	checkpointBytes  = 64 << 20  // after which a copy with a checkpoint flushes: half of all kills cost less
	generationBytes  = 256 << 20 // after which a copy without one flushes: a kill costs all, a lost target this much
	mostUnflushed    = 256 << 20 // data requested and not durable yet; of large disks a hundredth
	leastUnflushed   = 8 << 20   // after which a copy flushes whose connections are lost again and again
	recheckZeroBytes = 64 << 10
	recheckBytes     = 4 << 20  // copied by an earlier attempt and read again before a copy goes on
	plannedAhead     = 64 << 20 // with less known data ahead, the planner asks for the next block status
	checkpointMost   = 64 << 20 // a larger file is not a checkpoint
)

// Counts.
const (
	defaultRequests = 64 // over all threads, and at least leastRequests on each; only far sources get that many
	leastRequests   = 32
	deepRequests    = 16 // on each connection to a far server: nbdkit works on so many at once
	// Measured: 6 with 12 MiB each move 1 GiB from a server 50 ms away in 1.1 s, 4 with 16 MiB in 1.35 s, 8 with 12 MiB
	// in 1.3 s.
	defaultConnections = 6
	leastConnections   = 2 // of each copy, however many copies run
	// Of all copies of one process together. Measured: 8 near disks take 0.94 of the time with 2 each instead of 6.
	sharedConnections = 16
	// Of the connections, so many work while the source is near and fast, at most one for each processor. Measured: a
	// third brings nothing.
	nearConnections   = 2
	probes            = 2  // small reads at the beginning that show how far the source is
	middleChunks      = 8  // if none of so many chunks took less than nearServer, the servers are at some distance
	provingChunks     = 64 // the same with farServer, on a busy machine
	queueDepthMean    = 16 // chunks in the moving mean of their size
	queueDepthAnswers = 2  // a window lasts at least so many times as long as its fastest chunk
	deepAnswers       = 5  // the same in a deep step, where chunks come in waves
	widenTimes        = 20 // times the first connection's dial time, added to widenPatience
	wholeTries        = 2  // of a request before it is cut into parts
	smallTries        = 4  // of its smallest parts
	mostBadRanges     = 1000
	recheckCells      = 4  // with data
	recheckZeros      = 4  // cells of zeros, of each of which recheckZeroBytes are read
	bulkZeroHoles     = 16 // fewest holes of a bulk zero; with fewer, the data need not wait for it
	mostBulkZeros     = 2  // in flight: the target has data to write, too
	fileWorkers       = 4  // blocking reads and writes at once, for one thread on a local file
	// The same with writes past the page cache. Measured with a disk 5 ms away: 4 take a quarter longer.
	directWorkers = 16
)

// Times.
const (
	defaultDeadline        = 60 * time.Second
	defaultCheckpointEvery = 2 * time.Second
	leastCheckpointEvery   = 100 * time.Millisecond // where connections are lost again and again
	flushShare             = 8                      // early flushes take one part in so many of the time, at most
	giveWay                = 5 * time.Millisecond   // a thread calls Gosched so often (ADR 16)
	accountEvery           = time.Second            // a longer wait is accounted for in parts
	drainGrace             = 700 * time.Millisecond // for writes in flight when a thread stops early
	flushGrace             = 700 * time.Millisecond // for the last flush after a cancel
	closeGrace             = 400 * time.Millisecond // for each connection to disconnect; all do so at the same time
	nearServer             = 2 * time.Millisecond   // a server that needs more for each small chunk is not near
	farServer              = 10 * time.Millisecond
	veryFarServer          = 100 * time.Millisecond
	widenPatience          = 200 * time.Millisecond // for opening the connections beyond the first; see widenTimes
	queueDepthWindow       = 40 * time.Millisecond  // over which speed is measured, at least
	queueDepthHold         = time.Second            // without a trial after a trial failed; doubles with each failure
	queueDepthHoldMost     = 30 * time.Second
	retryPause             = 20 * time.Millisecond // before a failed request is tried again
	retryLastPause         = 500 * time.Millisecond
	reconnectPause         = 50 * time.Millisecond // before the first try to reconnect; doubles
	reconnectPauseMost     = 2 * time.Second
	throttlePatience       = time.Second // a limiter that wants a longer wait is asked again: its limit may change
	throttleRetry          = 100 * time.Millisecond
)

// waitsShare is the share of the speed that the distance allows; above it, the distance limits the speed.
const waitsShare = 0.8

// queueDepthGain is how many times as fast the next step must be to stay.
const queueDepthGain = 1.3

// deepGain is the same between deep steps, which cost no connections and no processor, only memory of a server.
const deepGain = 1.1
