// follow_redis follows all jobs that vmferry writes to Redis, with github.com/redis/go-redis/v9.
//
//	REDIS_URL=redis://127.0.0.1:6379/0 go run main.go
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"
)

const lookEvery = 5 * time.Second

// change is a report, as far as this program reads it, or that a job was deleted.
type change struct {
	JobID            string  `json:"job_id"`
	Epoch            int64   `json:"epoch"`
	Seq              int64   `json:"seq"`
	Deleted          bool    `json:"deleted"`
	Status           string  `json:"status"`
	Phase            string  `json:"phase"`
	Round            int     `json:"round"`
	BytesTransferred int64   `json:"bytes_transferred"`
	OverallPercent   float64 `json:"overall_percent"`
	Phases           []stay  `json:"phases"`
}

type stay struct {
	Name      string    `json:"name"`
	Round     int       `json:"round"`
	StartedAt time.Time `json:"started_at"`
}

type follower struct {
	store *redis.Client
	known map[string]change // the newest report of each job, or that it was deleted: what comes late changes nothing
	live  bool
}

func main() {
	opt, err := redis.ParseURL(cmp.Or(os.Getenv("REDIS_URL"), "redis://127.0.0.1:6379/0"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	f := follower{store: redis.NewClient(opt), known: map[string]change{}}
	f.follow(context.Background())
}

// follow never ends. The channel connects and subscribes again by itself; each time it says so with a Subscription.
func (f *follower) follow(ctx context.Context) {
	channel := f.store.Subscribe(ctx, "vmferry:v1:events")
	defer func() { _ = channel.Close() }()
	var looked time.Time
	for {
		got, err := channel.ReceiveTimeout(ctx, time.Second)
		var timeout net.Error
		if errors.As(err, &timeout) && timeout.Timeout() {
			err = nil // nothing came
		}
		switch m := got.(type) {
		case *redis.Subscription:
			looked = time.Time{}
		case *redis.Message:
			err = f.read(m.Payload)
		}
		if err == nil && time.Since(looked) >= lookEvery {
			err = f.look(ctx)
			looked = time.Now()
		}
		if err != nil {
			f.mark(false, err)
			looked = time.Time{}
			<-time.After(time.Second)
		}
	}
}

// look takes the newest report of every job, and of the jobs that are known also what was missed.
func (f *follower) look(ctx context.Context) error {
	whole, err := f.store.Exists(ctx, "vmferry:v1:daemon").Result() // first: the lists are at least as new
	if err != nil {
		return err
	}
	// At one moment, for a job may move between the lists.
	ids, err := f.store.ZUnion(ctx, redis.ZStore{
		Keys: []string{"vmferry:v1:jobs:active", "vmferry:v1:jobs:recent"},
	}).Result()
	if err != nil {
		return err
	}
	all := slices.Clone(ids)
	for id, old := range f.known {
		if !old.Deleted && !slices.Contains(ids, id) {
			all = append(all, id) // the stream of a deleted job says so
		}
	}
	if err := f.fetch(ctx, all); err != nil {
		return err
	}
	f.mark(whole == 1, errors.New("no daemon has written for 15 s, or Redis is being filled"))
	for id, old := range f.known {
		// Else Redis may have come back empty, and what is missing may only not be there yet.
		if whole == 1 && !old.Deleted && !slices.Contains(ids, id) {
			f.forget(old)
		}
	}
	return nil
}

// fetch takes the newest report of these jobs, and of those that are known what was missed before it.
func (f *follower) fetch(ctx context.Context, all []string) error {
	missed, newest := make([]*redis.XMessageSliceCmd, len(all)), make([]*redis.StringCmd, len(all))
	_, err := f.store.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, id := range all {
			after := "+"
			if old, had := f.known[id]; had {
				after = fmt.Sprintf("(%d-%d", old.Epoch, old.Seq)
			}
			missed[i] = p.XRange(ctx, "vmferry:v1:{"+id+"}:events", after, "+")
			newest[i] = p.HGet(ctx, "vmferry:v1:{"+id+"}:snap", "json")
		}
		return nil
	})
	if err != nil && !errors.Is(err, redis.Nil) { // Nil: a job has gone since
		return err
	}
	for i := range all {
		for _, entry := range missed[i].Val() {
			if err := f.read(fmt.Sprint(entry.Values["data"])); err != nil {
				return err
			}
		}
		if newest[i].Err() == nil {
			if err := f.read(newest[i].Val()); err != nil {
				return err
			}
		}
	}
	return nil
}

func (f *follower) read(text string) error {
	var c change
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		return err
	}
	f.take(c)
	return nil
}

// take takes a report, or that a job was deleted. What is not newer than what is known says nothing.
func (f *follower) take(c change) {
	old, had := f.known[c.JobID]
	if had && cmp.Or(cmp.Compare(c.Epoch, old.Epoch), cmp.Compare(c.Seq, old.Seq)) <= 0 {
		return
	}
	if c.Deleted {
		f.forget(c)
		return
	}
	for _, s := range c.Phases { // also those that began and ended while this program did not look
		if !slices.Contains(old.Phases, s) {
			fmt.Println(c.JobID, "entered", s.Name, s.Round)
		}
	}
	f.known[c.JobID] = c
	fmt.Println(c.JobID, c.Status, c.Phase, c.Round, c.BytesTransferred, c.OverallPercent)
}

func (f *follower) forget(c change) {
	if old, had := f.known[c.JobID]; had && !old.Deleted {
		fmt.Println(c.JobID, "deleted")
	}
	f.known[c.JobID] = change{JobID: c.JobID, Epoch: c.Epoch, Seq: c.Seq, Deleted: true}
}

// mark says when all that is shown becomes old, and when it is right again.
func (f *follower) mark(live bool, why error) {
	if live && !f.live {
		fmt.Fprintln(os.Stderr, "live")
	} else if f.live && !live {
		fmt.Fprintln(os.Stderr, "stale:", why)
	}
	f.live = live
}
