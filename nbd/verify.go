package nbd

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"syscall"
	"time"

	"golang.org/x/time/rate"

	"github.com/vmferry/vmferry/job"
)

const (
	sampleSize      = 1 << 20 // bytes
	samplesLeast    = 64
	mostDifferences = 1000 // ranges; more would tell nothing new
	shownRanges     = 5    // in an error text
)

// VerifyTask is one comparison of two devices. Zero values mean: choose well.
type VerifyTask struct {
	Source   string      // as in Task
	Target   Opener      // as in Task, but not the one that keeps nothing
	Extents  job.Extents // the ranges that were copied; nil for the whole disk
	Mode     job.VerifyMode
	Seed     uint64 // of the choice of samples
	Capacity int64  // as in Task

	// Digests, if not nil, are those of the copy, of its Result or by RecordedDigests. Then the source is read only
	// where the target differs from them, and for samples. All of it is read if the copy went on from a checkpoint and
	// the source is an export without Identity.
	Digests *Digests

	Connections, Requests, RequestSize int             // as in Task
	Deadline, Reconnect                time.Duration   // as in Task
	Engine                             Engine          // as in Task
	Limiters                           []*rate.Limiter // as in Task
	Budget                             *Budget
	TLS                                TLS // as in Task
	Log                                *slog.Logger
}

// VerifyResult is the outcome of a verification.
type VerifyResult struct {
	job.Counters
	Differences job.Extents // about a thousand ranges at most: then the verification ends
	Duration    time.Duration
	Digest      string // of the source's bytes that were compared, if all were; independent of the order of reading
}

// Verify reads both devices over new connections and compares them. A full verification with Digests reads only the
// target. Bytes that differ are an error of kind Corrupt that names their ranges. The target must not be written to
// meanwhile. Other errors are as those of Copy.
func Verify(ctx context.Context, t VerifyTask, m *Meter) (VerifyResult, error) {
	defer everyCopy.join()()
	began := time.Now()
	defer m.start()()
	v := &verifier{task: t, meter: m}
	err := v.verify(ctx)
	r := VerifyResult{Counters: m.Counters(), Differences: v.differences.Merge(0), Duration: time.Since(began)}
	if err == nil && t.Mode == job.VerifyFull {
		r.Digest = v.digests.String()
	}
	return r, ended(ctx, "verify "+v.engineTask().targetName()+" against "+Redact(t.Source), err)
}

// verifier is one call of Verify. As a step it reads from both sides and compares.
type verifier struct {
	task  VerifyTask
	meter *Meter

	mu          sync.Mutex  // of the fields below
	done        job.Extents // normal
	differences job.Extents
	digests     *Digests // of the source's bytes that were compared
}

func (v *verifier) verify(ctx context.Context) (err error) {
	switch t := v.task; {
	case t.Mode == job.VerifyNone || t.Mode == "":
		return nil
	case t.Mode != job.VerifySample && t.Mode != job.VerifyFull:
		return job.Errorf("check verification", job.Invalid, "Use none, sample or full", "%q is not a way to verify",
			t.Mode)
	case t.Target != nil && t.Target.Name() == NullName:
		return job.Errorf("check verification", job.Invalid, "", "nothing can be read back from %s", NullName)
	}
	t := v.engineTask()
	if err := t.Check(); err != nil {
		return err
	}
	what := v.task.Extents
	switch d := v.task.Digests; {
	case v.task.Mode != job.VerifyFull || d == nil:
	case d.sourceUnverified:
		t.Log.Info("the source is read again too: nothing tells whether its export was the same disk " +
			"before the copy went on")
	default: // the digests also know which ranges were copied
		if what, err = v.differing(ctx, t); err != nil {
			return err
		}
		if len(what) == 0 {
			v.digests = v.task.Digests
			return nil
		}
		t.Log.Warn("the target is not what was read from the source; what differs is compared byte by byte",
			"ranges", len(what), "bytes", what.Sum())
		if err := v.both(ctx, t, what); err != nil {
			return err
		}
		return job.Errorf("compare", job.Corrupt,
			"Run a full round again. If this comes again, the source changes meanwhile: read it from a snapshot",
			"the copy has read other bytes from the source than it has now, at %s; now both sides are equal there",
			listed(what))
	}
	return v.both(ctx, t, what)
}

// openBack opens a target for reading back what was written.
func openBack(ctx context.Context, o Opener, size int64, how dialing) (*device, error) {
	target, err := o.Open(ctx, size)
	if err != nil {
		return nil, err
	}
	return target.device(ctx, how, false)
}

// engineTask is how the engine would have to be told.
func (v *verifier) engineTask() Task {
	t := v.task
	return Task{
		Source: t.Source, Target: t.Target, Connections: t.Connections, Requests: t.Requests,
		RequestSize: t.RequestSize, Deadline: t.Deadline, Reconnect: t.Reconnect, Engine: t.Engine, Log: t.Log,
		Limiters: t.Limiters, Budget: t.Budget,
	}.withDefaults()
}

func (v *verifier) dialing(t Task) dialing {
	return dialing{tls: v.task.TLS, deadline: t.Deadline, engine: t.Engine}
}

// both reads both sides and compares them.
func (v *verifier) both(ctx context.Context, t Task, what job.Extents) error {
	how := v.dialing(t)
	w := &readBack{verifier: v, task: t, step: v, buffers: 2}
	w.dial = func() (*engine, error) {
		opened := v.meter.sourceQuiet.asked()
		defer func() { opened() }()
		return open(ctx, t.Source, how, func(src *device) (*device, error) {
			opened()
			opened = v.meter.targetQuiet.asked()
			return openBack(ctx, t.Target, src.size, how)
		})
	}
	w.choose = func(e *engine) (job.Extents, error) { return v.choose(e, what) }
	v.done = nil
	if err := w.run(ctx); err != nil {
		return err
	}
	return v.verdict()
}

// differing reads the target alone, and names the ranges whose digests are not those that the copy made.
func (v *verifier) differing(ctx context.Context, t Task) (job.Extents, error) {
	how := v.dialing(t)
	ours := v.task.Digests
	r := &rereader{verifier: v, found: newDigests(ours.capacity)}
	w := &readBack{verifier: v, task: t, step: r, buffers: 1, readsTarget: true}
	w.dial = func() (*engine, error) {
		defer v.meter.targetQuiet.asked()()
		dst, err := openBack(ctx, t.Target, ours.capacity, how)
		if err != nil {
			return nil, fail("open target", of(target, time.Time{}, err))
		}
		return &engine{src: dst, dst: openNull(), reads: target, block: dst.minBlock}, nil
	}
	w.choose = func(e *engine) (job.Extents, error) {
		v.meter.toVerify.Store(ours.scope.Sum())
		return ours.scope, ours.scope.Check(e.src.size)
	}
	if err := w.run(ctx); err != nil {
		return nil, of(target, time.Time{}, err)
	}
	return ours.differing(r.found).Within(ours.scope), nil
}

// readBack reads ranges with a step, and reconnects when connections are lost.
type readBack struct {
	*verifier
	task    Task
	step    step
	buffers int
	// dial opens what is read as the source of an engine; with readsTarget that is the target of the copy.
	readsTarget bool
	dial        func() (*engine, error)
	choose      func(e *engine) (job.Extents, error) // the ranges to read; called for each pass
}

func (w *readBack) run(ctx context.Context) error {
	patience := newPatience(w.task.Reconnect)
	bad := &faults{}
	for first := true; ; first = false {
		before := w.bytesDone()
		err := w.pass(ctx, bad)
		if err == nil || ctx.Err() != nil || w.task.Reconnect < 0 || errors.Is(err, syscall.EPROTO) ||
			!isCurable(err) && (first || !isUnreachable(err)) {
			return err
		}
		patience.lost(w.bytesDone() > before, time.Now())
		patience.last = err
		w.task.Log.Warn("a connection was lost, the verification reconnects", "err", err,
			"verified_bytes", w.meter.verified.Load())
		if werr := patience.wait(ctx); werr != nil {
			return werr
		}
	}
}

// pass reads what is left over one set of connections.
func (w *readBack) pass(ctx context.Context, bad *faults) (err error) {
	e, err := w.dial()
	if err != nil {
		return err
	}
	defer func() { err = firstOf(err, e.close()) }()
	what, err := w.choose(e)
	if err != nil {
		return err
	}
	w.mu.Lock()
	what = what.Cut(w.done).Cut(bad.ranges())
	w.mu.Unlock()
	t := w.task
	if err := e.widen(ctx, settings{t.Connections, t.Requests, t.RequestSize, w.buffers}, t.Log); err != nil {
		return err
	}
	common := shared{
		plan: newPlanner(what, nil, e.near.size, max(e.block, zeroUnit), false), meter: w.meter, faults: bad,
		limiters: t.Limiters, budget: t.Budget, deadline: t.Deadline, readsTarget: w.readsTarget,
	}
	if err := e.ready(w.step, common, nil, w.buffers); err != nil {
		return err
	}
	if err := e.run(ctx); err != nil {
		return err
	}
	return bad.err()
}

func (v *verifier) bytesDone() int64 {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.done.Sum()
}

// rereader is the step that makes digests of a target.
type rereader struct {
	*verifier
	found *Digests
}

func (r *rereader) begin(t *thread, chunk *chunk) {
	t.toSource(t.request(opRead, chunk.off, chunk.n, chunk.buf, chunk), time.Now())
}

func (r *rereader) read(t *thread, chunk *chunk) error {
	sums := r.found.sums(chunk.off, chunk.buf)
	r.mu.Lock()
	r.found.add(sums)
	r.done = insert(r.done, job.Extent{Offset: chunk.off, Length: chunk.n})
	r.mu.Unlock()
	r.meter.verified.Add(chunk.n)
	t.finish(chunk)
	return nil
}

func (r *rereader) answered(*thread, *chunk) error { return nil }

// choose returns the ranges to read of the given ones.
func (v *verifier) choose(e *engine, given job.Extents) (job.Extents, error) {
	size, err := e.fit(v.task.Capacity)
	if err != nil {
		return nil, err
	}
	what := given.Merge(0)
	if given == nil {
		what = job.Whole(size)
	}
	if err := what.Check(size); err != nil {
		return nil, err
	}
	if v.digests == nil {
		v.digests = newDigests(size)
	}
	if had := v.digests.capacity; had != size {
		return nil, job.Errorf("compare sizes", job.Conflict,
			"Find out why: this is not the disk that was read before",
			"source %s had %d bytes and now has %d", e.src.name, had, size)
	}
	if v.task.Mode == job.VerifySample {
		what = sample(what, v.task.Seed)
	}
	what = what.Align(e.block, min(e.src.size, e.dst.size))
	v.meter.toVerify.Store(what.Sum())
	return what, nil
}

// sample chooses parts of x: the first and the last of it, and others by chance.
func sample(x job.Extents, seed uint64) job.Extents {
	total := x.Sum()
	if total <= (samplesLeast+2)*sampleSize {
		return x
	}
	random := rand.New(rand.NewPCG(seed, uint64(total))) //nolint:gosec // the places are no secret
	places := []int64{0, total - sampleSize}
	for range samplesLeast {
		places = append(places, random.Int64N(total-sampleSize))
	}
	var chosen job.Extents
	for _, at := range places {
		chosen = append(chosen, part(x, at, sampleSize)...)
	}
	return chosen.Merge(0)
}

// part returns n bytes of x, from the byte with index at in x on.
func part(x job.Extents, at, n int64) job.Extents {
	var out job.Extents
	for _, e := range x {
		if n <= 0 {
			break
		}
		if at >= e.Length {
			at -= e.Length
			continue
		}
		take := min(n, e.Length-at)
		out = append(out, job.Extent{Offset: e.Offset + at, Length: take})
		at, n = 0, n-take
	}
	return out
}

func (v *verifier) begin(t *thread, chunk *chunk) {
	t.toSource(t.request(opRead, chunk.off, chunk.n, chunk.buf, chunk), time.Now())
}

func (v *verifier) read(t *thread, chunk *chunk) error {
	t.toTarget(t.request(opRead, chunk.off, chunk.n, chunk.other, chunk), time.Now())
	return nil
}

func (v *verifier) answered(t *thread, chunk *chunk) error {
	ours, theirs := chunk.buf, chunk.other
	equal := bytes.Equal(ours, theirs)
	sums := v.digests.sums(chunk.off, ours)
	v.mu.Lock()
	defer v.mu.Unlock()
	v.digests.add(sums)
	v.done = insert(v.done, job.Extent{Offset: chunk.off, Length: chunk.n})
	if !equal {
		v.differences = append(v.differences, differences(ours, theirs, chunk.off)...).Merge(0)
	}
	v.meter.verified.Add(chunk.n)
	t.finish(chunk)
	if len(v.differences) > mostDifferences {
		return v.verdict()
	}
	return nil
}

// differences returns the blocks in which two buffers differ.
func differences(a, b []byte, off int64) job.Extents {
	var x job.Extents
	for at := 0; at < len(a); at += zeroUnit {
		end := min(at+zeroUnit, len(a))
		if !bytes.Equal(a[at:end], b[at:end]) {
			x = append(x, job.Extent{Offset: off + int64(at), Length: int64(end - at)})
		}
	}
	return x
}

// verdict is the error that names the differences; nil if there are none.
func (v *verifier) verdict() error {
	if len(v.differences) == 0 {
		return nil
	}
	return job.Errorf("compare", job.Corrupt,
		"Run a full round again. If it differs again, the target or the way to it is at fault",
		"source and target differ at %s", listed(v.differences))
}
