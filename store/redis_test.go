package store_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
	"github.com/vmferry/vmferry/store"
)

// redisServer is a real redis-server on a unix socket or a port. It stores nothing on disk.
type redisServer struct {
	socket string
	port   string
	tls    string // port for TLS; the others are closed then
	cmd    *exec.Cmd
	client *redis.Client // to read what is stored
}

func startRedis(tb testing.TB, more ...string) *redisServer {
	tb.Helper()
	need(tb, "redis-server")
	s := &redisServer{socket: filepath.Join(shortDir(tb), "redis.sock")}
	s.start(tb, more...)
	s.client = redis.NewClient(&redis.Options{Network: "unix", Addr: s.socket})
	tb.Cleanup(func() {
		must(tb, s.client.Close())
		s.kill(tb)
	})
	return s
}

func (s *redisServer) start(tb testing.TB, more ...string) {
	tb.Helper()
	port := orZero(s.port)
	var dir string
	if s.socket == "" {
		dir = shortDir(tb)
	} else {
		dir, more = filepath.Dir(s.socket), append(more, "--unixsocket", s.socket)
	}
	s.run(tb, "eady to accept connections", append([]string{
		"--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", dir,
	}, more...)...)
}

// run starts redis-server and waits until it prints a text.
func (s *redisServer) run(tb testing.TB, ready string, args ...string) {
	tb.Helper()
	s.cmd = exec.Command("redis-server", args...)
	out, err := s.cmd.StdoutPipe()
	must(tb, err)
	must(tb, s.cmd.Start())
	scan, printed := bufio.NewScanner(out), ""
	for scan.Scan() {
		printed += scan.Text() + "\n"
		if strings.Contains(scan.Text(), ready) {
			go func() {
				for scan.Scan() { // the server must not block on a full pipe
				}
			}()
			return
		}
	}
	tb.Fatalf("redis-server did not start:\n%s", printed)
}

func (s *redisServer) kill(tb testing.TB) {
	tb.Helper()
	must(tb, s.cmd.Process.Kill())
	_, err := s.cmd.Process.Wait()
	must(tb, err)
}

func (s *redisServer) open(tb testing.TB) *store.Redis {
	tb.Helper()
	return openRedis(tb, store.RedisConfig{URL: "unix://" + s.socket})
}

// dump returns all that is stored, without the lifetimes.
func (s *redisServer) dump(tb testing.TB) map[string]any {
	tb.Helper()
	ctx, out := tb.Context(), map[string]any{}
	keys, err := s.client.Keys(ctx, "*").Result()
	must(tb, err)
	for _, key := range keys {
		switch kind := s.client.Type(ctx, key).Val(); kind {
		case "hash":
			out[key] = s.client.HGetAll(ctx, key).Val()
		case "stream":
			out[key] = s.client.XRange(ctx, key, "-", "+").Val()
		case "zset":
			out[key] = s.client.ZRangeWithScores(ctx, key, 0, -1).Val()
		default:
			tb.Errorf("key %s is a %s", key, kind)
		}
	}
	return out
}

func TestKeysAndChannelsAreAsTheContractSays(t *testing.T) {
	s := startRedis(t)
	r, ctx := s.open(t), t.Context()
	sub := s.client.Subscribe(ctx, "vmferry:v1:events", "vmferry:v1:events:a")
	defer func() { must(t, sub.Close()) }()
	for range 2 {
		_, err := sub.Receive(ctx)
		must(t, err)
	}
	live, end := reportOf("a", 7, 1), ended(reportOf("a", 7, 2))
	publish(t, r, live)
	if n := s.client.PTTL(ctx, "vmferry:v1:{a}:snap").Val(); n != -1 {
		t.Errorf("a running job expires in %v", n)
	}
	if got := s.client.ZScore(ctx, "vmferry:v1:jobs:active", "a").Val(); got != float64(live.ObservedAt.UnixMilli()) {
		t.Errorf("score is %v, want %v", got, live.ObservedAt.UnixMilli())
	}
	publish(t, r, end, end)
	for _, key := range []string{"snap", "events"} {
		if n := s.client.PTTL(ctx, "vmferry:v1:{a}:"+key).Val(); n < 71*time.Hour || n > 72*time.Hour {
			t.Errorf("%s of an ended job expires in %v", key, n)
		}
	}
	got := s.dump(t)
	if _, ok := got["vmferry:v1:jobs:active"]; ok {
		t.Error("an ended job is active")
	}
	if _, ok := got["vmferry:v1:jobs:recent"]; !ok {
		t.Error("an ended job is not recent")
	}
	wantJSON := []string{encode(t, live), encode(t, end)}
	stream := s.client.XRange(ctx, "vmferry:v1:{a}:events", "-", "+").Val()
	want := []redis.XMessage{
		{ID: "7-1", Values: map[string]any{"data": wantJSON[0]}},
		{ID: "7-2", Values: map[string]any{"data": wantJSON[1]}},
	}
	if diff := cmp.Diff(want, stream); diff != "" {
		t.Errorf("stream (-want +got):\n%s", diff)
	}
	for _, text := range wantJSON { // once for each channel, and not again for the repeat
		for range 2 {
			m, err := sub.ReceiveMessage(ctx)
			must(t, err)
			if m.Payload != text {
				t.Errorf("channel %s sent %s, want %s", m.Channel, m.Payload, text)
			}
		}
	}
	again := reportOf("a", 7, 3)
	publish(t, r, again)
	if n := s.client.PTTL(ctx, "vmferry:v1:{a}:events").Val(); n != -1 {
		t.Errorf("a job that is active again expires in %v", n)
	}
	m, err := sub.ReceiveMessage(ctx)
	must(t, err)
	if m.Payload != encode(t, again) {
		t.Errorf("the next message is %s", m.Payload)
	}
}

func encode(tb testing.TB, r report.Report) string {
	tb.Helper()
	text, err := json.Marshal(r)
	must(tb, err)
	return string(text)
}

func TestAHashIsFlatAndComplete(t *testing.T) {
	s := startRedis(t)
	r := reportOf("a", 7, 1)
	failedAt := noon()
	r.Error = &report.Error{Code: job.IO, Message: "target went away", Next: "Look at it", At: failedAt}
	r.StartedAt = &failedAt
	publish(t, s.open(t), r)
	got := s.client.HGetAll(t.Context(), "vmferry:v1:{a}:snap").Val()
	disks, err := json.Marshal(r.Disks)
	must(t, err)
	want := map[string]string{
		"epoch": "7", "seq": "1", "job_id": "a", "json": encode(t, r), "disks": string(disks),
		"observed_at": "2026-03-01T12:00:01Z", "origin": "vmferry", "vm_name": "web", "vm_path": "/DC0/vm/web",
		"vm_ref": "", "vm_uuid": "U-1", "mode": "full", "status": "running", "phase": "transfer",
		"operation": "copies 1 disk", "health": "throttled,retrying", "round": "1", "overall_percent": "11.3",
		"percent": "12.5", "bytes_capacity": "1073741824", "bytes_to_transfer": "", "bytes_transferred": "1048576",
		"bytes_skipped": "0", "bytes_resent": "0", "bytes_per_second": "", "bytes_per_second_average": "",
		"bytes_per_second_peak": "0", "eta_seconds": "", "eta_at": "", "stalled_since": "",
		"created_at": "2026-03-01T12:00:00Z", "started_at": "2026-03-01T12:00:00Z", "ended_at": "",
		"error_code": "io", "error_message": "target went away", "error_next": "Look at it",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("hash (-want +got):\n%s", diff)
	}
}

func TestAStaleWriterChangesNothing(t *testing.T) {
	s := startRedis(t)
	r := s.open(t)
	publish(t, r, reportOf("a", 2, 5), reportOf("a", 2, 6), ended(reportOf("b", 2, 7)))
	before := s.dump(t)
	publish(t, r, ended(reportOf("a", 2, 5)), reportOf("a", 1, 900), reportOf("b", 2, 6), reportOf("b", 1, 1))
	if diff := cmp.Diff(before, s.dump(t)); diff != "" {
		t.Errorf("a stale writer has changed something (-before +after):\n%s", diff)
	}
	must(t, s.client.Del(t.Context(), "vmferry:v1:{b}:snap").Err())
	before = s.dump(t)
	publish(t, r, ended(reportOf("b", 2, 6)))
	if diff := cmp.Diff(before, s.dump(t)); diff != "" {
		t.Errorf("without a hash a stale writer has changed something (-before +after):\n%s", diff)
	}
	must(t, s.client.Del(t.Context(), "vmferry:v1:{a}:events").Err())
	before = s.dump(t)
	publish(t, r, reportOf("a", 2, 5))
	if diff := cmp.Diff(before, s.dump(t)); diff != "" {
		t.Errorf("without a stream a stale writer has changed something (-before +after):\n%s", diff)
	}
}

func TestARedisThatCameBackIsMadeRight(t *testing.T) {
	for name, harm := range map[string]func(t *testing.T, s *redisServer){
		"killed, and empty": func(t *testing.T, s *redisServer) {
			t.Helper()
			s.kill(t)
			s.start(t)
		},
		"flushed": func(t *testing.T, s *redisServer) {
			t.Helper()
			must(t, s.client.FlushAll(t.Context()).Err())
			must(t, s.client.ScriptFlush(t.Context()).Err())
		},
		"hash and sets gone": func(t *testing.T, s *redisServer) {
			t.Helper()
			must(t, s.client.Del(t.Context(), "vmferry:v1:{a}:snap", "vmferry:v1:jobs:active",
				"vmferry:v1:jobs:recent").Err())
		},
		"hash changed": func(t *testing.T, s *redisServer) {
			t.Helper()
			must(t, s.client.HSet(t.Context(), "vmferry:v1:{a}:snap", "status", "wrong", "json", "{}").Err())
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := startRedis(t)
			r := s.open(t)
			newest := []report.Report{reportOf("a", 2, 5), ended(reportOf("b", 2, 6))}
			publish(t, r, newest...)
			want := s.dump(t)
			harm(t, s)
			_ = r.Publish(t.Context(), newest) // this call may find the old connection closed
			publish(t, r, newest...)
			if diff := cmp.Diff(want, s.dump(t)); diff != "" {
				t.Errorf("after the repair (-want +got):\n%s", diff)
			}
		})
	}
}

// patience is the half second that a call may take, and three quarters more for a busy machine.
const patience = 1250 * time.Millisecond

func TestAKeySaysForAWhileThatRedisHasEverything(t *testing.T) {
	server := startRedis(t)
	r := server.open(t)
	left := func() time.Duration {
		t.Helper()
		d, err := server.client.PTTL(t.Context(), "vmferry:v1:daemon").Result()
		must(t, err)
		return d
	}
	must(t, r.Confirm(t.Context(), 15*time.Second))
	if d := left(); d < time.Second || d > 15*time.Second {
		t.Errorf("the key stays for %v", d)
	}
	must(t, r.Confirm(t.Context(), 0))
	if d := left(); d > 0 || server.client.Exists(t.Context(), "vmferry:v1:daemon").Val() != 0 {
		t.Errorf("the key is still there, for %v", d)
	}
	must(t, server.client.Set(t.Context(), "vmferry:v1:daemon", "of another program", 0).Err())
	wantKind(t, r.Confirm(t.Context(), time.Second), job.Conflict)
}

func TestARedisThatDoesNotAnswerCostsHalfASecond(t *testing.T) {
	for name, harm := range map[string]func(t *testing.T, s *redisServer){
		"killed": func(t *testing.T, s *redisServer) {
			t.Helper()
			s.kill(t)
			t.Cleanup(func() { s.start(t) }) // the end of the test kills it
		},
		"stopped": func(t *testing.T, s *redisServer) {
			t.Helper()
			must(t, s.cmd.Process.Signal(syscall.SIGSTOP))
			t.Cleanup(func() { must(t, s.cmd.Process.Signal(syscall.SIGCONT)) })
		},
		"paused": func(t *testing.T, s *redisServer) {
			t.Helper()
			must(t, s.client.Do(t.Context(), "CLIENT", "PAUSE", 60_000, "ALL").Err())
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := startRedis(t)
			used, fresh := s.open(t), s.open(t)
			publish(t, used, reportOf("a", 1, 1))
			harm(t, s)
			many := make([]report.Report, 1000)
			for i := range many {
				many[i] = reportOf(job.ID(fmt.Sprint("job-", i)), 1, int64(i+1))
			}
			for what, r := range map[string]*store.Redis{"a connection in use": used, "a new connection": fresh} {
				for range 2 {
					start := time.Now()
					wantKind(t, r.Publish(t.Context(), many), job.Unavailable)
					if took := time.Since(start); took > patience {
						t.Errorf("publish over %s took %v", what, took)
					}
				}
				start := time.Now()
				wantKind(t, r.Ping(t.Context()), job.Unavailable)
				if took := time.Since(start); took > patience {
					t.Errorf("ping over %s took %v", what, took)
				}
			}
		})
	}
}

func TestAStoppedRedisThatGoesOnIsFilled(t *testing.T) {
	s := startRedis(t)
	r := s.open(t)
	publish(t, r, reportOf("a", 1, 1))
	must(t, s.cmd.Process.Signal(syscall.SIGSTOP))
	wantKind(t, r.Publish(t.Context(), []report.Report{reportOf("a", 1, 2)}), job.Unavailable)
	must(t, s.cmd.Process.Signal(syscall.SIGCONT))
	must(t, r.Ping(t.Context()))
	publish(t, r, reportOf("a", 1, 2)) // the command whose answer was lost may have run
	if got, _ := redisStored(s.client)(t, "a"); got.Seq != 2 {
		t.Errorf("seq is %d, want 2", got.Seq)
	}
}

func TestAFullRedisIsToldAndLeftWhole(t *testing.T) {
	s := startRedis(t)
	r, ctx := s.open(t), t.Context()
	publish(t, r, reportOf("a", 1, 1))
	before := s.dump(t)
	must(t, s.client.ConfigSet(ctx, "maxmemory", "1").Err())
	err := r.Publish(ctx, []report.Report{reportOf("a", 1, 2)})
	wantKind(t, err, job.Unavailable)
	if !strings.Contains(job.NextOf(err), "maxmemory") {
		t.Errorf("next step is %q", job.NextOf(err))
	}
	if diff := cmp.Diff(before, s.dump(t)); diff != "" {
		t.Errorf("a refused report has changed something (-before +after):\n%s", diff)
	}
	must(t, s.client.ConfigSet(ctx, "maxmemory", "0").Err())
	publish(t, r, reportOf("a", 1, 2))
	must(t, s.client.ReplicaOf(ctx, "127.0.0.1", "1").Err())
	wantKind(t, r.Publish(ctx, []report.Report{reportOf("a", 1, 3)}), job.Unavailable)
}

func TestOneBadKeyDoesNotStopTheOthers(t *testing.T) {
	s := startRedis(t)
	r := s.open(t)
	must(t, s.client.Set(t.Context(), "vmferry:v1:{job-3}:events", "of another program", 0).Err())
	many := make([]report.Report, 150)
	for i := range many {
		many[i] = reportOf(job.ID(fmt.Sprint("job-", i)), 1, int64(i+1))
	}
	err := r.Publish(t.Context(), many)
	wantKind(t, err, job.Conflict)
	if !strings.Contains(err.Error(), "XADD vmferry:v1:{job-3}:events: WRONGTYPE") ||
		!strings.Contains(job.NextOf(err), "DEL vmferry:v1:{job-3}:events") {
		t.Errorf("error %q, next %q", err, job.NextOf(err))
	}
	if n := s.client.ZCard(t.Context(), "vmferry:v1:jobs:active").Val(); n != 149 {
		t.Errorf("%d jobs are there, want 149", n)
	}
	wantKind(t, r.Publish(t.Context(), []report.Report{{JobID: "no-version"}}), job.Invalid)
}

func TestTheStreamIsBounded(t *testing.T) {
	s := startRedis(t)
	r := s.open(t)
	many := make([]report.Report, 3000)
	for i := range many {
		many[i] = reportOf("a", 1, int64(i+1))
		many[i].Disks = nil
	}
	publish(t, r, many...)
	if n := s.client.XLen(t.Context(), "vmferry:v1:{a}:events").Val(); n < 1000 || n > 1200 {
		t.Errorf("the stream has %d entries", n)
	}
}

func TestThePasswordComesFromAFile(t *testing.T) {
	s := startRedis(t)
	must(t, s.client.ConfigSet(t.Context(), "requirepass", "open sesame").Err())
	dir := t.TempDir()
	write := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		must(t, os.WriteFile(path, []byte(text), 0o600))
		must(t, os.Chmod(path, mode))
		return path
	}
	url := "unix://" + s.socket
	tests := []struct {
		name string
		cfg  store.RedisConfig
		open job.Kind
		ping job.Kind
	}{
		{"right", store.RedisConfig{URL: url, PasswordFile: write("right", "open sesame\n", 0o600)}, "", ""},
		{"for a group", store.RedisConfig{URL: url, PasswordFile: write("group", "open sesame", 0o640)}, "", ""},
		{"wrong", store.RedisConfig{URL: url, PasswordFile: write("wrong", "open barley", 0o600)}, "", job.Auth},
		{"none", store.RedisConfig{URL: url}, "", job.Auth},
		{
			"open to every user",
			store.RedisConfig{URL: url, PasswordFile: write("world", "open sesame", 0o644)},
			job.Invalid, "",
		},
		{"as Windows saves it", store.RedisConfig{
			URL: url, PasswordFile: write("bom", "\ufeffopen sesame\r\n", 0o600),
		}, "", ""},
		{"empty", store.RedisConfig{URL: url, PasswordFile: write("empty", "\n", 0o600)}, job.Invalid, ""},
		{
			"two lines",
			store.RedisConfig{URL: url, PasswordFile: write("two", "open sesame\nx", 0o600)},
			job.Invalid, "",
		},
		{"missing", store.RedisConfig{URL: url, PasswordFile: filepath.Join(dir, "missing")}, job.Invalid, ""},
		{"a directory", store.RedisConfig{URL: url, PasswordFile: dir}, job.Invalid, ""},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			r, err := store.OpenRedis(tc.cfg)
			wantKind(t, err, tc.open)
			if err != nil {
				if job.NextOf(err) == "" {
					t.Errorf("error %q has no next step", err)
				}
				return
			}
			defer func() { must(t, r.Close()) }()
			err = r.Ping(t.Context())
			wantKind(t, err, tc.ping)
			wantKind(t, r.Publish(t.Context(), []report.Report{reportOf("a", 1, 1)}), tc.ping)
			if err != nil && strings.Contains(err.Error(), "open") {
				t.Errorf("error %q holds the password", err)
			}
		})
	}
}

func TestABadURLIsRefusedWithoutItsPassword(t *testing.T) {
	for _, url := range []string{
		"", "localhost:6379", "http://host", "redis://u:hush@host:port",
		"redis://u:hush@host/x", "redis://u:hush@host/0?unknown=1", "\x7fredis://u:hush@h",
	} {
		_, err := store.OpenRedis(store.RedisConfig{URL: url})
		wantKind(t, err, job.Invalid)
		if strings.Contains(err.Error(), "hush") || job.NextOf(err) == "" {
			t.Errorf("error %q holds the password or has no next step (%q)", err, job.NextOf(err))
		}
	}
}

func BenchmarkRedis(b *testing.B) {
	s := startRedis(b)
	r := s.open(b)
	batch := make([]report.Report, 200)
	seq := int64(0)
	for b.Loop() {
		for i := range batch {
			seq++
			batch[i] = reportOf(job.ID(fmt.Sprint("job-", i)), 1, seq)
		}
		publish(b, r, batch...)
	}
	b.ReportMetric(float64(seq)/b.Elapsed().Seconds(), "reports/s")
}

func orZero(port string) string {
	if port == "" {
		return "0"
	}
	return port
}
