package report_test

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
)

// running is the state of a job that copies one disk of 1 GiB.
func running(tb testing.TB, now time.Time) job.State {
	tb.Helper()
	spec, err := job.Spec{VM: "web", Options: job.Options{Verify: job.VerifyNone}}.Normal()
	if err != nil {
		tb.Fatal(err)
	}
	disk := job.Disk{ID: "disk-2000", Key: 2000, Capacity: 1 << 30, ChangeID: "52/1"}
	st := job.State{}
	for _, ev := range []job.Event{
		job.Submitted{ID: "job-1", Spec: spec},
		job.Admitted{},
		job.Inspected{
			VM: job.VM{Name: "web", Disks: []job.Disk{disk}}, Targets: []job.Target{{Disk: "disk-2000", URI: "/t/a"}},
		},
		job.CBTReady{},
		job.SnapshotTaken{Snapshot: job.VMSnapshot{Ref: "snapshot-1", Disks: []job.Disk{disk}}},
		job.Planned{Disks: []job.DiskPlan{{Disk: disk, Mode: job.Full, ToTransfer: 1 << 30}}},
	} {
		if st, _, err = st.Apply(ev, now); err != nil {
			tb.Fatal(err)
		}
	}
	return st
}

func progress(attempt int, c job.Counters) report.Progress {
	c.ToTransfer = 1 << 30
	return report.Progress{Job: "job-1", Disk: "disk-2000", Round: 1, Attempt: attempt, Counters: c}
}

func TestWithinARoundNoNumberDecreasesInAnyOrderOfProgress(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now := time.Unix(1e9, 0)
		st := running(testing.TB(quietTB{}), now)
		var sent []report.Progress
		resumed := int64(0)
		for attempt := 1; attempt <= rapid.IntRange(1, 4).Draw(t, "attempts"); attempt++ {
			at := resumed
			for range rapid.IntRange(1, 10).Draw(t, "ticks") {
				at = min(1<<30, at+rapid.Int64Range(0, 200<<20).Draw(t, "bytes"))
				sent = append(sent, progress(attempt, job.Counters{Transferred: at, ResumedTransferred: resumed}))
			}
			resumed = rapid.Int64Range(resumed, at).Draw(t, "durable")
		}
		r := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		sent = append(sent, sent...) // each one twice, in any order
		r.Shuffle(len(sent), func(i, j int) { sent[i], sent[j] = sent[j], sent[i] })
		builder := report.NewBuilder(st, nil)
		var before report.Report
		for _, p := range sent {
			now = now.Add(time.Duration(r.IntN(2000)) * time.Millisecond)
			builder.Observe(p, now)
			after := builder.Report(now, false)
			if after.BytesTransferred < before.BytesTransferred || after.OverallPercent < before.OverallPercent ||
				after.BytesResent < before.BytesResent {
				t.Fatalf("decreased: %d %.2f%% %d, then %d %.2f%% %d", before.BytesTransferred, before.OverallPercent,
					before.BytesResent, after.BytesTransferred, after.OverallPercent, after.BytesResent)
			}
			if after.OverallPercent >= 100 || *after.Percent >= 100 {
				t.Fatalf("%.2f %% overall, %.2f %% of the round, and nothing is durable", after.OverallPercent,
					*after.Percent)
			}
			before = after
		}
	})
}

// quietTB lets a helper that needs a testing.TB run inside a property test.
type quietTB struct{ testing.TB }

func (quietTB) Helper() {}

func TestSpeedAndTimeLeft(t *testing.T) {
	now := time.Unix(1e9, 0)
	builder := report.NewBuilder(running(t, now), nil)
	if r := builder.Report(now, false); r.ETASeconds != nil || r.BytesPerSecond != nil {
		t.Errorf("before the first byte: %v, %v", r.ETASeconds, r.BytesPerSecond)
	}
	for i := range 41 { // 10 s at 16 MiB/s
		builder.Observe(progress(1, job.Counters{
			Transferred: int64(i) * 4 << 20, SourceWait: time.Duration(i) * 200 * time.Millisecond,
		}), now.Add(time.Duration(i)*250*time.Millisecond))
	}
	now = now.Add(10 * time.Second)
	r := builder.Report(now, false)
	if *r.BytesPerSecond < 15<<20 || *r.BytesPerSecond > 17<<20 {
		t.Errorf("speed %.0f", *r.BytesPerSecond)
	}
	left := (1<<30 - 160<<20) / (16 << 20)
	if r.ETASeconds == nil || *r.ETASeconds < int64(left)-3 || *r.ETASeconds > int64(left)+3 {
		t.Errorf("time left %v, want about %d", r.ETASeconds, left)
	}
	if r.Load.Source < 0.79 || r.Load.Source > 0.81 {
		t.Errorf("load %+v", r.Load)
	}
	if *r.Percent != 15.62 {
		t.Errorf("percent %v", *r.Percent)
	}
}

// follow observes the counters every quarter of a second, as of the time since start, and returns the last report.
func follow(b *report.Builder, start time.Time, d time.Duration, degraded bool,
	at func(since time.Duration) report.Progress,
) report.Report {
	var r report.Report
	for since := time.Duration(0); since <= d; since += 250 * time.Millisecond {
		now := start.Add(since)
		b.Observe(at(since), now)
		r = b.Report(now, degraded)
	}
	return r
}

func TestHealthFlagsAreSetForTheirReasons(t *testing.T) {
	start := time.Unix(1e9, 0)
	still := func(time.Duration) report.Progress { return progress(1, job.Counters{Transferred: 1}) }
	for name, tc := range map[string]struct {
		progress func(since time.Duration) report.Progress
		lasts    time.Duration
		degraded bool
		want     []report.Health
	}{
		"bytes move": {func(since time.Duration) report.Progress {
			return progress(1, job.Counters{Transferred: int64(since)})
		}, 70 * time.Second, false, nil},
		"no byte for a minute": {still, 60 * time.Second, false, []report.Health{report.Stalled}},
		"no byte for less":     {still, 59 * time.Second, false, nil},
		"requests but no bytes": {func(since time.Duration) report.Progress {
			return progress(1, job.Counters{Transferred: 1, Requests: int64(since)})
		}, 70 * time.Second, false, nil},
		"waits for its bandwidth limit": {func(since time.Duration) report.Progress {
			return progress(1, job.Counters{Transferred: 1, ThrottleWait: since})
		}, 70 * time.Second, false, []report.Health{report.Throttled}},
		"waits for a limit less than half of the time": {func(since time.Duration) report.Progress {
			return progress(1, job.Counters{Transferred: int64(since), ThrottleWait: since * 4 / 10})
		}, 70 * time.Second, false, nil},
		"no answer of the source": {func(since time.Duration) report.Progress {
			p := progress(1, job.Counters{Transferred: 1})
			p.SourceSilence = since
			return p
		}, report.SilentAfter - time.Second, false, []report.Health{report.Silent}},
		"no answer for less": {func(since time.Duration) report.Progress {
			p := progress(1, job.Counters{Transferred: 1})
			p.TargetSilence = since
			return p
		}, report.SilentAfter - 2*time.Second, false, nil},
		"a projection takes no reports": {still, 2 * time.Second, true, []report.Health{report.Degraded}},
		"stalled and degraded": {
			still, 90 * time.Second, true, []report.Health{report.Stalled, report.Degraded},
		},
	} {
		t.Run(name, func(t *testing.T) {
			builder := report.NewBuilder(running(t, start), nil)
			if got := follow(builder, start, tc.lasts, tc.degraded, tc.progress).Health; !slices.Equal(got, tc.want) {
				t.Errorf("health %v, want %v", got, tc.want)
			}
		})
	}
	builder := report.NewBuilder(running(t, start), nil)
	builder.Observe(still(0), start)
	h := builder.Report(start.Add(report.StaleAfter+time.Second), false).Health
	if len(h) != 1 || h[0] != report.Stale {
		t.Errorf("health without progress is %v", h)
	}
}

func TestARestartKeepsWhatWasShownAndCountsWhatIsSentTwice(t *testing.T) {
	now := time.Unix(1e9, 0)
	st := running(t, now)
	builder := report.NewBuilder(st, nil)
	builder.Observe(progress(1, job.Counters{Transferred: 300 << 20, Durable: 256 << 20}), now)
	last := builder.Report(now, false)

	st, _, err := st.Apply(job.Restarted{Disks: []job.LastSeen{{
		Disk: "disk-2000", Round: 1, Transferred: last.Disks[0].BytesTransferred, Resent: last.Disks[0].BytesResent,
	}}}, now)
	if err != nil {
		t.Fatal(err)
	}
	builder = report.NewBuilder(st, &last)
	for _, at := range []int64{256, 280, 400} {
		builder.Observe(progress(2, job.Counters{Transferred: at << 20, ResumedTransferred: 256 << 20}),
			now.Add(time.Second))
	}
	r := builder.Report(now.Add(time.Second), false)
	if r.BytesTransferred != 400<<20 || r.BytesResent != 44<<20 || r.OverallPercent < last.OverallPercent {
		t.Errorf("transferred %d MiB, resent %d MiB, %.2f %% after %.2f %%", r.BytesTransferred>>20, r.BytesResent>>20,
			r.OverallPercent, last.OverallPercent)
	}
}

func TestARoundThatWasCancelledKeepsItsNumbersAndCountsForNothing(t *testing.T) {
	now := time.Unix(1e9, 0)
	st := running(t, now)
	builder := report.NewBuilder(st, nil)
	apply := func(events ...job.Event) {
		t.Helper()
		for _, ev := range events {
			var err error
			if st, _, err = st.Apply(ev, now); err != nil {
				t.Fatal(err)
			}
			builder.Changed(st)
		}
	}
	builder.Observe(progress(1, job.Counters{Transferred: 300 << 20}), now)
	before := builder.Report(now, false)
	vm := st.VM
	ended := job.Counters{Transferred: 300 << 20}
	apply(job.CommandReceived{Verb: job.Cancel},
		job.AttemptFailed{Disk: "disk-2000", Attempt: 1, Counters: ended, Kind: job.Cancelled},
		job.SnapshotGone{}, job.CommandReceived{Verb: job.Retry}, job.Admitted{}, job.Inspected{VM: vm}, job.CBTReady{})
	r := builder.Report(now, false)
	if r.Round != 2 || len(r.Rounds) != 2 || r.Rounds[0].BytesTransferred != 300<<20 ||
		r.Rounds[0].BytesToTransfer != before.Rounds[0].BytesToTransfer || r.Rounds[0].EndedAt != nil {
		t.Errorf("the first round is %+v, it was %+v", r.Rounds[0], before.Rounds[0])
	}
	if r.OverallPercent != before.OverallPercent {
		t.Errorf("%.2f %% overall, it was %.2f %% and nothing new has moved", r.OverallPercent, before.OverallPercent)
	}
}

func TestADiskThatWaitsForAPermitHasNoNumbersOfItsOwnYet(t *testing.T) {
	now := time.Unix(1e9, 0)
	st := running(t, now)
	builder := report.NewBuilder(st, nil)
	builder.Observe(progress(1, job.Counters{Transferred: 300 << 20}), now)
	for _, ev := range []job.Event{
		job.AttemptFailed{
			Disk: "disk-2000", Attempt: 1, Counters: job.Counters{Transferred: 300 << 20},
			Kind: job.Unavailable, Message: "gone",
		},
		job.DiskDue{Disk: "disk-2000", Attempt: 1},
	} {
		var err error
		if st, _, err = st.Apply(ev, now); err != nil {
			t.Fatal(err)
		}
	}
	builder.Changed(st)
	for range 240 {
		now = now.Add(time.Second)
		waiting := progress(2, job.Counters{Transferred: 300 << 20})
		waiting.WaitsFor = "host limit reached"
		builder.Observe(waiting, now)
		_ = builder.Report(now, false)
	}
	if r := builder.Report(now, false); r.Disks[0].WaitingFor != "host limit reached" || r.StalledSince != nil ||
		len(r.Health) != 1 || r.Health[0] != report.Throttled {
		t.Errorf("while it waits: for %q, stalled since %v, health %v", r.Disks[0].WaitingFor, r.StalledSince, r.Health)
	}
	now = now.Add(time.Second)
	builder.Observe(progress(2, job.Counters{Transferred: 256 << 20, ResumedTransferred: 256 << 20}), now)
	r := builder.Report(now, false)
	if d := r.Disks[0]; d.WaitingFor != "" || d.StalledSince != nil {
		t.Errorf("as soon as it goes on: waits for %q, stalled since %v, health %v", d.WaitingFor, d.StalledSince,
			r.Health)
	}
	for i := range int64(20) {
		now = now.Add(time.Second)
		builder.Observe(progress(2, job.Counters{Transferred: (256 + i) << 20, ResumedTransferred: 256 << 20}), now)
		if r = builder.Report(now, false); i == 2 && len(r.Health) != 0 {
			t.Errorf("two seconds after it goes on: health %v", r.Health)
		}
	}
	d := r.Disks[0]
	if report.SpeedOr0(d.BytesPerSecond) < 1<<19 || d.BytesTransferred != 300<<20 {
		t.Errorf("goes on with %.0f bytes a second at %d MiB",
			report.SpeedOr0(d.BytesPerSecond), d.BytesTransferred>>20)
	}
}

// TestAMillionWordsInAnyOrderLetNothingFall follows one disk over many attempts that fail and are resumed. Their
// progress messages come late, twice, in any order, or never.
func TestAMillionWordsInAnyOrderLetNothingFall(t *testing.T) {
	const messages, capacity = 1_000_000, int64(1 << 30)
	r := rand.New(rand.NewPCG(20250925, 7))
	now := time.Unix(1e9, 0)
	builder := report.NewBuilder(running(t, now), nil)
	before := builder.Report(now, false)
	var late []report.Progress
	attempt, at, resumed := 1, int64(0), int64(0)
	observed := 0
	observe := func(p report.Progress) {
		observed++
		now = now.Add(time.Duration(r.IntN(300)) * time.Millisecond)
		builder.Observe(p, now)
		if observed%16 != 0 {
			return
		}
		after := builder.Report(now, false)
		if after.BytesTransferred < before.BytesTransferred || after.BytesSkipped < before.BytesSkipped ||
			after.OverallPercent < before.OverallPercent ||
			after.BytesResent < before.BytesResent || after.Disks[0].BytesDurable < before.Disks[0].BytesDurable {
			t.Fatalf("after %d messages: decreased from %+v to %+v", observed, before, after)
		}
		if after.OverallPercent >= 100 || *after.Percent >= 100 {
			t.Fatalf("after %d messages: %.2f %% overall, and nothing is durable", observed, after.OverallPercent)
		}
		before = after
	}
	for observed < messages {
		at = min(capacity-1, at+r.Int64N(3*capacity/messages))
		p := progress(attempt, job.Counters{
			Transferred: at, ResumedTransferred: resumed, Durable: resumed + (at-resumed)/2, Requests: int64(observed),
		})
		switch r.IntN(8) {
		case 0: // lost
		case 1, 2: // late
			late = append(late, p)
		case 3: // twice
			observe(p)
			observe(p)
		default:
			observe(p)
		}
		if len(late) > 1000 || len(late) > 0 && r.IntN(4) == 0 {
			i := r.IntN(len(late))
			observe(late[i])
			late[i] = late[len(late)-1]
			late = late[:len(late)-1]
		}
		if r.IntN(5000) == 0 { // the attempt fails; the next one goes on from what is durable
			resumed = resumed + (at-resumed)/2
			attempt, at = attempt+1, resumed
		}
	}
	if before.BytesTransferred < capacity/2 {
		t.Errorf("only %d bytes were shown", before.BytesTransferred)
	}
}

func TestAJobWithoutAnActorWaitsForNoPeer(t *testing.T) {
	now := time.Unix(1e9, 0)
	st, _, err := running(t, now).Apply(job.AttemptFailed{
		Disk: "disk-2000", Attempt: 1, Kind: job.Unavailable, What: job.PeerVCenter, Message: "no route",
	}, now)
	if err != nil {
		t.Fatal(err)
	}
	b := report.NewBuilder(st, nil)
	if r := b.Report(now, false); r.Wait == nil || r.Disks[0].Wait == nil {
		t.Fatalf("it waits for %v, its disk for %v", r.Wait, r.Disks[0].Wait)
	}
	b.Crashed(job.Failure{Kind: job.Internal, Message: "rehearsed", At: now}, time.Time{})
	if r := b.Report(now, false); r.Wait != nil || r.Disks[0].Wait != nil {
		t.Errorf("without an actor it waits for %v, its disk for %v", r.Wait, r.Disks[0].Wait)
	}
}
