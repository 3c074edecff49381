package crash_test

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/vmferry/vmferry/job"
)

// Bounds of the bytes that are copied again after a kill.
const (
	mostRecopied  = 256 * mib // after any kill, or a hundredth of the disk if that is more
	usualRecopied = 64 * mib  // after half of all kills
	// read again of an export when a copy resumes, to check that it is the same disk: cells of data, and parts of zeros
	rechecked = 4*mib + 4*64*kib
)

// moment is when a copy is killed. come waits for that moment, or for the end of the copy.
type moment struct {
	name string
	come func(a *attempt)
}

// earlyMoments are moments after which much is left to copy.
func earlyMoments() []moment {
	return []moment{
		{"start or handshake", func(a *attempt) {
			a.child.after(time.Duration(a.random.Int64N(int64(50 * time.Millisecond))))
		}},
		{"checkpoint begun", func(a *attempt) { a.until(func() bool { return a.folder.look().made > 0 }) }},
		{"middle", func(a *attempt) {
			n := a.random.Int64N(max(1, a.data.Cut(a.seen).Sum()))
			a.until(func() bool { return a.from.look().reads >= n })
		}},
		{"flush", func(a *attempt) {
			if a.to == nil { // flushes of a file cannot be seen, but a checkpoint follows each
				a.until(func() bool { return a.folder.look().made > 0 })
				return
			}
			before := a.to.look().flushes
			a.until(func() bool { return a.to.look().flushes > before })
		}},
		{"first bytes", func(a *attempt) { a.until(func() bool { return a.from.look().reads > 0 }) }},
		{"checkpoint done", func(a *attempt) { a.until(func() bool { return a.folder.look().moved > 0 }) }},
	}
}

// lateMoments are moments at the end of a copy.
func lateMoments() []moment {
	return []moment{
		{"last bytes", func(a *attempt) {
			a.until(func() bool { return a.data.Cut(a.seen).Cut(a.from.look().read).Sum() == 0 })
			a.child.after(time.Duration(a.random.Int64N(int64(100 * time.Millisecond))))
		}},
		{"checkpoint removed", func(a *attempt) { a.until(func() bool { return a.folder.look().removed > 0 }) }},
	}
}

// attempt is one run of a copy, as a moment sees it.
type attempt struct {
	tb     testing.TB
	random *rand.Rand
	child  *child
	from   *tail       // the source's log
	to     *tail       // the target's; nil if it is a file
	folder *folder     // holds the checkpoint
	data   job.Extents // of the source
	seen   job.Extents // the parts of data that earlier attempts read
}

// until waits until so is true or the copy ends. It checks every millisecond.
func (a *attempt) until(so func() bool) {
	a.tb.Helper()
	await(a.tb, "the moment to kill has come", func() bool { return a.child.over() || so() })
}

// totals sums up many rounds.
type totals struct {
	mu        sync.Mutex
	kills     int
	differing int64
	recopied  []int64 // bytes, for each kill
}

func (t *totals) add(recopied []int64, differing int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.kills += len(recopied)
	t.recopied = append(t.recopied, recopied...)
	t.differing += differing
}

// figures are the median and the maximum of the bytes that were copied again after a kill.
func (t *totals) figures() (median, most int64) {
	if len(t.recopied) == 0 {
		return 0, 0
	}
	slices.Sort(t.recopied)
	return t.recopied[len(t.recopied)/2], t.recopied[len(t.recopied)-1]
}

func TestACopyThatIsKilledAtAnyMomentGoesOnAndEndsEqual(t *testing.T) {
	need(t, "nbdkit")
	rounds, kills, seed := number(t, "ROUNDS", 6), number(t, "KILLS", 3), number(t, "SEED", time.Now().UnixNano()%1e6)
	size := number(t, "DISK_MIB", 320) * mib
	say("crash: seed=%d", seed)
	disk := image(t, filepath.Join(t.TempDir(), "disk"), size, seed)
	data := allocated(t, disk)
	var all totals
	t.Run("rounds", func(t *testing.T) {
		for i := range rounds {
			t.Run(fmt.Sprint(i), func(t *testing.T) {
				t.Parallel()
				r := round{
					number: i, kills: int(kills), disk: disk, size: size, data: data,
					random: rand.New(rand.NewPCG(uint64(seed), uint64(i))),
				}
				all.add(r.run(t))
			})
		}
	})
	median, most := all.figures()
	say("crash: rounds=%d kills=%d differing_bytes=%d recopied_median=%d recopied_max=%d", rounds, all.kills,
		all.differing, median, most)
	if all.differing > 0 {
		t.Errorf("%d bytes differ", all.differing)
	}
	if bound := max(mostRecopied, size/100); most > bound {
		t.Errorf("after a kill %d bytes were copied again, %d are allowed", most, bound)
	}
	if median >= usualRecopied {
		t.Errorf("after half of all kills %d bytes or more were copied again, less than %d are wanted", median,
			usualRecopied)
	}
}

// round is one copy that is killed several times.
type round struct {
	number int64
	kills  int
	disk   string
	size   int64
	data   job.Extents
	random *rand.Rand
}

// run returns how many bytes were copied again after each kill, and how many are wrong in the end.
func (r round) run(t *testing.T) (recopied []int64, wrong int64) {
	t.Helper()
	from := r.source(t)
	file := garbageTarget(t, r.size)
	a := &attempt{tb: t, random: r.random, data: r.data}
	target := file
	if r.number%2 == 0 {
		to := nbdkit(t, "file", file)
		target, a.to = to.uri, to.tail()
	}
	a.folder = watch(t, t.TempDir())
	checkpoint := filepath.Join(a.folder.path, "checkpoint")
	plan := r.plan()
	for done := false; !done; from.again() {
		a.from, a.folder.seen = from.tail(), folderEvents{}
		a.child = start(t, from.uri, target, "--checkpoint", checkpoint)
		name := "none"
		if len(plan) > 0 {
			name = plan[0].name
			plan[0].come(a)
			plan = plan[1:]
			a.child.kill()
		}
		o := a.child.wait()
		again := a.from.look().read.Within(a.seen).Sum()
		if len(recopied) > 0 {
			recopied[len(recopied)-1] = again
		}
		t.Logf("read %d MiB, %d MiB of it again; killed: %s, exit %d, after %v", a.from.reads/mib, again/mib, name,
			o.code, o.took.Round(time.Millisecond))
		a.seen = append(a.seen, a.from.read...).Merge(0)
		switch {
		case o.code > 0:
			t.Fatalf("exit %d: %s", o.code, o.err)
		case o.code == 0:
			done = true
		default:
			recopied = append(recopied, 0)
			// When the checkpoint is removed all bytes are on the target, whether the copy reported it or not.
			done = a.folder.look().removed > 0
			if o.said && !done {
				t.Errorf("completion was reported, and there still is a checkpoint: %s", o.err)
			}
		}
	}
	if names := leftovers(t, a.folder.path); len(names) > 0 {
		t.Errorf("files were left beside the checkpoint: %v", names)
	}
	return recopied, differing(t, file, r.disk)
}

// source serves the disk so that reading it takes some seconds: long enough for a checkpoint or two. In every third
// round a disk of 1 GiB or more is served at full speed.
func (r round) source(t *testing.T) *server {
	t.Helper()
	if r.number%3 == 2 && r.size >= 1<<30 {
		return nbdkit(t, "-r", "file", r.disk)
	}
	bits := 8 * r.data.Sum() / (3 + r.number%3) // a second
	return nbdkit(t, "-r", "--filter=rate", "file", r.disk, fmt.Sprint("rate=", bits), "burstiness=0.1")
}

// plan chooses moments so that a few rounds use all of them.
func (r round) plan() []moment {
	early, late := earlyMoments(), lateMoments()
	var out []moment
	for i := range r.kills - 1 {
		out = append(out, early[(int(r.number)*(r.kills-1)+i)%len(early)])
	}
	r.random.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	return append(out, late[r.random.IntN(len(late))])
}

// Bytes that are flushed stay on the target when the copy or a server is killed during the verification.
func TestAVerificationThatIsKilledDoesNotCostTheCopy(t *testing.T) {
	t.Parallel()
	const size = 64 * mib
	src := source(t, size, 50)
	for _, who := range []string{"the client", "the source", "the target"} {
		t.Run(who, func(t *testing.T) {
			t.Parallel()
			file, checkpoint := garbageTarget(t, size), filepath.Join(t.TempDir(), "checkpoint")
			from, to := nbdkit(t, "-r", "file", src), nbdkit(t, "--filter=rate", "file", file, "rate=512M")
			log := to.tail()
			args := []string{from.uri, to.uri, "--checkpoint", checkpoint, "--verify", "full"}
			c := start(t, args...)
			await(t, "it is verified", func() bool { return c.over() || log.look().reads > 0 })
			switch who {
			case "the client":
				c.kill()
			case "the source":
				from.again()
			case "the target":
				to.again()
			}
			o := c.wait()
			if o.code == 0 {
				same(t, file, src)
				return
			}
			from.again()
			log = to.tail()
			before := log.look().wrote
			if o := mustRun(t, args...); !o.report.Verified {
				t.Error("it is not verified")
			}
			same(t, file, src)
			if again := log.look().wrote - before; again > size/10 {
				t.Errorf("%d MiB were copied again, though all was durable", again/mib)
			}
		})
	}
}
