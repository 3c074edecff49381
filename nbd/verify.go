package nbd

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/zeebo/xxh3"
	"golang.org/x/time/rate"

	"github.com/vmferry/vmferry/job"
)

const (
	sampleSize      = 1 << 20
	samplesLeast    = 64
	mostDifferences = 1000 // ranges; more would only say the same
	shownRanges     = 5    // in an error text
)

// VerifyTask is one comparison of two devices. Zero values mean: choose well.
type VerifyTask struct {
	Source, Target string      // as in Task, without null:
	Extents        job.Extents // what was copied; nil for the whole disk
	Mode           job.VerifyMode
	Seed           uint64 // of the choice of samples
	Capacity       int64  // as in Task

	Connections, Requests, RequestSize int           // as in Task
	Deadline                           time.Duration // as in Task
	Limiter                            *rate.Limiter
	TLSFiles                           bool
	Log                                *slog.Logger
}

// VerifyResult is what came out.
type VerifyResult struct {
	job.Counters
	Differences job.Extents // not more than a thousand
	Duration    time.Duration
	Digest      string // of the source's bytes that were compared, if all were; independent of the order of reading
}

// Verify reads both ends back over new connections and compares. Bytes that differ are an error of kind Corrupt, and are
// named as ranges. The target must not be written to meanwhile. Other errors are as those of Copy.
func Verify(ctx context.Context, t VerifyTask, m *Meter) (VerifyResult, error) {
	began := time.Now()
	v := &verifier{task: t, meter: m}
	err := v.verify(ctx)
	r := VerifyResult{Counters: m.Counters(), Differences: v.differences.Merge(0), Duration: time.Since(began)}
	if err == nil && t.Mode == job.VerifyFull {
		r.Digest = v.digest.String()
	}
	return r, ended(ctx, "verify "+Redact(t.Target)+" against "+Redact(t.Source), err)
}

// verifier is one call of Verify. As a step it reads from both sides and compares.
type verifier struct {
	task  VerifyTask
	meter *Meter

	mu          sync.Mutex // of what the lanes find
	differences job.Extents
	digest      digest
}

func (v *verifier) verify(ctx context.Context) (err error) {
	switch t := v.task; {
	case t.Mode == job.VerifyNone || t.Mode == "":
		return nil
	case t.Mode != job.VerifySample && t.Mode != job.VerifyFull:
		return job.Errorf("check verification", job.Invalid, "Use none, sample or full.", "%q is not a way to verify", t.Mode)
	case t.Target == nullName:
		return job.Errorf("check verification", job.Invalid, "", "nothing can be read back from %s", nullName)
	}
	t := Task{
		Source: v.task.Source, Target: v.task.Target, Connections: v.task.Connections, Requests: v.task.Requests,
		RequestSize: v.task.RequestSize, Deadline: v.task.Deadline, Log: v.task.Log,
	}.withDefaults()
	if err := t.check(); err != nil {
		return err
	}
	how := dialing{v.task.TLSFiles, t.Deadline}
	e, err := open(ctx, t.Source, how, func(*device) (*device, error) { return openSource(ctx, t.Target, how) })
	if err != nil {
		return err
	}
	defer func() { err = firstOf(err, e.close()) }()
	what, err := v.choose(e)
	if err != nil {
		return err
	}
	if err := e.widen(ctx, effort{t.Connections, t.Requests, t.RequestSize, 2}, t.Log); err != nil {
		return err
	}
	if err := e.ready(v, newPlanner(what, nil, e.request, e.block, false), v.meter, v.task.Limiter, t.Deadline, nil, 2); err != nil {
		return err
	}
	if err := e.run(ctx); err != nil {
		return err
	}
	return v.verdict()
}

// choose says what is read.
func (v *verifier) choose(e *engine) (job.Extents, error) {
	size, err := e.fit(v.task.Capacity)
	if err != nil {
		return nil, err
	}
	if err := v.task.Extents.Check(size); err != nil {
		return nil, err
	}
	what := v.task.Extents.Merge(0)
	if v.task.Extents == nil {
		what = job.Whole(size)
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
	random := rand.New(rand.NewPCG(seed, uint64(total))) //nolint:gosec // nobody gains from knowing the places
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

// part returns n bytes of x, counted from the at-th byte that is in x.
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

func (v *verifier) begin(l *lane, p *piece) {
	l.toSource(&request{op: opRead, off: p.off, n: p.n, buf: p.buf[:p.n], piece: p}, time.Now())
}

func (v *verifier) read(l *lane, p *piece) error {
	l.toTarget(&request{op: opRead, off: p.off, n: p.n, buf: p.other[:p.n], piece: p}, time.Now())
	return nil
}

func (v *verifier) answered(l *lane, p *piece, _ *request) error {
	ours, theirs := p.buf[:p.n], p.other[:p.n]
	equal := bytes.Equal(ours, theirs)
	v.mu.Lock()
	defer v.mu.Unlock()
	v.digest.add(p.off, ours)
	if !equal {
		v.differences = append(v.differences, differences(ours, theirs, p.off)...).Merge(0)
	}
	v.meter.verified.Add(p.n)
	l.release(p)
	if len(v.differences) > mostDifferences {
		return v.verdict()
	}
	return nil
}

// differences names the blocks in which two buffers differ.
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

func (v *verifier) verdict() error {
	if len(v.differences) == 0 {
		return nil
	}
	var some []string
	for _, e := range v.differences[:min(shownRanges, len(v.differences))] {
		some = append(some, e.String())
	}
	if more := len(v.differences) - len(some); more > 0 {
		some = append(some, fmt.Sprintf("and %d more ranges", more))
	}
	return job.Errorf("compare", job.Corrupt, "Run a full round again; if it differs again, the target or the way to it is at fault.",
		"source and target differ at %s", strings.Join(some, ", "))
}

// digest is the sum of the hashes of all blocks, each with its place: it does not depend on their order. Blocks are what
// is left of a request at multiples of zeroUnit, so it does not depend on the size of requests either.
type digest struct{ high, low uint64 }

func (d *digest) add(off int64, b []byte) {
	var place [8]byte
	for len(b) > 0 {
		n := min(len(b), zeroUnit-int(off%zeroUnit))
		binary.BigEndian.PutUint64(place[:], uint64(off))
		h := xxh3.Hash128Seed(b[:n], xxh3.Hash(place[:]))
		d.high, d.low = d.high+h.Hi, d.low+h.Lo
		b, off = b[n:], off+int64(n)
	}
}

func (d *digest) String() string { return fmt.Sprintf("xxh3-sum:%016x%016x", d.high, d.low) }
