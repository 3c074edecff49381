package messages

// To a Disk actor.
type (
	// Halt asks it to flush, record what is durable, and end. Answered by DiskEnded to its parent.
	Halt struct{}
	// Panic rehearses a fault of ours.
	Panic struct{}
)
