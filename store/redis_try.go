package store

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
)

// Try does what Publish and Erase do, with their scripts, for a job of a name of its own, and removes it. Before that
// it asks for each command whether the user may run it on the keys and channels of real jobs, without running it: where
// the user may use MULTI. It waits for each answer as Publish does. note tells what could not be tried; "" if all was.
// Errors are those of Publish; there may be several in one.
func (r *Redis) Try(ctx context.Context) (note string, err error) {
	const op = "try Redis"
	if err := r.Ping(ctx); err != nil {
		return "", err
	}
	if text, err := r.client.ClusterInfo(ctx).Result(); err == nil { // else it is none, or the user may not ask
		state, _, _ := strings.Cut(text, "\r\n")
		return "", job.Errorf(op, job.Unsupported,
			"Use a Redis without cluster mode, alone or with Sentinels (redis.sentinels)",
			"it is a cluster (%s)", state)
	}
	id := job.ID("doctor-" + rand.Text())
	publish, erase, err := trial(id)
	if err != nil {
		return "", err
	}
	asked, refused, err := r.mayRun(ctx, id)
	if err != nil {
		return "", r.failure(ctx, op, err)
	}
	if len(refused) > 0 {
		return "", r.allRefused(ctx, op, refused)
	}
	if !asked {
		note = "the user may not use MULTI, so the rights were tried with a test job only"
	}
	_, err = r.send(ctx, r.publishes, []call{publish})
	if err == nil {
		_, err = r.send(ctx, r.erases, []call{erase})
	}
	if err != nil {
		err = r.failure(ctx, op, err)
	}
	return note, errors.Join(err, r.remove(ctx, publish.keys))
}

// trial makes the calls for a job that no other program sees: it is published to lists and a channel of its own. To
// erase it from the real lists changes nothing there.
func trial(id job.ID) (publish, erase call, err error) {
	now := time.Now().UTC()
	publish, err = newCall(report.Report{JobID: id, Epoch: 1, Seq: 1, ObservedAt: now, CreatedAt: now, EndedAt: &now})
	if err != nil {
		return call{}, call{}, err
	}
	erase, err = newErase(report.Deleted{JobID: id, Epoch: 1, Seq: 2, At: now})
	if err != nil {
		return call{}, call{}, err
	}
	publish.keys[2], publish.keys[3] = keySnap(id)+":active", keySnap(id)+":recent"
	publish.args[7], erase.args[5] = channelEvent(id), channelEvent(id) // no program listens there
	return publish, erase, nil
}

// remove deletes the keys of a trial. A user that may not even do that has not made them.
func (r *Redis) remove(ctx context.Context, keys []string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), redisAnswer)
	defer cancel()
	err := r.client.Del(ctx, keys...).Err()
	if err == nil || isReply(err) {
		return nil
	}
	return r.failure(ctx, "remove the test keys from Redis", err)
}

// mayRun queues each command of the scripts in a transaction, which checks the user's rights to it, and drops the
// transaction with its connection. asked is false if the user may not use transactions.
func (r *Redis) mayRun(ctx context.Context, id job.ID) (asked bool, refused []error, err error) {
	ctx, cancel := context.WithTimeout(ctx, redisAnswer)
	defer cancel()
	opt := *r.client.Options()
	opt.PoolSize = 1
	client := redis.NewClient(&opt) // of its own: no other may get the connection with an open transaction
	defer func() { err = errors.Join(err, client.Close()) }()
	conn := client.Conn()
	if err := conn.Do(ctx, "MULTI").Err(); err != nil {
		if isReply(err) {
			err = nil
		}
		return false, nil, err
	}
	for _, c := range r.commands(id) {
		err := conn.Do(ctx, c...).Err()
		if err != nil && !isReply(err) {
			return true, nil, err
		}
		if err != nil {
			refused = append(refused, fmt.Errorf("%w [%s %s]", err, c[0], c[1]))
		}
	}
	return true, refused, nil
}

// commands are those of the scripts, with the keys and channels of a real job.
func (r *Redis) commands(id job.ID) [][]any {
	snap, events := keySnap(id), keyEvents(id)
	return [][]any{
		{"SCRIPT", "LOAD", ""},
		{"EVALSHA", r.publishes.Hash(), 4, snap, events, keyActive, keyRecent},
		{"HMGET", snap, "epoch", "seq"},
		{"XADD", events, "MAXLEN", "~", streamEntries, "1-1", "data", ""},
		{"XREVRANGE", events, "+", "-", "COUNT", 1},
		{"ZREM", keyActive, string(id)},
		{"ZADD", keyActive, 1, string(id)},
		{"ZREM", keyRecent, string(id)},
		{"ZADD", keyRecent, 1, string(id)},
		{"ZREMRANGEBYRANK", keyRecent, 0, -1 - endedJobs},
		{"PEXPIRE", events, 1},
		{"PEXPIRE", snap, 1},
		{"PERSIST", events},
		{"PERSIST", snap},
		{"PUBLISH", channelEvents, ""},
		{"PUBLISH", channelEvent(id), ""},
		{"HSET", snap, "epoch", "1"},
		{"DEL", snap},
		{"EVALSHA", r.confirms.Hash(), 1, keyDaemon},
		{"HSET", keyDaemon, "at", ""},
		{"PEXPIRE", keyDaemon, 1},
		{"DEL", keyDaemon},
	}
}

// allRefused makes one error of several refusals. The first gives the kind and the next step.
func (r *Redis) allRefused(ctx context.Context, op string, refused []error) error {
	var first *job.Error
	var texts []string
	for _, err := range refused {
		if e, ok := errors.AsType[*job.Error](r.failure(ctx, op, err)); ok {
			if first == nil {
				first = e
			}
			texts = append(texts, e.Err.Error())
		}
	}
	return &job.Error{Op: op, Kind: first.Kind, Next: first.Next, Err: &saidError{
		strings.Join(texts, "; "),
		errors.Join(refused...),
	}}
}
