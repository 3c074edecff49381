package volumes

import (
	"context"
	"crypto/rand"
	"log/slog"
	"sync"
	"time"

	"github.com/vmferry/vmferry/job"
)

// LeaseRows keeps leases, beside the rows of the ledger. Each method returns when its change is durable, may be called
// from many goroutines, and fails with a job.Error.
type LeaseRows interface {
	// Leases are all leases that were ever granted.
	Leases(ctx context.Context) ([]job.Lease, error)
	// Lease is that of a volume; one that was never granted is free.
	Lease(ctx context.Context, volume string) (job.Lease, error)
	// ChangeLease stores a lease if the stored one has the revision before; else it fails with Conflict. The same
	// change once more is no error.
	ChangeLease(ctx context.Context, next job.Lease) error
	// DropLeases removes those that are free.
	DropLeases(ctx context.Context, volumes []string) error
	// NextLeaseEpoch is greater than above, and than all that it has ever returned.
	NextLeaseEpoch(ctx context.Context, above int64, now time.Time) (int64, error)
}

// leases are the leases that this process has granted. Its methods may be called from many goroutines.
type leases struct {
	rows LeaseRows
	node string // the id of this node
	run  string // random, of this process
	now  func() time.Time
	log  *slog.Logger

	mu   sync.Mutex
	held map[string]*grant // those that are not free, by volume

	storing sync.RWMutex // held to read while a lease is stored
	stopped bool         // nothing is stored any more

	stopping chan struct{} // closed by stop
}

// grant is a lease from the moment at which it is asked for until it is free.
type grant struct {
	leases *leases
	volume string
	change sync.Mutex // held while an event is applied and stored
	lease  job.Lease  // guarded by leases.mu, changed with change held
	unread bool       // what is stored must be read again; guarded by change

	export *export     // of one that is served; nil before it stands; guarded by leases.mu
	expiry *time.Timer // likewise; it runs by the clock that never jumps
	ttl    time.Duration
	ending bool // endLeftover goes on; likewise

	free chan struct{} // closed when it is free
}

func newLeases(rows LeaseRows, log *slog.Logger) *leases {
	return &leases{
		rows: rows, run: rand.Text(), now: time.Now, log: log, held: map[string]*grant{},
		stopping: make(chan struct{}),
	}
}

// take grants the lease of a volume. It waits a moment for one that is just being given back. Errors are those of
// job.Lease.Apply, and of the store.
func (l *leases) take(ctx context.Context, volume string, ask job.LeaseAsked) (*grant, error) {
	g, err := l.reserve(ctx, volume, ask)
	if err != nil {
		return nil, err
	}
	if err = g.begin(ctx, ask); err != nil {
		l.dropEnded(g)
		return nil, err
	}
	return g, nil
}

// begin reads what is stored, ends what an earlier process has left, and stores the grant.
func (g *grant) begin(ctx context.Context, ask job.LeaseAsked) (err error) {
	g.unread = true // it was not read yet
	if err := g.read(ctx); err != nil {
		return err
	}
	if !g.now().Free() {
		if err := g.endLeftover(ctx); err != nil {
			return err
		}
	}
	l := g.leases
	ask.Granter = l.run
	if ask.Epoch, err = l.rows.NextLeaseEpoch(ctx, g.now().Epoch, l.now()); err != nil {
		return err
	}
	return g.apply(ctx, ask)
}

// reserve makes the entry of a volume, so that no other can take it meanwhile.
func (l *leases) reserve(ctx context.Context, volume string, ask job.LeaseAsked) (*grant, error) {
	patience := time.NewTimer(lockPatience)
	defer patience.Stop()
	for {
		l.mu.Lock()
		before := l.held[volume]
		if before == nil {
			g := &grant{leases: l, volume: volume, lease: job.Lease{Volume: volume}, free: make(chan struct{})}
			l.held[volume] = g
			l.mu.Unlock()
			return g, nil
		}
		_, _, err := before.lease.Apply(ask, l.now())
		l.mu.Unlock()
		select {
		case <-before.free:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-patience.C:
			if err == nil || job.KindOf(err) == job.Internal { // it is being taken just now
				err = job.Errorf("take lease", job.Conflict, "Try again", "another one is taking the volume")
			}
			return nil, err
		}
	}
}

// drop takes an entry out of the map, and lets those go on that wait for it.
func (l *leases) drop(g *grant) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.held[g.volume] == g {
		delete(l.held, g.volume)
		close(g.free)
	}
}

// dropEnded is drop, unless what an earlier process has left is still being ended: then it is dropped after that.
func (l *leases) dropEnded(g *grant) {
	l.mu.Lock()
	ending := g.ending
	l.mu.Unlock()
	if !ending {
		l.drop(g)
	}
}

// find is the grant of a volume; nil if its lease is free.
func (l *leases) find(volume string) *grant {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.held[volume]
}

// now is the lease as it is.
func (g *grant) now() job.Lease {
	g.leases.mu.Lock()
	defer g.leases.mu.Unlock()
	return g.lease
}

// isFree says whether the lease is over, and nothing of it writes any more.
func (g *grant) isFree() bool {
	select {
	case <-g.free:
		return true
	default:
		return false
	}
}

// apply folds events into the lease, and stores the result before it counts. If all of them change nothing, nothing is
// stored. Errors are those of job.Lease.Apply, and of the store: then what is stored is read again.
func (g *grant) apply(ctx context.Context, events ...job.LeaseEvent) error {
	g.change.Lock()
	defer g.change.Unlock()
	if err := g.fold(ctx, events...); err != nil {
		return err
	}
	if g.now().Free() {
		g.leases.drop(g)
	}
	return nil
}

// fold is apply with change held, and leaves a free lease in the map.
func (g *grant) fold(ctx context.Context, events ...job.LeaseEvent) error {
	if err := g.read(ctx); err != nil {
		return err
	}
	was := g.now()
	next := was
	for _, e := range events {
		var err error
		if next, _, err = next.Apply(e, g.leases.now()); err != nil { // the caller carries the actions out
			return err
		}
	}
	if next != was {
		next.Revision++
		if err := g.leases.store(ctx, next); err != nil {
			g.unread = true
			return err
		}
		g.leases.mu.Lock()
		g.lease = next
		g.leases.mu.Unlock()
	}
	return nil
}

// read reads what is stored, if that is not known. change is held, or the grant is not shared yet.
func (g *grant) read(ctx context.Context) error {
	if !g.unread {
		return nil
	}
	row, err := g.leases.rows.Lease(ctx, g.volume)
	if err != nil {
		return err
	}
	g.leases.mu.Lock()
	defer g.leases.mu.Unlock()
	g.lease, g.unread = row, false
	return nil
}

// store stores a lease, unless the node has ended: then the next start finds it as it is.
func (l *leases) store(ctx context.Context, next job.Lease) error {
	l.storing.RLock()
	defer l.storing.RUnlock()
	if l.stopped {
		return job.Errorf("change lease", job.Cancelled, "", "%w", job.ErrStopping)
	}
	return l.rows.ChangeLease(ctx, next)
}

// stop returns when nothing is stored any more. If all leases are free, nothing would be stored anyway.
func (l *leases) stop() {
	l.storing.Lock()
	defer l.storing.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.stopped && len(l.held) > 0 {
		l.stopped = true
		close(l.stopping)
	}
}

// over ends the lease of what was closed, or never opened: nothing of it writes any more. It runs also after ctx has
// ended. If it can't be stored, the next one who wants the lease does it: see endLeftover.
func (g *grant) over(ctx context.Context, why job.LeaseEnd) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTime)
	defer cancel()
	epoch := g.now().Epoch
	if err := g.apply(ctx, job.LeaseEnded{Epoch: epoch, Why: why}, job.LeaseFenced{Epoch: epoch}); err != nil {
		g.leases.log.Warn("the end of a lease could not be stored", "volume", g.volume, "epoch", epoch, "err", err)
		g.leases.drop(g)
	}
}

// heldUp notes why a lease does not end.
func (g *grant) heldUp(ctx context.Context, why job.LeaseEnd, note string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTime)
	defer cancel()
	epoch := g.now().Epoch
	err := g.apply(ctx, job.LeaseEnded{Epoch: epoch, Why: why}, job.LeaseHeldUp{Epoch: epoch, Note: note})
	g.leases.log.Warn("a lease does not end", "why", note, "volume", g.volume, "epoch", epoch, "err", err)
}

// silentStorage is what holds up the end of a lease if writes are with a storage that does not answer.
const silentStorage = "the storage does not answer"
