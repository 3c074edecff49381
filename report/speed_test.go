package report_test

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
	"github.com/vmferry/vmferry/transfer"
)

const (
	mib      = 1 << 20
	tickTime = 250 * time.Millisecond
	window   = 5 * time.Second
)

// apply folds events into the state and shows each to the builder.
func apply(tb testing.TB, st job.State, b *report.Builder, now time.Time, events ...job.Event) job.State {
	tb.Helper()
	for _, ev := range events {
		var err error
		if st, _, err = st.Apply(ev, now); err != nil {
			tb.Fatal(err)
		}
		b.Changed(st)
	}
	return st
}

// runningTwo is the state of a job that copies two disks of 1 GiB. Each target is known to be all zero.
func runningTwo(tb testing.TB, now time.Time) job.State {
	tb.Helper()
	spec, err := job.Spec{VM: "web", Options: job.Options{Verify: job.VerifyNone, Cutover: job.CutoverManual}}.Normal()
	if err != nil {
		tb.Fatal(err)
	}
	disks := twoDisks()
	b := report.NewBuilder(job.State{}, nil)
	return apply(tb, job.State{}, b, now, job.Submitted{ID: "job-1", Spec: spec}, job.Admitted{},
		job.Inspected{VM: job.VM{Name: "web", Disks: disks}, Targets: []job.Target{
			{Disk: "disk-2000", URI: "/t/a"}, {Disk: "disk-2001", URI: "/t/b"},
		}},
		job.CBTReady{}, job.SnapshotTaken{Snapshot: job.VMSnapshot{Ref: "snapshot-1", Disks: disks}},
		job.Planned{Disks: []job.DiskPlan{
			{Disk: disks[0], Mode: job.Full, ToTransfer: 1 << 30},
			{Disk: disks[1], Mode: job.Full, ToTransfer: 1 << 30},
		}})
}

func onDisk(disk job.DiskID, attempt int, c job.Counters) report.Progress {
	p := progress(attempt, c)
	p.Disk = disk
	return p
}

// TestWhatWasThereBeforeIsNoSpeed goes through all ways in which an attempt finds bytes that it has not moved.
func TestWhatWasThereBeforeIsNoSpeed(t *testing.T) {
	start := time.Unix(1e9, 0)
	resumed := job.Counters{Transferred: 600 * mib, ResumedTransferred: 600 * mib, Skipped: 9, ResumedSkipped: 9}
	for name, before := range map[string][]job.Counters{
		"it is in the first sample":                    {resumed},
		"the first sample comes before the checkpoint": {{}, resumed},
		"a sample is read while the checkpoint is taken": {
			{}, {ResumedTransferred: 600 * mib, ResumedSkipped: 9}, resumed,
		},
		"the attempt has waited for a permit": {{Transferred: 650 * mib, Requests: -1}, resumed},
	} {
		t.Run(name, func(t *testing.T) {
			st := running(t, start)
			builder := report.NewBuilder(st, nil)
			now := start
			for _, c := range before {
				p := progress(1, c)
				if c.Requests < 0 {
					p.Counters.Requests, p.WaitsFor = 0, "host limit reached"
				}
				builder.Observe(p, now)
				if r := builder.Report(now, false); r.BytesPerSecond != nil || r.ETASeconds != nil {
					t.Errorf("%.0f bytes a second, and none has moved", *r.BytesPerSecond)
				}
				now = now.Add(tickTime)
			}
			var r report.Report
			for i := range int64(40) {
				c := resumed
				c.Transferred += i * mib / 2 // 2 MiB a second
				builder.Observe(progress(1, c), now)
				r = builder.Report(now, false)
				now = now.Add(tickTime)
			}
			if v := *r.BytesPerSecond; v < 1.9*mib || v > 2.1*mib || r.BytesPerSecondPeak > 2.2*mib {
				t.Errorf("%.0f bytes a second, at most %.0f, want 2 MiB", v, r.BytesPerSecondPeak)
			}
			left := float64(1<<30-600*mib-20*mib) / (2 * mib)
			if eta := float64(*r.ETASeconds); math.Abs(eta-left) > left/10 {
				t.Errorf("%.0f s left, want about %.0f", eta, left)
			}
		})
	}
}

func TestARestartOfTheDaemonIsNoSpeed(t *testing.T) {
	now := time.Unix(1e9, 0)
	st := running(t, now)
	builder := report.NewBuilder(st, nil)
	r := follow(builder, now, 10*time.Second, false, func(since time.Duration) report.Progress {
		return progress(1, job.Counters{Transferred: int64(2 * mib * since.Seconds()), Durable: 8 * mib})
	})
	now = now.Add(time.Hour)
	var err error
	if st, _, err = st.Apply(job.Restarted{}, now); err != nil {
		t.Fatal(err)
	}
	builder = report.NewBuilder(st, &r)
	if after := builder.Report(now, false); after.BytesPerSecond != nil || after.ETASeconds != nil ||
		after.BytesPerSecondAverage != nil || after.BytesTransferred != 20*mib {
		t.Errorf("before the new attempt begins: %+v", after)
	}
	r = follow(builder, now, time.Minute, false, func(since time.Duration) report.Progress {
		return progress(2, job.Counters{
			Transferred: 8*mib + int64(2*mib*since.Seconds()), ResumedTransferred: 8 * mib,
		})
	})
	if v := *r.BytesPerSecond; v < 1.9*mib || v > 2.1*mib || r.BytesPerSecondPeak > 2.2*mib {
		t.Errorf("%.0f bytes a second, at most %.0f, want 2 MiB", v, r.BytesPerSecondPeak)
	}
}

func TestSamplesAreOfTheTimeAtWhichTheyWereTaken(t *testing.T) {
	start := time.Unix(1e9, 0)
	builder := report.NewBuilder(running(t, start), nil)
	// No message is taken for 20 s; then all come at once, and after them one that is in time.
	late := start.Add(20 * time.Second)
	for i := range int64(80) {
		p := progress(1, job.Counters{Transferred: i * mib / 2})
		p.At = start.Add(time.Duration(i) * tickTime)
		builder.Observe(p, late)
	}
	r := builder.Report(late, false)
	if v := report.SpeedOr0(r.BytesPerSecond); v < 1.8*mib || v > 2.2*mib {
		t.Errorf("%.0f bytes a second after late samples, want 2 MiB", v)
	}
	if !r.SampledAt.Equal(late.Add(-tickTime)) || !r.Disks[0].SampledAt.Equal(*r.SampledAt) {
		t.Errorf("sampled at %v, want a tick before %v", r.SampledAt, late)
	}
	// A sample of a clock that is ahead of ours is one of now.
	p := progress(1, job.Counters{Transferred: 41 * mib})
	p.At = late.Add(time.Hour)
	builder.Observe(p, late.Add(tickTime))
	if r = builder.Report(late.Add(tickTime), false); r.SampledAt.After(r.ObservedAt) {
		t.Errorf("sampled at %v, observed at %v", r.SampledAt, r.ObservedAt)
	}
}

func TestNothingMovesWithoutASpeed(t *testing.T) {
	start := time.Unix(1e9, 0)
	moving := func() (job.State, *report.Builder, time.Time) {
		st := running(t, start)
		b := report.NewBuilder(st, nil)
		r := follow(b, start, 10*time.Second, false, func(since time.Duration) report.Progress {
			return progress(1, job.Counters{Transferred: int64(9 * mib * since.Seconds()), ThrottleWait: since})
		})
		if r.BytesPerSecond == nil || r.ETASeconds == nil || r.Disks[0].ETASeconds == nil || len(r.Health) != 1 {
			t.Fatalf("it does not move: %+v", r)
		}
		return st, b, start.Add(10 * time.Second)
	}
	c := job.Counters{Transferred: 90 * mib}
	failed := job.AttemptFailed{Disk: "disk-2000", Attempt: 1, Counters: c, Kind: job.Unavailable, Message: "gone"}
	stopped := failed
	stopped.Kind = job.Cancelled
	for name, then := range map[string]func(job.State, *report.Builder, time.Time) time.Time{
		"paused": func(st job.State, b *report.Builder, now time.Time) time.Time {
			apply(t, st, b, now, job.CommandReceived{Verb: job.Pause})
			return now
		},
		"in backoff": func(st job.State, b *report.Builder, now time.Time) time.Time {
			apply(t, st, b, now, failed)
			return now
		},
		"the next attempt has not begun": func(st job.State, b *report.Builder, now time.Time) time.Time {
			apply(t, st, b, now, failed, job.DiskDue{Disk: "disk-2000", Attempt: 1})
			return now
		},
		"the next attempt waits for a permit": func(st job.State, b *report.Builder, now time.Time) time.Time {
			apply(t, st, b, now, failed, job.DiskDue{Disk: "disk-2000", Attempt: 1})
			p := progress(2, c)
			p.WaitsFor = "its turn"
			b.Observe(p, now)
			return now
		},
		"no byte for five seconds": func(_ job.State, b *report.Builder, now time.Time) time.Time {
			follow(b, now, window, false, func(time.Duration) report.Progress { return progress(1, c) })
			return now.Add(window)
		},
		"no progress for five seconds": func(_ job.State, _ *report.Builder, now time.Time) time.Time {
			return now.Add(window)
		},
		"copied": func(st job.State, b *report.Builder, now time.Time) time.Time {
			apply(t, st, b, now, job.DiskMoved{Disk: "disk-2000", Attempt: 1, Counters: c})
			return now
		},
		"cancelled": func(st job.State, b *report.Builder, now time.Time) time.Time {
			apply(t, st, b, now, job.CommandReceived{Verb: job.Cancel}, stopped, job.SnapshotGone{})
			return now
		},
	} {
		t.Run(name, func(t *testing.T) {
			st, b, now := moving()
			now = then(st, b, now)
			r := b.Report(now, false)
			if r.BytesPerSecond != nil || r.BytesPerSecondAverage != nil || r.ETASeconds != nil || r.ETAAt != nil {
				t.Errorf("the job: %v, %v, eta %v", r.BytesPerSecond, r.BytesPerSecondAverage, r.ETASeconds)
			}
			if d := r.Disks[0]; d.BytesPerSecond != nil || d.ETASeconds != nil {
				t.Errorf("the disk: %v, eta %v", d.BytesPerSecond, d.ETASeconds)
			}
			if r.BytesTransferred != 90*mib {
				t.Errorf("%d bytes", r.BytesTransferred)
			}
		})
	}
}

// TestAnEndedJobHasNoHealth ends a job whose disk was in trouble in every way.
func TestAnEndedJobHasNoHealthAndKeepsItsPercent(t *testing.T) {
	for name, end := range map[string][]job.Event{
		"failed": {
			job.AttemptFailed{
				Disk: "disk-2000", Attempt: 1, Counters: job.Counters{Transferred: 300 * mib}, Kind: job.Corrupt,
				Message: "bad",
			},
		},
		"cancelled": {
			job.CommandReceived{Verb: job.Cancel},
			job.AttemptFailed{
				Disk: "disk-2000", Attempt: 1, Counters: job.Counters{Transferred: 300 * mib}, Kind: job.Cancelled,
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			now := time.Unix(1e9, 0)
			st := running(t, now)
			b := report.NewBuilder(st, nil)
			before := follow(b, now, 90*time.Second, true, func(since time.Duration) report.Progress {
				p := progress(1, job.Counters{Transferred: 300 * mib})
				p.SourceSilence = since
				return p
			})
			if len(before.Health) != 3 || before.WaitingFor != "source" {
				t.Fatalf("health %v, waits for %q", before.Health, before.WaitingFor)
			}
			now = now.Add(90 * time.Second)
			st = apply(t, st, b, now, end...)
			cleanup := b.Report(now, false)
			apply(t, st, b, now, job.SnapshotGone{})
			r := b.Report(now, true)
			if len(r.Health) != 0 || r.Health == nil || r.WaitingFor != "" || r.StalledSince != nil || r.Wait != nil ||
				r.Disks[0].SilentSince != nil || r.Disks[0].WaitingFor != "" || r.Disks[0].BackoffUntil != nil {
				t.Errorf("health %v, waits for %q, stalled since %v, disk %+v", r.Health, r.WaitingFor, r.StalledSince,
					r.Disks[0])
			}
			for _, r := range []report.Report{cleanup, r} {
				if r.OverallPercent != before.OverallPercent || *r.Percent != *before.Percent {
					t.Errorf("%s: %.2f %% overall, %.2f %% of the round, want %.2f, %.2f", r.Phase, r.OverallPercent,
						*r.Percent, before.OverallPercent, *before.Percent)
				}
			}
		})
	}
}

func TestMeasuredFlagsNeedTwoSecondsToComeAndToGo(t *testing.T) {
	start := time.Unix(1e9, 0)
	st := running(t, start)
	b := report.NewBuilder(st, nil)
	now, waited, at := start, time.Duration(0), int64(0)
	run := func(d time.Duration, share float64, degraded bool) report.Report {
		var r report.Report
		for end := now.Add(d); now.Before(end); {
			now = now.Add(tickTime)
			waited += time.Duration(share * float64(tickTime))
			at += 1000
			b.Observe(progress(1, job.Counters{Transferred: at, ThrottleWait: waited}), now)
			r = b.Report(now, degraded)
		}
		return r
	}
	want := func(when string, r report.Report, flags ...report.Health) {
		t.Helper()
		if fmt.Sprint(r.Health) != fmt.Sprint(append([]report.Health{}, flags...)) {
			t.Errorf("%s: %v, want %v", when, r.Health, flags)
		}
	}
	want("at first", run(10*time.Second, 0, false))
	for range 20 { // a limit and a sink that come and go within a second
		want("it flaps", run(750*time.Millisecond, 1, true))
		want("it flaps", run(time.Second, 0, false))
	}
	want("a sink is down for less than two seconds", run(1750*time.Millisecond, 0, true))
	want("and for two", run(time.Second, 0, true), report.Degraded)
	want("up for less", run(1750*time.Millisecond, 0, false), report.Degraded)
	want("up for two", run(time.Second, 0, false))
	run(10*time.Second, 0, false)
	want("half of the last two seconds, for less than two", run(2*time.Second, 1, false))
	want("for two", run(2*time.Second, 1, false), report.Throttled)
	for range 20 {
		want("it flaps", run(time.Second, 1, false), report.Throttled)
		want("it flaps", run(time.Second, 0.2, false), report.Throttled)
	}
	// What the state says holds at once, and another phase ends what belonged to the one before it.
	st = apply(t, st, b, now, job.AttemptFailed{Disk: "disk-2000", Attempt: 1, Kind: job.Unavailable, Message: "gone"})
	if r := b.Report(now, false); !strings.Contains(fmt.Sprint(r.Health), "retrying") {
		t.Errorf("in backoff: %v", r.Health)
	}
	st = apply(t, st, b, now, job.CommandReceived{Verb: job.Pause})
	for _, h := range b.Report(now, false).Health {
		if h == report.Throttled {
			t.Error("throttled while it is paused")
		}
	}
	apply(t, st, b, now, job.CommandReceived{Verb: job.Resume})
}

func TestASideThatDoesNotAnswerShowsAndSoDoesItsAnswer(t *testing.T) {
	start := time.Unix(1e9, 0)
	b := report.NewBuilder(running(t, start), nil)
	heard := start.Add(2 * time.Second)
	silence := func(source, target time.Duration) report.Progress {
		p := progress(1, job.Counters{Transferred: mib})
		p.SourceSilence, p.TargetSilence = source, target
		return p
	}
	now := heard
	for ; now.Sub(heard) < 6*time.Second; now = now.Add(tickTime) {
		b.Observe(silence(0, now.Sub(heard)), now)
		r := b.Report(now, false)
		if shown := len(r.Health) > 0; shown != (now.Sub(heard) >= report.SilentAfter-time.Second) {
			t.Errorf("after %v: health %v", now.Sub(heard), r.Health)
		}
	}
	r := b.Report(now, false)
	if d := r.Disks[0]; r.WaitingFor != "target" || d.WaitingFor != "target" || !d.SilentSince.Equal(heard) {
		t.Errorf("waits for %q and %q, silent since %v", r.WaitingFor, d.WaitingFor, d.SilentSince)
	}
	b.Observe(silence(now.Sub(heard), 0), now.Add(tickTime))
	if r = b.Report(now.Add(tickTime), false); r.WaitingFor != "source" {
		t.Errorf("waits for %q", r.WaitingFor)
	}
	now = now.Add(time.Second)
	b.Observe(silence(0, 0), now)
	if r = b.Report(now, false); r.WaitingFor != "" || r.Disks[0].SilentSince != nil {
		t.Errorf("it has answered, and waits for %q", r.WaitingFor)
	}
	now = now.Add(report.FlagStays)
	b.Observe(silence(0, 0), now)
	if r = b.Report(now, false); len(r.Health) != 0 {
		t.Errorf("two seconds after the answer: %v", r.Health)
	}
}

// TestNoSpeedIsAboveTheLimitBeyondOneBurst copies under the real limiter: as fast as it lets, with pauses between which
// its burst fills up, on one disk or two.
func TestNoSpeedIsAboveTheLimitBeyondOneBurst(t *testing.T) {
	for _, limit := range []int64{100 << 10, 2 * mib, 300 * mib} {
		t.Run(fmt.Sprint(limit), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				permits := transfer.NewPermits(job.Limits{})
				share, err := permits.Acquire(t.Context(), &transfer.Permit{
					Job: "job-1", Limits: job.TransferLimits{Bandwidth: limit},
				})
				if err != nil {
					t.Fatal(err)
				}
				st := runningTwo(t, time.Now())
				b := report.NewBuilder(st, nil)
				r := rand.New(rand.NewPCG(uint64(limit), 1))
				sent := map[job.DiskID]int64{}
				part := int(max(512, min(mib, limit/20)))
				next, peak := time.Now(), 0.0
				busy, idle := time.Now().Add(20*time.Second), time.Time{}
				end := time.Now().Add(3 * time.Minute)
				for ; time.Now().Before(end); <-time.After(10 * time.Millisecond) {
					now := time.Now()
					for now.Before(busy) {
						lim := share.Limiters[0]
						n := min(part, lim.Burst())
						if !lim.AllowN(now, n) {
							break
						}
						sent[[]job.DiskID{"disk-2000", "disk-2001"}[int(now.Sub(busy)/time.Second)&1]] += int64(n)
					}
					if now.After(busy) && idle.IsZero() {
						idle = now.Add(time.Duration(r.IntN(9000)) * time.Millisecond)
					}
					if !idle.IsZero() && now.After(idle) {
						busy, idle = now.Add(time.Duration(r.IntN(20000))*time.Millisecond), time.Time{}
					}
					if now.Before(next) {
						continue
					}
					next = now.Add(tickTime)
					for disk, n := range sent {
						b.Observe(onDisk(disk, 1, job.Counters{Transferred: n}), now)
					}
					out := b.Report(now, false)
					most := float64(limit + transfer.Burst(limit))
					if v := report.SpeedOr0(out.BytesPerSecond); v > most {
						t.Fatalf("%.0f bytes a second under a limit of %d with a burst of %d", v, limit,
							transfer.Burst(limit))
					}
					peak = max(peak, report.SpeedOr0(out.BytesPerSecond))
				}
				if peak < float64(limit)*0.9 {
					t.Errorf("at most %.0f bytes a second, want about %d: the limit was not reached", peak, limit)
				}
			})
		})
	}
}

// TestNumbersAreWhatReallyMoved lets two disks copy, hang, fail, go on, pause and resume by chance, with a daemon
// that restarts, and compares each report with a ledger of what really moved and when.
func TestNumbersAreWhatReallyMoved(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		type done struct {
			at    time.Time
			bytes int64
		}
		now := time.Unix(1e9, 0)
		st := runningTwo(t, now)
		b := report.NewBuilder(st, nil)
		var moved []done
		at, durable, resumed := map[job.DiskID]int64{}, map[job.DiskID]int64{}, map[job.DiskID]int64{}
		counters := func(id job.DiskID) job.Counters {
			return job.Counters{Transferred: at[id], ResumedTransferred: resumed[id], Durable: durable[id]}
		}
		begin := func(id job.DiskID) { at[id], resumed[id] = durable[id], durable[id] }
		take := func(events ...job.Event) {
			for _, ev := range events {
				if next, _, err := st.Apply(ev, now); err == nil {
					st = next
				}
			}
			b.Changed(st)
		}
		var before report.Report
		var held []report.Progress
		speed := int64(0)
		for range rapid.IntRange(1, 200).Draw(rt, "steps") {
			now = now.Add(time.Duration(rapid.SampledFrom([]int{250, 250, 250, 250, 2000, 7000}).Draw(rt, "ms")) *
				time.Millisecond)
			d := st.Disks[rapid.IntRange(0, 1).Draw(rt, "disk")]
			id := d.Disk.ID
			switch rapid.IntRange(0, 14).Draw(rt, "what") {
			case 0:
				speed = rapid.SampledFrom([]int64{0, 0, 1, 1000, mib, 30 * mib}).Draw(rt, "bytes")
			case 1:
				durable[id] = at[id]
			case 2: // it fails, or what was stopped has ended
				if d.Phase == job.DiskRunning {
					kind := job.Unavailable
					if st.Paused {
						kind = job.Cancelled
					}
					take(job.AttemptFailed{Disk: id, Attempt: d.Attempt, Counters: counters(id), Kind: kind})
				}
			case 3:
				if d.Phase == job.DiskBackoff && !st.Paused {
					take(job.DiskDue{Disk: id, Attempt: d.Attempt})
					begin(id)
				}
			case 4:
				take(job.CommandReceived{Verb: job.Pause})
			case 5:
				paused := st.Disks
				take(job.CommandReceived{Verb: job.Resume})
				for i, d := range st.Disks {
					if d.Attempt > paused[i].Attempt {
						begin(d.Disk.ID)
					}
				}
			case 6: // the daemon is killed
				was := st.Disks
				take(job.Restarted{})
				for i, d := range st.Disks {
					if d.Attempt > was[i].Attempt {
						begin(d.Disk.ID)
					}
				}
				b = report.NewBuilder(st, &before)
				held = nil
			default:
				for _, d := range st.Disks {
					if d.Phase != job.DiskRunning || d.Attempt == 0 {
						continue
					}
					id := d.Disk.ID
					n := min(speed, 1<<30-at[id])
					at[id] += n
					moved = append(moved, done{now, n})
					p := onDisk(id, d.Attempt, counters(id))
					p.At = now
					if rapid.IntRange(0, 9).Draw(rt, "late") == 0 {
						held = append(held, p)
						continue
					}
					b.Observe(p, now)
				}
				for len(held) > 0 && rapid.Bool().Draw(rt, "comes") {
					b.Observe(held[0], now)
					held = held[1:]
				}
			}
			r := b.Report(now, false)
			if r.BytesTransferred < before.BytesTransferred || r.OverallPercent < before.OverallPercent {
				rt.Fatalf("decreased: %d %.2f%%, then %d %.2f%%", before.BytesTransferred, before.OverallPercent,
					r.BytesTransferred, r.OverallPercent)
			}
			before = r
			// What moved since the sample before the last 5 s, which is at most 5 s older: nothing else may count.
			var recent int64
			for _, m := range moved {
				if now.Sub(m.at) < 2*window {
					recent += m.bytes
				}
			}
			v := report.SpeedOr0(r.BytesPerSecond)
			if v > float64(recent) {
				rt.Fatalf("%.0f bytes a second, and only %d bytes moved in the last 10 s", v, recent)
			}
			if v > 0 && recent == 0 {
				rt.Fatalf("%.3f bytes a second, and nothing has moved", v)
			}
			for _, d := range r.Disks {
				if d.ETASeconds != nil && d.BytesPerSecond == nil ||
					d.BytesPerSecond != nil && d.Status != job.DiskRunning {
					rt.Fatalf("%s is %s with speed %v and eta %v", d.DiskID, d.Status, d.BytesPerSecond, d.ETASeconds)
				}
				left := *d.BytesToTransfer - d.BytesTransferred - d.BytesSkipped
				if r.ETASeconds != nil && d.ETASeconds == nil && left > 0 {
					rt.Fatalf("the job has an eta, and %s has none", d.DiskID)
				}
			}
			if (r.ETASeconds != nil || r.BytesPerSecondAverage != nil) && r.BytesPerSecond == nil {
				rt.Fatal("an eta or an average without a speed")
			}
		}
	})
}

func TestNoETAWhileADiskWithBytesLeftHasNone(t *testing.T) {
	start := time.Unix(1e9, 0)
	st := runningTwo(t, start)
	b := report.NewBuilder(st, nil)
	now := start
	run := func(d time.Duration, disks ...job.DiskID) report.Report {
		var r report.Report
		for end := now.Add(d); now.Before(end); {
			now = now.Add(tickTime)
			for _, id := range disks {
				b.Observe(onDisk(id, 1, job.Counters{Transferred: int64(now.Sub(start)) / 1000}), now)
			}
			r = b.Report(now, false)
		}
		return r
	}
	if r := run(10*time.Second, "disk-2000", "disk-2001"); r.ETASeconds == nil {
		t.Fatal("both move, and there is no eta")
	}
	st = apply(t, st, b, now, job.AttemptFailed{
		Disk: "disk-2001", Attempt: 1, Counters: job.Counters{Transferred: 1}, Kind: job.Unavailable, Message: "gone",
	})
	if r := run(time.Second, "disk-2000"); r.ETASeconds != nil || r.Disks[0].ETASeconds == nil ||
		r.Disks[1].ETASeconds != nil || r.BytesPerSecond == nil {
		t.Errorf("one disk is in backoff: eta %v; %v, %v", r.ETASeconds, r.Disks[0].ETASeconds, r.Disks[1].ETASeconds)
	}
	st = apply(t, st, b, now, job.DiskDue{Disk: "disk-2001", Attempt: 1})
	if r := run(time.Second, "disk-2000"); r.ETASeconds != nil {
		t.Errorf("one disk's attempt has not begun: eta %v", *r.ETASeconds)
	}
	apply(t, st, b, now, job.DiskMoved{
		Disk: "disk-2001", Attempt: 2, Counters: job.Counters{Transferred: 1 << 30},
	})
	if r := run(time.Second, "disk-2000"); r.ETASeconds == nil {
		t.Error("one disk is copied, the other moves, and there is no eta")
	}
}

func TestASpeedThatTellsNothingGivesNoETA(t *testing.T) {
	start := time.Unix(1e9, 0)
	b := report.NewBuilder(running(t, start), nil)
	r := follow(b, start, time.Minute, false, func(since time.Duration) report.Progress {
		return progress(1, job.Counters{Transferred: int64(since / time.Second)})
	})
	if r.BytesPerSecond == nil || r.ETASeconds != nil || r.Disks[0].ETASeconds != nil {
		t.Errorf("34 years are left at one byte a second: %v", r.ETASeconds)
	}
	if report.SpeedOf(2e-46) != nil || report.SpeedOf(math.NaN()) != nil || *report.SpeedOf(math.Inf(1)) > 1e19 {
		t.Error("a speed that is none is shown")
	}
}

func TestZerosThatNeedNotTravelCountForTheETA(t *testing.T) {
	start := time.Unix(1e9, 0)
	b := report.NewBuilder(running(t, start), nil)
	r := follow(b, start, 10*time.Second, false, func(since time.Duration) report.Progress {
		s := since.Seconds()
		return progress(1, job.Counters{Transferred: int64(mib * s), Skipped: int64(9 * mib * s)})
	})
	if want := int64(1024-100) / 10; *r.ETASeconds < want-3 || *r.ETASeconds > want+3 {
		t.Errorf("%d s left, want %d", *r.ETASeconds, want)
	}
}

func TestHundredPercentIsForWhatIsDurable(t *testing.T) {
	now := time.Unix(1e9, 0)
	st := running(t, now)
	b := report.NewBuilder(st, nil)
	all := job.Counters{Transferred: 1 << 30}
	b.Observe(progress(1, all), now)
	if r := b.Report(now, false); *r.Percent != 99.99 || *r.Disks[0].Percent != 99.99 {
		t.Errorf("all bytes are acknowledged, none is known to be durable: %v, %v", *r.Percent, *r.Disks[0].Percent)
	}
	apply(t, st, b, now, job.DiskMoved{Disk: "disk-2000", Attempt: 1, Counters: all})
	if r := b.Report(now, false); *r.Percent != 100 || *r.Disks[0].Percent != 100 || r.OverallPercent >= 100 {
		t.Errorf("all is flushed: %v, %v, overall %v", *r.Percent, *r.Disks[0].Percent, r.OverallPercent)
	}
}

func TestNumbersOfAnEarlierRoundAreNotThoseOfThisOne(t *testing.T) {
	now := time.Unix(1e9, 0)
	st := runningTwo(t, now)
	b := report.NewBuilder(st, nil)
	b.Observe(onDisk("disk-2000", 1, job.Counters{Transferred: 1 << 30}), now)
	last := b.Report(now, false)
	events := moved(job.Incremental)
	st = apply(t, st, b, now,
		job.DiskMoved{Disk: "disk-2000", Attempt: 1, Counters: job.Counters{Transferred: 1 << 30}},
		job.DiskMoved{Disk: "disk-2001", Attempt: 1}, job.SetCommitted{}, job.SnapshotGone{},
		job.CommandReceived{Verb: job.Sync})
	st = apply(t, st, b, now, events[:3]...)
	b.Observe(onDisk("disk-2000", 1, job.Counters{Transferred: 1 << 30}), now) // late, of round 1
	if r := b.Report(now, false); r.Round != 2 || r.BytesTransferred != 0 {
		t.Errorf("round %d begins with %d bytes", r.Round, r.BytesTransferred)
	}
	// So it is after a restart whose last report is of round 1.
	r := report.NewBuilder(st, &last).Report(now, false)
	if r.BytesTransferred != 0 || r.OverallPercent < last.OverallPercent {
		t.Errorf("round %d begins with %d bytes after a restart", r.Round, r.BytesTransferred)
	}
	st = apply(t, st, b, now, job.Restarted{Disks: []job.LastSeen{{
		Disk: "disk-2000", Round: 1, Transferred: 1 << 30, Resent: 7,
	}}})
	if d, _ := st.DiskState("disk-2000"); d.High != 0 || d.Sent != 0 {
		t.Errorf("round 2 begins with %d bytes, %d sent", d.High, d.Sent)
	}
}

func TestAnAttemptThatHasNotBegunHasSentNothing(t *testing.T) {
	c := job.Counters{
		Transferred: 300, ResumedTransferred: 100, Skipped: 7, Durable: 250, SourceWait: time.Minute,
		Elapsed: time.Hour,
	}
	if u := c.Unbegun(); u.Transferred-u.ResumedTransferred != 0 || u.Done() != c.Done() || u.Durable != c.Durable ||
		u.Waited() != (job.Waited{}) {
		t.Errorf("%+v", u)
	}
}

func TestTheLoadOfARoundStaysAfterItsEnd(t *testing.T) {
	start := time.Unix(1e9, 0)
	st := running(t, start)
	b := report.NewBuilder(st, nil)
	waits := func(since time.Duration) job.Counters {
		return job.Counters{
			Transferred: int64(since), SourceWait: since / 2, TargetWait: since / 4, Elapsed: since,
		}
	}
	r := follow(b, start, 20*time.Second, false, func(since time.Duration) report.Progress {
		return progress(1, waits(since))
	})
	want := report.Load{Source: 0.5, Target: 0.25}
	if r.Rounds[0].Load != want || r.Load != want {
		t.Errorf("while it runs: round %+v, now %+v", r.Rounds[0].Load, r.Load)
	}
	now := start.Add(20 * time.Second)
	st = apply(t, st, b, now, job.AttemptFailed{
		Disk: "disk-2000", Attempt: 1, Counters: waits(20 * time.Second), Kind: job.Unavailable, Message: "gone",
	})
	if r = b.Report(now, false); r.Load != want {
		t.Errorf("in backoff: %+v", r.Load)
	}
	st = apply(t, st, b, now, job.DiskDue{Disk: "disk-2000", Attempt: 1})
	second := job.Counters{Transferred: 1 << 30, TargetWait: 15 * time.Second, Elapsed: 20 * time.Second}
	st = apply(t, st, b, now, job.DiskMoved{Disk: "disk-2000", Attempt: 2, Counters: second}, job.SetCommitted{},
		job.SnapshotGone{})
	want = report.Load{Source: 0.25, Target: 0.5}
	if r = b.Report(now, false); r.Rounds[0].Load != want || r.Load != want || r.Phase != job.Completed {
		t.Errorf("%s: round %+v, last %+v", r.Phase, r.Rounds[0].Load, r.Load)
	}
	// The journal keeps it.
	text, err := json.Marshal(st)
	if err != nil {
		t.Fatal(err)
	}
	var read job.State
	if err := json.Unmarshal(text, &read); err != nil {
		t.Fatal(err)
	}
	if r = report.NewBuilder(read, nil).Report(now, false); r.Load != want {
		t.Errorf("from the journal: %+v", r.Load)
	}
}

func TestTheLoadOfARoundOutlivesTheDaemon(t *testing.T) {
	start := time.Unix(1e9, 0)
	st := running(t, start)
	b := report.NewBuilder(st, nil)
	last := follow(b, start, 20*time.Second, false, func(since time.Duration) report.Progress {
		return progress(1, job.Counters{Transferred: int64(since), SourceWait: since / 2, Elapsed: since})
	})
	st = apply(t, st, b, start.Add(time.Minute), job.Restarted{})
	r := report.NewBuilder(st, &last).Report(start.Add(time.Minute), false)
	if want := (report.Load{Source: 0.5}); r.Rounds[0].Load != want {
		t.Errorf("%+v, want %+v", r.Rounds[0].Load, want)
	}
}

func TestACancelInProgressShows(t *testing.T) {
	now := time.Unix(1e9, 0)
	st := running(t, now)
	b := report.NewBuilder(st, nil)
	st = apply(t, st, b, now, job.CommandReceived{Verb: job.Cancel})
	if r := b.Report(now, false); !r.Cancelling || !strings.HasPrefix(r.Operation, "cancelling: ends what runs") {
		t.Errorf("%v, %q", r.Cancelling, r.Operation)
	}
	st = apply(t, st, b, now, job.AttemptFailed{Disk: "disk-2000", Attempt: 1, Kind: job.Cancelled})
	if r := b.Report(now, false); !r.Cancelling || !strings.HasPrefix(r.Operation, "cancelling: removes its snapshot") {
		t.Errorf("%v, %q", r.Cancelling, r.Operation)
	}
	apply(t, st, b, now, job.SnapshotGone{})
	if r := b.Report(now, false); r.Cancelling || r.Operation != "cancelled" {
		t.Errorf("%v, %q", r.Cancelling, r.Operation)
	}
}

func TestAReportAtRestHasNothingThatMoves(t *testing.T) {
	start := time.Unix(1e9, 0)
	b := report.NewBuilder(running(t, start), nil)
	r := follow(b, start, 20*time.Second, true, func(since time.Duration) report.Progress {
		p := progress(1, job.Counters{Transferred: int64(since), ThrottleWait: since})
		p.SourceSilence = since
		return p
	})
	rest := r.AtRest()
	if rest.BytesPerSecond != nil || rest.ETASeconds != nil || rest.Disks[0].BytesPerSecond != nil ||
		rest.Disks[0].SilentSince != nil || rest.WaitingFor != "" || fmt.Sprint(rest.Health) != "[degraded]" {
		t.Errorf("%+v", rest)
	}
	if r.BytesPerSecond == nil || r.Disks[0].BytesPerSecond == nil || rest.BytesTransferred != r.BytesTransferred ||
		rest.Rounds[0].Load != r.Rounds[0].Load {
		t.Error("the report itself was changed, or lost its counts")
	}
}

// FuzzAReportAlwaysEncodes gives disks counters that no disk can have.
func FuzzAReportAlwaysEncodes(f *testing.F) {
	for _, v := range []int64{0, 1, -1, math.MaxInt64, math.MinInt64, 1 << 62, -1 << 62} {
		f.Add(v, v, int64(0), v, v, v)
		f.Add(int64(math.MaxInt64), v, v, int64(1), int64(math.MinInt64), v)
	}
	f.Fuzz(func(t *testing.T, transferred, skipped, resumed, wait, total, verified int64) {
		now := time.Unix(1e9, 0)
		st := runningTwo(t, now)
		for i := range st.Disks {
			st.Disks[i].ToTransfer, st.Disks[i].Disk.Capacity, st.Disks[i].Sent = total, total, transferred
		}
		b := report.NewBuilder(st, nil)
		for i := range 8 {
			for _, id := range []job.DiskID{"disk-2000", "disk-2001"} {
				n := int64(i)
				b.Observe(onDisk(id, 1, job.Counters{
					Transferred: transferred / 8 * n, Skipped: skipped / 8 * n, ResumedTransferred: resumed,
					ResumedSkipped: resumed, Verified: verified, ToVerify: wait, Durable: transferred,
					SourceWait: time.Duration(wait), TargetWait: time.Duration(wait), ThrottleWait: time.Duration(wait),
					Elapsed: time.Duration(wait / 8 * n),
				}), now)
			}
			r := b.Report(now, false)
			text, err := json.Marshal(r)
			if err != nil {
				t.Fatal(err)
			}
			if transferred >= 0 && skipped >= 0 && (r.BytesTransferred < 0 || r.BytesSkipped < 0) {
				t.Errorf("a sum began again below zero: %s", text)
			}
			if p := r.OverallPercent; p < 0 || p > 100 {
				t.Errorf("%v %%", p)
			}
			now = now.Add(tickTime)
		}
	})
}

func TestDisksThatAreLookedAtAtTheSameMomentAllCount(t *testing.T) {
	start := time.Unix(1e9, 0)
	b := report.NewBuilder(runningTwo(t, start), nil)
	now := start
	for i := range int64(20) {
		now = start.Add(time.Duration(i) * time.Second)
		for _, id := range []job.DiskID{"disk-2000", "disk-2001"} {
			b.Observe(onDisk(id, 1, job.Counters{Transferred: i * mib}), now)
		}
	}
	r := b.Report(now, false)
	if *r.BytesPerSecond != 2*mib || *r.Disks[0].BytesPerSecond != mib || *r.BytesPerSecondAverage != 2*mib {
		t.Errorf("%.0f, disk %.0f, average %.0f", *r.BytesPerSecond, *r.Disks[0].BytesPerSecond,
			*r.BytesPerSecondAverage)
	}
}
