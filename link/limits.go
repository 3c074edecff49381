package link

import "time"

// The times of a link. A peer that is frozen or cut is down after at most silence and one watchEvery; a dial after that
// takes at most mostPause.
const (
	pingEvery  = 500 * time.Millisecond
	silence    = 2 * time.Second // without a frame: the peer is down
	watchEvery = 250 * time.Millisecond
	writeTime  = 2 * time.Second // of one frame
	dialTime   = 2 * time.Second
	helloTime  = 2 * time.Second // of the handshake of TLS, and then of the exchange of Hello
	firstPause = 200 * time.Millisecond
	mostPause  = time.Second
	fresh      = 1500 * time.Millisecond // a peer that was heard within it keeps its name against another process
	reloadTime = time.Second             // between looks at the files of certificates
)

// The sizes of a link. All memory that a peer can make this node use is bounded by them.
const (
	mostMessage    = 512 << 10 // bytes of one message; what is larger is sent in parts
	mostFrame      = mostMessage + 64<<10
	mostName       = 256 // bytes of the name of an actor, a type or a key
	mostText       = 1024
	mostPosts      = 1000 // messages that were not acknowledged
	mostPostBytes  = 16 << 20
	mostKeys       = 4096 // of messages of which the newest wins
	mostPeers      = 256
	mostHandshakes = 64 // connections that have not said Hello
	mostStreams    = 16 // of actors, of one peer
	mostEvents     = 20 // of one peer that are kept
	mostDepth      = 32 // of messages within messages
)
