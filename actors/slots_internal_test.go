package actors

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/vmferry/vmferry/job"
)

// queue asks for leases one after the other and tells which were granted.
type queue struct {
	t      *testing.T
	slots  *slots
	leases []*lease
	got    []bool
}

func (q *queue) ask(l *lease) {
	i := len(q.leases)
	q.leases, q.got = append(q.leases, l), append(q.got, false)
	go func() {
		if _, err := q.slots.acquire(q.t.Context(), l); err == nil {
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
		q := &queue{t: t, slots: newSlots(job.Limits{Jobs: 1, HostDisks: 2, Disks: 4})}
		for _, host := range []string{"a", "a", "a", "b", "a", "b"} {
			q.ask(&lease{job: "j", host: host, connections: 1})
		}
		q.want("xx.x.x") // the fourth of the node is the second of b
		if why := q.slots.waits(q.leases[2]); !strings.Contains(why, "limits.disks") {
			t.Errorf("it says %q", why)
		}
		q.slots.release(q.leases[3])
		q.want("xx.x.x") // a is full, whoever else leaves
		if why := q.slots.waits(q.leases[2]); !strings.Contains(why, "disks_per_host") {
			t.Errorf("it says %q", why)
		}
		q.slots.release(q.leases[0])
		q.want("xxxx.x") // the first that waited
		l := q.slots.get()
		l.HostDisks = 0
		q.slots.set(l)
		q.want("xxxxxx")
		if why := q.slots.waits(q.leases[4]); why != "" {
			t.Errorf("it says %q", why)
		}
		if u := q.slots.use(); len(u) != 2 || u[0].Host != "a" || u[0].Disks != 3 || u[1].Waiting != 0 {
			t.Errorf("in use: %+v", u)
		}
	})
}

func TestConnectionsOfAHostAndDisksOfAJobAreLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		most := 1
		q := &queue{t: t, slots: newSlots(job.Limits{Jobs: 1, HostConnections: 6})}
		q.ask(&lease{job: "one", host: "a", connections: 4})
		q.ask(&lease{job: "two", host: "a", connections: 4})
		q.ask(&lease{job: "three", host: "a", connections: 1}) // would fit, but nobody overtakes
		q.want("x..")
		q.ask(&lease{job: "four", host: "b", connections: 8, jobDisks: func() int { return most }}) // alone it may
		q.ask(&lease{job: "four", host: "c", connections: 1, jobDisks: func() int { return most }})
		q.want("x..x.")
		most = 0
		q.slots.again()
		q.want("x..xx")
		q.slots.release(q.leases[0])
		q.want("xxxxx")
	})
}

func TestWhoGivesUpWaitingIsInNobodysWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSlots(job.Limits{Jobs: 1, Disks: 1})
		first := &lease{job: "a"}
		if _, err := s.acquire(t.Context(), first); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		gone := make(chan error)
		go func() {
			_, err := s.acquire(ctx, &lease{job: "b"})
			gone <- err
		}()
		synctest.Wait()
		cancel()
		if err := <-gone; job.KindOf(err) != job.Cancelled {
			t.Errorf("it ends with %v", err)
		}
		s.release(first)
		if _, err := s.acquire(t.Context(), &lease{job: "c"}); err != nil {
			t.Error(err)
		}
	})
}
