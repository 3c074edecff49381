package store_test

import (
	"context"
	"encoding/json"
	"os"
	"testing"

	"github.com/alicebob/miniredis/v2"
	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/store"
)

// projection is what all projections have in common.
type projection interface {
	Publish(ctx context.Context, reports []job.Report) error
}

// stored reads the newest report of a job; false if there is none.
type stored func(tb testing.TB, id job.ID) (job.Report, bool)

// redisStored reads the hash's JSON and checks that its flat fields agree.
func redisStored(client *redis.Client) stored {
	return func(tb testing.TB, id job.ID) (job.Report, bool) {
		tb.Helper()
		hash, err := client.HGetAll(tb.Context(), "vmferry:v1:{"+string(id)+"}:snap").Result()
		must(tb, err)
		if len(hash) == 0 {
			return job.Report{}, false
		}
		var r job.Report
		must(tb, json.Unmarshal([]byte(hash["json"]), &r))
		if got := hash["epoch"] + "-" + hash["seq"]; got != r.Version().String() {
			tb.Errorf("job %s: fields say %s, JSON says %s", id, got, r.Version())
		}
		if hash["status"] != string(r.Status) || hash["phase"] != string(r.Phase) {
			tb.Errorf("job %s: fields say %s/%s, JSON says %s/%s", id, hash["status"], hash["phase"], r.Status, r.Phase)
		}
		return r, true
	}
}

func TestMemoryIsAProjection(t *testing.T) {
	conform(t, func(*testing.T) (projection, stored) {
		m := store.NewMemory()
		return m, func(tb testing.TB, id job.ID) (job.Report, bool) {
			tb.Helper()
			r, err := m.Report(tb.Context(), id)
			return r, err == nil
		}
	})
}

func TestRedisIsAProjection(t *testing.T) {
	server := startRedis(t)
	conform(t, func(t *testing.T) (projection, stored) {
		t.Helper()
		must(t, server.client.FlushAll(t.Context()).Err())
		return server.open(t), redisStored(server.client)
	})
}

func TestRedisIsAProjectionOnMiniredis(t *testing.T) {
	conform(t, func(t *testing.T) (projection, stored) {
		t.Helper()
		s := miniredis.RunT(t)
		client := redis.NewClient(&redis.Options{Addr: s.Addr()})
		t.Cleanup(func() { must(t, client.Close()) })
		return openRedis(t, store.RedisConfig{URL: "redis://" + s.Addr()}), redisStored(client)
	})
}

// conform is what every projection does with reports.
func conform(t *testing.T, open func(t *testing.T) (projection, stored)) {
	t.Helper()
	external := report("job-20250925-134230.513-8034ee", 3, 9)
	external.Origin, external.Disks = job.External, []job.ReportDisk{}
	unset := report("a", 2, 1)
	unset.Percent, unset.BytesCapacity, unset.Health = nil, nil, []job.Health{}
	tests := []struct {
		name    string
		batches [][]job.Report
		want    []job.Report
	}{
		{"nothing", [][]job.Report{{}, nil}, nil},
		{"the newest wins", [][]job.Report{{report("a", 1, 1), report("a", 1, 2)}, {report("a", 1, 3)}},
			[]job.Report{report("a", 1, 3)}},
		{"a stale one changes nothing", [][]job.Report{{report("a", 1, 5)}, {ended(report("a", 1, 4))}},
			[]job.Report{report("a", 1, 5)}},
		{"a stale epoch changes nothing", [][]job.Report{{report("a", 2, 1)}, {report("a", 1, 100)}},
			[]job.Report{report("a", 2, 1)}},
		{"a new epoch starts at a low seq", [][]job.Report{{report("a", 1, 100)}, {report("a", 2, 1)}},
			[]job.Report{report("a", 2, 1)}},
		{"a repeat is harmless", [][]job.Report{{report("a", 1, 5)}, {report("a", 1, 5)}, {report("a", 1, 5)}},
			[]job.Report{report("a", 1, 5)}},
		{"a stale one in a batch does not stop the rest",
			[][]job.Report{{report("a", 1, 5)}, {report("a", 1, 4), report("b", 1, 6)}},
			[]job.Report{report("a", 1, 5), report("b", 1, 6)}},
		{"jobs have versions of their own", [][]job.Report{{report("a", 1, 5)}, {report("b", 1, 4)}},
			[]job.Report{report("a", 1, 5), report("b", 1, 4)}},
		{"an ended job", [][]job.Report{{report("a", 1, 1)}, {ended(report("a", 1, 2))}},
			[]job.Report{ended(report("a", 1, 2))}},
		{"an ended job that goes on", [][]job.Report{{ended(report("a", 1, 2))}, {report("a", 1, 3)}},
			[]job.Report{report("a", 1, 3)}},
		{"another tool's job", [][]job.Report{{external}}, []job.Report{external}},
		{"values become unknown", [][]job.Report{{report("a", 1, 1)}, {unset}}, []job.Report{unset}},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			p, read := open(t)
			for _, batch := range tc.batches {
				publish(t, p, batch...)
			}
			for _, want := range tc.want {
				got, ok := read(t, want.JobID)
				if diff := cmp.Diff(want, got); !ok || diff != "" {
					t.Errorf("report of %s (-want +got):\n%s", want.JobID, diff)
				}
			}
			if _, ok := read(t, "nobody"); ok {
				t.Error("there is a report of nobody")
			}
		})
	}
	t.Run("more than one pipeline", func(t *testing.T) {
		p, read := open(t)
		var all []job.Report
		for seq := range int64(200) {
			all = append(all, report(job.ID("job-"+string(rune('a'+seq%26))), 1, seq+1))
		}
		publish(t, p, all...)
		if got, _ := read(t, "job-r"); got.Seq != 200 {
			t.Errorf("job-r is at seq %d, want 200", got.Seq)
		}
	})
}

func openRedis(tb testing.TB, cfg store.RedisConfig) *store.Redis {
	tb.Helper()
	r, err := store.OpenRedis(cfg)
	must(tb, err)
	tb.Cleanup(func() { must(tb, r.Close()) })
	return r
}

// shortDir is for sockets: the paths of t.TempDir are too long for them.
func shortDir(tb testing.TB) string {
	tb.Helper()
	dir, err := os.MkdirTemp("", "vmf") //nolint:usetesting // a socket's path has at most 108 bytes
	must(tb, err)
	tb.Cleanup(func() { must(tb, os.RemoveAll(dir)) })
	return dir
}
