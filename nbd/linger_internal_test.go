package nbd

import (
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// lingering is one in a world where each turn that others get takes some time, and something comes at others.
type lingering struct {
	linger
	now    time.Time
	turn   time.Duration
	comes  time.Time // something does; zero for never
	err    error
	looked int
	gave   int
}

func newLingering() *lingering {
	w := &lingering{now: time.Unix(1, 0), turn: time.Microsecond}
	w.linger = linger{
		ready: func([]unix.PollFd) (int, error) {
			w.looked++
			if w.err != nil || w.comes.IsZero() || w.now.Before(w.comes) {
				return 0, w.err
			}
			return 1, nil
		},
		yield: func() { w.gave++; w.now = w.now.Add(w.turn) },
		clock: func() time.Time { return w.now },
	}
	return w
}

// wait is one, in which something comes after a time; never if that is negative. It returns whether it was seen.
func (w *lingering) wait(after time.Duration) bool {
	w.comes, w.looked, w.gave = time.Time{}, 0, 0
	if after >= 0 {
		w.comes = w.now.Add(after)
	}
	return w.sees(nil, w.now)
}

func TestAThreadLooksForAMomentBeforeItSleeps(t *testing.T) {
	w := newLingering()
	if !w.wait(0) || w.gave != 0 {
		t.Errorf("what is there was seen after %d turns of others, want none", w.gave)
	}
	if !w.wait(lingerFor/2) || w.gave == 0 {
		t.Errorf("what comes soon was not seen within %d turns of others", w.gave)
	}
	began := w.now
	if w.wait(-1) {
		t.Error("nothing was seen")
	}
	if took := w.now.Sub(began); took < lingerFor || took > lingerFor+w.turn {
		t.Errorf("it looked for %v, want %v", took, lingerFor)
	}
	w.err = syscall.EINTR
	if w.wait(0) {
		t.Error("an interrupted look saw something")
	}
}

// A server that is slow makes looking vain, and it is hardly done; as soon as something is seen it pays off again.
func TestAThreadHardlyLooksInVain(t *testing.T) {
	w := newLingering()
	looks := 0
	const waits = 160
	for range waits {
		w.wait(-1)
		if w.looked > 0 {
			looks++
		}
	}
	if most := lingerTries + waits/lingerSeldom; looks < lingerTries || looks > most {
		t.Errorf("in %d waits it looked %d times, want %d to %d", waits, looks, lingerTries, most)
	}
	for n := 0; !w.wait(lingerFor / 2); n++ {
		if n > lingerSeldom {
			t.Fatal("it looks no more")
		}
	}
	for range 10 {
		if !w.wait(lingerFor / 2) {
			t.Fatal("something came soon again, and was not looked for")
		}
	}
}

// Who computes keeps a processor that is given away for a whole turn, however soon something comes. That costs a
// hundredth at most.
func TestAThreadGivesNothingToThoseWhoCompute(t *testing.T) {
	w := newLingering()
	w.turn = 4 * time.Millisecond
	if !w.wait(time.Microsecond) || w.gave != 1 {
		t.Errorf("what came meanwhile was seen after %d turns, want 1", w.gave)
	}
	took := w.turn
	for end := w.now.Add(lingerPrice * took); w.now.Before(end); w.now = w.now.Add(lingerFor) {
		if w.wait(0); w.looked > 0 || w.gave > 0 {
			t.Fatalf("%v before the end it looked again", end.Sub(w.now))
		}
	}
	w.turn = time.Microsecond
	if !w.wait(lingerFor / 2) {
		t.Error("it looks no more once nobody computes")
	}
	w.turn = time.Millisecond // of a scheduler with shorter turns
	gave := 0
	for range 20 {
		w.wait(time.Microsecond)
		gave += w.gave
	}
	if gave < 2 || gave > 6 {
		t.Errorf("it gave %d turns of %v to those who compute, want a few", gave, w.turn)
	}
}

// A server that now and then needs a longer turn does not keep threads from looking.
func TestOneTurnThatIsLongerMeansNothing(t *testing.T) {
	w := newLingering()
	for n := range 100 {
		w.turn = 10 * time.Microsecond
		if n%4 == 0 {
			w.turn = time.Millisecond
		}
		if !w.wait(2 * time.Microsecond) {
			t.Fatalf("wait %d: not seen", n)
		}
	}
}
