package messages

// To a Disk actor.
type (
	// Stop asks it to flush, record what is durable, and end. Answered by DiskEnded to its parent.
	Stop struct{}
	// Panic rehearses a fault of ours.
	Panic struct{}
)
