package transfer

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/vmferry/vmferry/job"
)

// queue asks for permits one after the other and tells which were granted.
type queue struct {
	t       *testing.T
	permits *Permits
	asked   []*Permit
	got     []bool
}

func (q *queue) ask(l *Permit) {
	i := len(q.asked)
	q.asked, q.got = append(q.asked, l), append(q.got, false)
	go func() {
		if _, err := q.permits.Acquire(q.t.Context(), l); err == nil {
			q.got[i] = true
		}
	}()
	synctest.Wait()
}

func (q *queue) want(granted string) {
	q.t.Helper()
	synctest.Wait()
	var now strings.Builder
	for _, g := range q.got {
		now.WriteString(map[bool]string{true: "x", false: "."}[g])
	}
	if now.String() != granted {
		q.t.Errorf("granted are %s, want %s", &now, granted)
	}
}

func TestDisksWaitForTheirHostAndForNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &queue{t: t, permits: NewPermits(job.Limits{Jobs: 1, HostDisks: 2, Disks: 4})}
		for _, host := range []string{"a", "a", "a", "b", "a", "b"} {
			q.ask(&Permit{Job: "j", Host: host, Connections: 1})
		}
		q.want("xx.x.x") // the fourth of the node is the second of b
		if why := q.permits.Waits(q.asked[2]); !strings.Contains(why, "limits.disks") {
			t.Errorf("it says %q", why)
		}
		q.permits.Release(q.asked[3])
		q.want("xx.x.x") // a is full, whichever other disk ends
		if why := q.permits.Waits(q.asked[2]); !strings.Contains(why, "disks_per_host") {
			t.Errorf("it says %q", why)
		}
		q.permits.Release(q.asked[0])
		q.want("xxxx.x") // the first that waited
		l, _ := q.permits.Limits()
		l.HostDisks = 0
		q.permits.SetLimits(l)
		q.want("xxxxxx")
		if why := q.permits.Waits(q.asked[4]); why != "" {
			t.Errorf("it says %q", why)
		}
		if _, u := q.permits.Limits(); len(u) != 2 || u[0].Host != "a" || u[0].Disks != 3 || u[1].Waiting != 0 {
			t.Errorf("in use: %+v", u)
		}
	})
}

func TestConnectionsOfAHostAndDisksOfAJobAreLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one := job.TransferLimits{Disks: 1}
		q := &queue{t: t, permits: NewPermits(job.Limits{Jobs: 1, HostConnections: 6})}
		q.ask(&Permit{Job: "one", Host: "a", Connections: 4})
		q.ask(&Permit{Job: "two", Host: "a", Connections: 4})
		q.ask(&Permit{Job: "three", Host: "a", Connections: 1}) // would fit, but none of a host overtakes
		q.want("x..")
		q.ask(&Permit{Job: "four", Host: "b", Connections: 8, Limits: one}) // alone it may
		q.ask(&Permit{Job: "four", Host: "c", Connections: 1, Limits: one})
		q.want("x..x.")
		q.permits.LimitJob("four", job.TransferLimits{})
		q.want("x..xx")
		q.permits.Release(q.asked[0])
		q.want("xxxxx")
	})
}

func TestAnAttemptThatGivesUpWaitingHoldsUpNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewPermits(job.Limits{Jobs: 1, Disks: 1})
		first := &Permit{Job: "a"}
		if _, err := s.Acquire(t.Context(), first); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		gone := make(chan error)
		go func() {
			_, err := s.Acquire(ctx, &Permit{Job: "b"})
			gone <- err
		}()
		synctest.Wait()
		cancel()
		if err := <-gone; job.KindOf(err) != job.Cancelled {
			t.Errorf("it ends with %v", err)
		}
		s.Release(first)
		if _, err := s.Acquire(t.Context(), &Permit{Job: "c"}); err != nil {
			t.Error(err)
		}
	})
}
