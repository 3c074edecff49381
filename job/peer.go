package job

// Peer is another program or machine that a job needs, and that it waits for while it is unavailable. Journals and
// reports hold these words.
type Peer string

// The peers.
const (
	PeerVCenter Peer = "vcenter"
	PeerHost    Peer = "host"    // an ESXi host
	PeerSource  Peer = "source"  // the server that a disk is read from
	PeerTarget  Peer = "target"  // the server or file that a disk is written to
	PeerJournal Peer = "journal" // of vmferry itself
)

// Name is what a person calls it.
func (p Peer) Name() string {
	switch p {
	case PeerVCenter:
		return "the vCenter"
	case PeerHost:
		return "the ESXi host"
	case PeerSource:
		return "the source"
	case PeerTarget:
		return "the target"
	case PeerJournal:
		return "the journal"
	}
	return string(p)
}

// PeerOf is the peer at which an error arose: that of the outermost Error in err's tree that names one; "" if none
// does.
func PeerOf(err error) Peer {
	for err != nil {
		if e, ok := err.(*Error); ok && e.Peer != "" { //nolint:errorlint // the tree is walked here
			return e.Peer
		}
		switch u := err.(type) { //nolint:errorlint // likewise
		case interface{ Unwrap() []error }:
			for _, e := range u.Unwrap() {
				if p := PeerOf(e); p != "" {
					return p
				}
			}
			return ""
		case interface{ Unwrap() error }:
			err = u.Unwrap()
		default:
			return ""
		}
	}
	return ""
}

// At says at which peer an error arose, unless the error says that itself. Text, kind and next step stay. It is nil for
// nil.
func At(p Peer, err error) error {
	if err == nil || PeerOf(err) != "" {
		return err
	}
	return &Error{Kind: KindOf(err), Next: NextOf(err), Peer: p, Err: err}
}
