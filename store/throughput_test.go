package store_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
	"github.com/vmferry/vmferry/store"
)

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

// copying is a report of a job that copies.
func copying(id job.ID, seq int64, speed float64) report.Report {
	r := reportOf(id, 1, seq)
	r.Phase, r.Status, r.Origin, r.Round = job.Transfer, job.Running, report.Own, 2
	r.ObservedAt, r.BytesPerSecond, r.BytesTransferred = time.Now(), &speed, seq*1000
	r.Load = report.Load{Source: 0.4, Target: 0.2}
	return r
}

// followed is a Throughput in a synctest bubble, and the end of its goroutine.
func followed(t *testing.T, dir string, m *store.Memory) (th *store.Throughput, stop func()) {
	t.Helper()
	th = store.OpenThroughput(dir, discard(), time.Now)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		th.Follow(ctx, m)
	}()
	return th, func() {
		cancel()
		<-done
	}
}

// speedsOf are the speeds of samples; -1 for null.
func speedsOf(s report.Series) (out []float64) {
	for _, v := range s.Samples {
		if v.BytesPerSecond == nil {
			out = append(out, -1)
		} else {
			out = append(out, *v.BytesPerSecond)
		}
	}
	return out
}

func TestSpeedsAreKeptFinelyThenCoarselyAndOverARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir, m := t.TempDir(), store.NewMemory()
		th, stop := followed(t, dir, m)
		seq := int64(0)
		copy1 := func(seconds int, speed float64) {
			for range seconds {
				seq++
				publish(t, m, copying("a", seq, speed))
				<-time.After(time.Second)
			}
		}
		copy1(1200, 100e6)
		copy1(100, 200e6)
		synctest.Wait()
		last := copying("a", seq, 0)
		check := func(th *store.Throughput, when string) {
			t.Helper()
			fine := th.Job(&last, 15*time.Minute, 0)
			if fine.Step != time.Second || len(fine.Samples) < 898 || len(fine.Samples) > 901 {
				t.Errorf("%s: %d samples of %v", when, len(fine.Samples), fine.Step)
			}
			if v := fine.Samples[len(fine.Samples)-1]; *v.BytesPerSecond != 200e6 || v.Round != 2 ||
				v.BytesTransferred != seq*1000 || v.Load.Source != 0.4 || v.Load.Target != 0.2 {
				t.Errorf("%s: the newest sample is %+v", when, v)
			}
			coarse := th.Job(&last, time.Hour, 0)
			if n := len(coarse.Samples); coarse.Step != 10*time.Second || n < 130 || n > 132 {
				t.Errorf("%s: %d samples of %v", when, n, coarse.Step)
			}
			if v := *th.Job(&last, time.Hour, 5*time.Minute).Samples[0].BytesPerSecond; v != 100e6 {
				t.Errorf("%s: the mean of the first 5 min is %v", when, v)
			}
			if total := th.Total(time.Minute, 0).Samples; len(total) < 59 || total[0].Jobs != 1 ||
				*total[0].BytesPerSecond != 200e6 {
				t.Errorf("%s: the total has %d samples, the first %+v", when, len(total), total[0])
			}
		}
		check(th, "before")
		stop()
		again, stop := followed(t, dir, store.NewMemory())
		check(again, "after a restart")
		stop()
		other := last
		other.CreatedAt = last.CreatedAt.Add(time.Minute)
		if n := len(again.Job(&other, time.Hour, 0).Samples); n != 0 {
			t.Errorf("another job of that id has %d samples", n)
		}
	})
}

func TestATimeWithoutSamplesHasOneThatIsNull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := store.NewMemory()
		th, stop := followed(t, "", m)
		defer stop()
		for seq := range int64(5) {
			if seq == 3 {
				<-time.After(20 * time.Second) // paused
			}
			publish(t, m, copying("a", seq+1, 50e6))
			<-time.After(time.Second)
		}
		synctest.Wait()
		last := copying("a", 5, 0)
		got := fmt.Sprint(speedsOf(th.Job(&last, time.Minute, 0)))
		if want := fmt.Sprint([]float64{50e6, 50e6, 50e6, -1, 50e6, 50e6}); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	})
}

func TestExternalJobsTakeNoSamplesFromAJobOfThisNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir, m := t.TempDir(), store.NewMemory()
		th, stop := followed(t, dir, m)
		seq := int64(1)
		publish(t, m, copying("job-own", seq, 1e6))
		for range 3 {
			var all []report.Report
			for i := range 2000 {
				seq++
				r := copying(job.ID(fmt.Sprint("job-", i)), seq, 1e6)
				r.Origin = report.External
				all = append(all, r)
			}
			publish(t, m, all...)
			<-time.After(2 * time.Second)
		}
		synctest.Wait()
		samples := func(id job.ID, origin report.Origin) int {
			r := copying(id, seq, 0)
			r.Origin = origin
			n := 0
			for _, v := range th.Job(&r, time.Hour, 0).Samples {
				if v.Load != nil {
					n++
				}
			}
			return n
		}
		if n := samples("job-own", report.Own); n != 1 {
			t.Errorf("a job of this node has %d samples", n)
		}
		if n := samples("job-0", report.External); n != 3 {
			t.Errorf("an external job that came first has %d samples", n)
		}
		if n := samples("job-1999", report.External); n != 0 {
			t.Errorf("an external job for which there is no room has %d samples", n)
		}
		<-time.After(2 * time.Minute)
		r := copying("job-new", seq+1, 1e6)
		r.Origin = report.External
		publish(t, m, r)
		<-time.After(time.Second)
		if n := samples("job-new", report.External); n != 1 {
			t.Errorf("a new external job has %d samples while the others are silent", n)
		}
		stop()
		if files, _ := filepath.Glob(filepath.Join(dir, "jobs", "*")); len(files) != 1 {
			t.Errorf("there are files %v", files)
		}
	})
}

func TestAFileOfSpeedsThatIsDamagedLosesOnlyWhatIsDamaged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir, m := t.TempDir(), store.NewMemory()
		_, stop := followed(t, dir, m)
		for seq := range int64(60) {
			publish(t, m, copying("a", seq+1, 50e6))
			<-time.After(time.Second)
		}
		stop()
		last := copying("a", 60, 0)
		path := filepath.Join(dir, "jobs", "a.speeds")
		whole, err := os.ReadFile(path)
		must(t, err)
		for _, change := range []func(b []byte) []byte{
			func([]byte) []byte { return nil },
			func(b []byte) []byte { return b[:100] },
			func(b []byte) []byte { b[0] = 'x'; return b },
			func(b []byte) []byte {
				for i := 16; i < len(b); i += 56 { // each second slot
					b[i+20] ^= 1
				}
				return b
			},
		} {
			must(t, os.WriteFile(path, change(append([]byte{}, whole...)), 0o600))
			got := store.OpenThroughput(dir, discard(), time.Now).Job(&last, time.Minute, 0)
			for _, v := range got.Samples {
				if v.BytesPerSecond != nil && *v.BytesPerSecond != 50e6 {
					t.Errorf("a damaged sample is believed: %+v", v)
				}
			}
		}
	})
}

func TestADeletedJobLeavesNoSpeeds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir, m := t.TempDir(), store.NewMemory()
		_, stop := followed(t, dir, m)
		publish(t, m, copying("a", 1, 50e6))
		<-time.After(time.Minute)
		path := filepath.Join(dir, "jobs", "a.speeds")
		if _, err := os.Stat(path); err != nil {
			t.Fatal(err)
		}
		m.Forget(deletionOf("a", 1, 2))
		stop()
		if _, err := os.Stat(path); err == nil {
			t.Error("the file is still there")
		}
	})
}
