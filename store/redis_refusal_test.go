package store_test

import (
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
	"github.com/vmferry/vmferry/store"
)

// rights are what the documentation gives to vmferry's user in Redis.
var rights = []string{
	"~vmferry:v1:*", "&vmferry:v1:*", "+hello", "+auth", "+select", "+ping", "+evalsha", "+script|load", "+hmget",
	"+hset", "+xadd", "+xrevrange", "+zadd", "+zrem", "+zremrangebyrank", "+pexpire", "+persist", "+publish", "+del",
}

// user makes a Redis user, and opens a projection as that user.
func (s *redisServer) user(tb testing.TB, rules ...string) *store.Redis {
	tb.Helper()
	args := []any{"ACL", "SETUSER", "ferry", "reset", "on", ">sesame"}
	for _, r := range rules {
		args = append(args, r)
	}
	must(tb, s.client.Do(tb.Context(), args...).Err())
	return openRedis(tb, store.RedisConfig{
		URL: "unix://ferry@" + s.socket, PasswordFile: passwordFile(tb, "sesame"),
	})
}

func TestAUserWithTheDocumentedRightsCanDoAllThatIsDone(t *testing.T) {
	s := startRedis(t)
	r := s.user(t, rights...)
	publish(t, r, reportOf("a", 1, 1), reportOf("a", 1, 2), ended(reportOf("b", 1, 3)))
	publish(t, r, reportOf("a", 1, 2), reportOf("a", 1, 1))
	must(t, r.Erase(t.Context(), []report.Deleted{{JobID: "b", Epoch: 1, Seq: 4, At: noon()}}))
	before := s.dump(t)
	note, err := r.Try(t.Context())
	must(t, err)
	if note == "" {
		t.Error("it is not said that transactions are not allowed")
	}
	if after := s.dump(t); len(after) != len(before) {
		t.Errorf("the trial left keys: %v", after)
	}
	r = s.user(t, append(rights, "+multi")...)
	if note, err := r.Try(t.Context()); err != nil || note != "" {
		t.Errorf("%q, %v", note, err)
	}
	publish(t, r, reportOf("a", 1, 5)) // no connection is in a transaction
}

func TestARefusalIsSteadyAndNamesTheCommandAndTheKey(t *testing.T) {
	without := func(right string, more ...string) []string {
		var out []string
		for _, r := range rights {
			if r != right {
				out = append(out, r)
			}
		}
		return append(out, more...)
	}
	for _, tc := range []struct {
		name  string
		rules []string
		words string
	}{
		{"no publishing", without("+publish"), "PUBLISH vmferry:v1:events: "},
		{"not on all channels", without("&vmferry:v1:*", "&vmferry:v1:events"), "PUBLISH vmferry:v1:events:*: "},
		{"no streams", without("+xadd"), "XADD vmferry:v1:{*}:events: "},
		{"no lists", without("+zadd"), "ZADD vmferry:v1:jobs:active: "},
		{"no expiry", without("+persist"), "PERSIST vmferry:v1:{*}:events: "},
		{"no hash", without("+hset"), "HSET vmferry:v1:{*}:snap: "},
		{"no scripts", without("+evalsha"), "evalsha"},
		{"no loading", without("+script|load"), "SCRIPT LOAD: "},
		{"other keys", without("~vmferry:v1:*", "~vmferry:v1:{*"), "keys"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := startRedis(t)
			r := s.user(t, tc.rules...)
			first := r.Publish(t.Context(), []report.Report{reportOf("a", 1, 1)})
			for _, reports := range [][]report.Report{
				{reportOf("a", 1, 1)},
				{reportOf("a", 1, 1)},
				{reportOf("a", 1, 2)},
				{reportOf("a", 1, 2)},
				{reportOf("b", 1, 3)},
				{reportOf("a", 1, 2), reportOf("b", 1, 3)},
			} {
				err := r.Publish(t.Context(), reports)
				wantKind(t, err, job.Permission)
				if err.Error() != first.Error() || !strings.Contains(err.Error(), tc.words) ||
					!strings.Contains(job.NextOf(err), "ACL SETUSER ferry ~vmferry:v1:*") {
					t.Errorf("%q, first %q, next %q", err, first, job.NextOf(err))
				}
			}
			_, err := r.Try(t.Context())
			wantKind(t, err, job.Permission)
			r = s.user(t, append(tc.rules, "+multi")...)
			_, err = r.Try(t.Context())
			wantKind(t, err, job.Permission)
			if !strings.Contains(err.Error(), tc.words) {
				t.Errorf("the trial says %q", err)
			}
			r = s.user(t, rights...)
			publish(t, r, reportOf("a", 1, 2), reportOf("b", 1, 3))
			got, ok := redisStored(s.client)(t, "a")
			if !ok || got.Seq != 2 {
				t.Errorf("after the right was given: %v, %+v", ok, got.Version())
			}
		})
	}
}

func TestAReplicaAFullRedisAndAClusterAreRefusedInWords(t *testing.T) {
	s := startRedis(t)
	r := s.open(t)
	must(t, s.client.ReplicaOf(t.Context(), "127.0.0.1", "1").Err())
	for range 3 {
		err := r.Publish(t.Context(), []report.Report{reportOf("a", 1, 1)})
		wantKind(t, err, job.Unavailable)
		if !strings.Contains(err.Error(), "READONLY") || !strings.Contains(job.NextOf(err), "redis.sentinels") {
			t.Errorf("%q, next %q", err, job.NextOf(err))
		}
		_, err = r.Try(t.Context())
		wantKind(t, err, job.Unavailable)
	}
	must(t, s.client.ReplicaOf(t.Context(), "NO", "ONE").Err())
	must(t, s.client.ConfigSet(t.Context(), "maxmemory", "1").Err())
	_, err := r.Try(t.Context())
	wantKind(t, err, job.Unavailable)
	if !strings.Contains(job.NextOf(err), "maxmemory") {
		t.Errorf("%q, next %q", err, job.NextOf(err))
	}
	cluster := &redisServer{port: freePort(t)}
	cluster.start(t, "--cluster-enabled", "yes")
	c := redis.NewClient(&redis.Options{Addr: cluster.address()})
	defer c.Close()
	defer cluster.kill(t)
	r = openRedis(t, store.RedisConfig{URL: "redis://" + cluster.address()})
	for _, slots := range []bool{false, true} {
		if slots {
			must(t, c.Do(t.Context(), "CLUSTER", "ADDSLOTSRANGE", 0, 16383).Err())
			waitFor(t, "the cluster", func() bool {
				return strings.Contains(c.ClusterInfo(t.Context()).Val(), "cluster_state:ok")
			})
		}
		for _, err := range []error{
			r.Publish(t.Context(), []report.Report{reportOf("a", 1, 1)}),
			second(r.Try(t.Context())),
		} {
			wantKind(t, err, job.Unsupported)
			if !strings.Contains(job.NextOf(err), "without cluster mode") {
				t.Errorf("%q, next %q", err, job.NextOf(err))
			}
		}
	}
}

func second(_ string, err error) error { return err }

// waitFor waits for a condition, with a limit for a machine that is very busy.
func waitFor(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	for began := time.Now(); !ok(); <-time.After(20 * time.Millisecond) {
		if time.Since(began) > time.Minute {
			tb.Fatalf("waited too long for %s", what)
		}
	}
}

func TestADeletedJobLeavesAMarkAndNothingElse(t *testing.T) {
	s := startRedis(t)
	r, ctx := s.open(t), t.Context()
	publish(t, r, ended(reportOf("a", 7, 1)), reportOf("b", 7, 2))
	sub := s.client.Subscribe(ctx, "vmferry:v1:events", "vmferry:v1:events:a")
	defer sub.Close()
	for range 2 {
		_, err := sub.Receive(ctx)
		must(t, err)
	}
	gone := []report.Deleted{{JobID: "a", Epoch: 7, Seq: 3, At: noon()}}
	must(t, r.Erase(ctx, gone))
	must(t, r.Erase(ctx, gone))
	publish(t, r, ended(reportOf("a", 7, 1))) // a late one
	const mark = `{"job_id":"a","deleted":true,"epoch":7,"seq":3,"deleted_at":"2026-03-01T12:00:00Z"}`
	want := map[string]bool{
		"vmferry:v1:{a}:events": true, "vmferry:v1:{b}:events": true, "vmferry:v1:{b}:snap": true,
		"vmferry:v1:jobs:active": true,
	}
	got := s.dump(t)
	for key := range got {
		if !want[key] {
			t.Errorf("%s is left", key)
		}
	}
	stream := s.client.XRange(ctx, "vmferry:v1:{a}:events", "-", "+").Val()
	if len(got) != len(want) || len(stream) != 1 || stream[0].ID != "7-3" || stream[0].Values["data"] != mark {
		t.Errorf("keys %d, stream %v", len(got), stream)
	}
	if n := s.client.PTTL(ctx, "vmferry:v1:{a}:events").Val(); n <= 0 || n > time.Hour {
		t.Errorf("the mark expires in %v", n)
	}
	for range 2 { // once for each channel
		m, err := sub.ReceiveMessage(ctx)
		must(t, err)
		if m.Payload != mark {
			t.Errorf("channel %s sent %s", m.Channel, m.Payload)
		}
	}
	publish(t, r, reportOf("a", 8, 1)) // a new job of the same id
	must(t, r.Erase(ctx, gone))        // which comes too late
	if got, ok := redisStored(s.client)(t, "a"); !ok || got.Epoch != 8 {
		t.Errorf("the new job is %v, %+v", ok, got.Version())
	}
	if n := s.client.PTTL(ctx, "vmferry:v1:{a}:events").Val(); n != -1 {
		t.Errorf("the new job's stream expires in %v", n)
	}
	wantKind(t, r.Erase(ctx, []report.Deleted{{JobID: "a"}}), job.Invalid)
}
