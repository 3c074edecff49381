package link

import (
	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/link/wire"
)

// Versions are the versions of frames that a build speaks, each at least 1. A build speaks the version before its own,
// so that nodes can be upgraded one after the other.
type Versions struct{ Oldest, Newest uint32 }

// ownVersions is what this build speaks. There is no version before the first.
func ownVersions() Versions { return Versions{1, 1} }

// agree is the newest version that both sides speak. Errors are of kind Unsupported.
func agree(ours Versions, theirs *wire.Hello) (uint32, error) {
	v := min(ours.Newest, theirs.Version)
	if v >= ours.Oldest && v >= theirs.OldestVersion {
		return v, nil
	}
	next := "Upgrade node " + theirs.Node + " first"
	if theirs.OldestVersion > ours.Newest {
		next = "Upgrade this node first: node " + theirs.Node + " is too new for it"
	}
	return 0, job.Errorf("link with "+theirs.Node, job.Unsupported, next,
		"node %s (vmferry %s) speaks versions %d to %d of the link, this node %d to %d", theirs.Node, theirs.Program,
		theirs.OldestVersion, theirs.Version, ours.Oldest, ours.Newest)
}
