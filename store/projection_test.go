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
	"github.com/vmferry/vmferry/report"
	"github.com/vmferry/vmferry/store"
)

// projection is the method that all projections share.
type projection interface {
	Publish(ctx context.Context, reports []report.Report) error
}

// stored reads the newest report of a job; false if there is none.
type stored func(tb testing.TB, id job.ID) (report.Report, bool)

// redisStored reads the hash's JSON and checks that its flat fields agree.
func redisStored(client *redis.Client) stored {
	return func(tb testing.TB, id job.ID) (report.Report, bool) {
		tb.Helper()
		hash, err := client.HGetAll(tb.Context(), "vmferry:v1:{"+string(id)+"}:snap").Result()
		must(tb, err)
		if len(hash) == 0 {
			return report.Report{}, false
		}
		var r report.Report
		must(tb, json.Unmarshal([]byte(hash["json"]), &r))
		if got := hash["epoch"] + "-" + hash["seq"]; got != r.Version().String() {
			tb.Errorf("job %s: the fields have version %s, the JSON has %s", id, got, r.Version())
		}
		if hash["status"] != string(r.Status) || hash["phase"] != string(r.Phase) {
			tb.Errorf("job %s: the fields have %s/%s, the JSON has %s/%s", id, hash["status"], hash["phase"], r.Status,
				r.Phase)
		}
		return r, true
	}
}

func TestMemoryIsAProjection(t *testing.T) {
	conform(t, func(*testing.T) (projection, stored) {
		m := store.NewMemory()
		return m, func(tb testing.TB, id job.ID) (report.Report, bool) {
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

// conform checks what every projection must do with reports.
func conform(t *testing.T, open func(t *testing.T) (projection, stored)) {
	t.Helper()
	external := reportOf("job-20250925-134230.513-8034ee", 3, 9)
	external.Origin, external.Disks = report.External, []report.Disk{}
	unset := reportOf("a", 2, 1)
	unset.Percent, unset.BytesCapacity, unset.Health = nil, nil, []report.Health{}
	tests := []struct {
		name    string
		batches [][]report.Report
		want    []report.Report
	}{
		{"nothing", [][]report.Report{{}, nil}, nil},
		{
			"the newest wins",
			[][]report.Report{{reportOf("a", 1, 1), reportOf("a", 1, 2)}, {reportOf("a", 1, 3)}},
			[]report.Report{reportOf("a", 1, 3)},
		},
		{
			"a stale one changes nothing",
			[][]report.Report{{reportOf("a", 1, 5)}, {ended(reportOf("a", 1, 4))}},
			[]report.Report{reportOf("a", 1, 5)},
		},
		{
			"a stale epoch changes nothing",
			[][]report.Report{{reportOf("a", 2, 1)}, {reportOf("a", 1, 100)}},
			[]report.Report{reportOf("a", 2, 1)},
		},
		{
			"a new epoch starts at a low seq",
			[][]report.Report{{reportOf("a", 1, 100)}, {reportOf("a", 2, 1)}},
			[]report.Report{reportOf("a", 2, 1)},
		},
		{
			"a repeat is harmless",
			[][]report.Report{{reportOf("a", 1, 5)}, {reportOf("a", 1, 5)}, {reportOf("a", 1, 5)}},
			[]report.Report{reportOf("a", 1, 5)},
		},
		{
			"a stale one in a batch does not stop the rest",
			[][]report.Report{{reportOf("a", 1, 5)}, {reportOf("a", 1, 4), reportOf("b", 1, 6)}},
			[]report.Report{reportOf("a", 1, 5), reportOf("b", 1, 6)},
		},
		{
			"jobs have versions of their own",
			[][]report.Report{{reportOf("a", 1, 5)}, {reportOf("b", 1, 4)}},
			[]report.Report{reportOf("a", 1, 5), reportOf("b", 1, 4)},
		},
		{
			"an ended job",
			[][]report.Report{{reportOf("a", 1, 1)}, {ended(reportOf("a", 1, 2))}},
			[]report.Report{ended(reportOf("a", 1, 2))},
		},
		{
			"an ended job that is active again",
			[][]report.Report{{ended(reportOf("a", 1, 2))}, {reportOf("a", 1, 3)}},
			[]report.Report{reportOf("a", 1, 3)},
		},
		{"another tool's job", [][]report.Report{{external}}, []report.Report{external}},
		{"values become unknown", [][]report.Report{{reportOf("a", 1, 1)}, {unset}}, []report.Report{unset}},
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
			if _, ok := read(t, "unknown"); ok {
				t.Error("there is a report of a job that was never published")
			}
		})
	}
	t.Run("more than one pipeline", func(t *testing.T) {
		p, read := open(t)
		var all []report.Report
		for seq := range int64(200) {
			all = append(all, reportOf(job.ID("job-"+string(rune('a'+seq%26))), 1, seq+1))
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

// shortDir is a directory for sockets: the paths of t.TempDir are too long for them.
func shortDir(tb testing.TB) string {
	tb.Helper()
	dir, err := os.MkdirTemp("", "vmf") //nolint:usetesting // a socket's path has at most 108 bytes
	must(tb, err)
	tb.Cleanup(func() { must(tb, os.RemoveAll(dir)) })
	return dir
}
