package store

import (
	"cmp"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
)

//go:embed begin.lua
var scriptBegin string

//go:embed publish.lua
var publishScript string

//go:embed erase.lua
var eraseScript string

//go:embed confirm.lua
var confirmScript string

// Limits of the time and memory that a Redis may cost, here and there.
const (
	redisDial     = 300 * time.Millisecond
	redisAnswer   = 500 * time.Millisecond // for one pipeline, connecting and loading the script included
	redisPipeline = 64                     // reports in one pipeline: 45 000 a second; larger ones are no faster
	redisPool     = 4                      // connections; one publisher uses one, and Ping another
	streamEntries = 1000                   // about; in the stream of one job
	endedJobs     = 1000                   // in jobs:recent
	maxPassword   = 4096                   // bytes of the password file that are read
)

// The keys and channels. Other programs read them: they are a contract. The braces put the keys of one job into one
// slot.
const (
	keyActive     = "vmferry:v1:jobs:active"
	keyRecent     = "vmferry:v1:jobs:recent"
	keyDaemon     = "vmferry:v1:daemon"
	channelEvents = "vmferry:v1:events"
)

func keySnap(id job.ID) string      { return "vmferry:v1:{" + string(id) + "}:snap" }
func keyEvents(id job.ID) string    { return "vmferry:v1:{" + string(id) + "}:events" }
func channelEvent(id job.ID) string { return channelEvents + ":" + string(id) }

var (
	errNoAnswer = errors.New("a command was not answered")
	errNoScript = errors.New("scripts are forgotten as soon as they are loaded")
)

// RedisConfig says where the Redis or Valkey is.
type RedisConfig struct {
	// URL is redis://[user@]host:port/db, rediss:// for TLS, or unix:///path/to/socket. With Sentinels it has no host,
	// as in rediss://user@/0, and may be "".
	URL          string
	PasswordFile string // it holds the password alone; "" for none. Must not be readable by every user
	CAFile       string // PEM file of the authorities to trust instead of the system's; "" for the system's

	Sentinels            []string // host:port of each Sentinel; nil for none
	Master               string   // the name that the Sentinels know the master by
	SentinelPasswordFile string   // as PasswordFile, for the Sentinels themselves
}

// Redis is the projection for other programs. For each job it keeps a hash (the newest report), a stream (the recent
// reports, with their versions as ids) and an entry in jobs:active or jobs:recent, and it publishes each report on two
// channels. A script in Redis refuses a report that is older than the stored one. Methods may be called by many
// goroutines at once.
//
// All keys of one call must be on one server: a Redis cluster is refused.
type Redis struct {
	client            *redis.Client
	sources           sources // of the master's address; zero without Sentinels
	user              string
	publishes, erases *redis.Script
	confirms          *redis.Script
}

// OpenRedis prepares a client; it does not dial. It fails with Invalid if the URL is not that of a Redis, or if the
// password file or the file of authorities cannot be used.
func OpenRedis(cfg RedisConfig) (*Redis, error) {
	opt, err := redisOptions(cfg)
	if err != nil {
		return nil, err
	}
	r := &Redis{
		user: cmp.Or(opt.Username, "default"), publishes: redis.NewScript(scriptBegin + publishScript),
		erases: redis.NewScript(scriptBegin + eraseScript), confirms: redis.NewScript(confirmScript),
	}
	if len(cfg.Sentinels) > 0 {
		if r.sources, err = newSources(cfg, opt); err != nil {
			return nil, err
		}
		opt.Dialer = r.sources.dial
	}
	r.client = redis.NewClient(opt)
	return r, nil
}

// redisOptions are no retries, short deadlines and no background work, so that a dead Redis delays nothing.
func redisOptions(cfg RedisConfig) (*redis.Options, error) {
	const op = "read redis.url"
	address, err := cfg.address()
	if err != nil {
		return nil, err
	}
	opt, err := redis.ParseURL(address)
	if err != nil { // the text of err may quote the URL, and with it a password
		return nil, job.Errorf(op, job.Invalid,
			"Use redis://host:6379/0, rediss://host:6379/0 or unix:///path/to/socket",
			"%q is not the URL of a Redis", hidden(cfg.URL))
	}
	if cfg.PasswordFile != "" {
		password, err := readPassword("redis.password_file", cfg.PasswordFile)
		if err != nil {
			return nil, err
		}
		opt.Password = password.Reveal()
	}
	if err := cfg.trust(opt); err != nil {
		return nil, err
	}
	opt.MaxRetries, opt.DialerRetries = -1, 1
	opt.DialTimeout, opt.ReadTimeout, opt.WriteTimeout = redisDial, redisAnswer, redisAnswer
	opt.ContextTimeoutEnabled = true
	opt.PoolSize, opt.PoolTimeout = redisPool, redisAnswer
	opt.MinIdleConns = 0
	opt.DisableIdentity = true
	opt.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	return opt, nil
}

// hidden is the URL without its password and query; if it cannot be parsed, only its scheme.
func hidden(text string) string {
	u, err := url.Parse(text)
	if err != nil {
		scheme, _, _ := strings.Cut(text, ":")
		return scheme + ":..."
	}
	u.RawQuery = ""
	return u.Redacted()
}

func readPassword(key, path string) (password job.Secret, err error) {
	const next = "Give the path of a file that holds the password and that only vmferry's user can read (chmod 600)"
	op := "read " + key
	f, err := os.Open(path)
	if err != nil {
		return password, job.Errorf(op, job.Invalid, next, "%w", err)
	}
	defer func() { _ = f.Close() }() // nothing was written
	info, err := f.Stat()
	if err != nil {
		return password, job.Errorf(op, job.Invalid, next, "%w", err)
	}
	if !info.Mode().IsRegular() || info.Mode().Perm()&0o007 != 0 {
		return password, job.Errorf(op, job.Invalid, next, "%s is open to every user or not a regular file (mode %v)",
			path, info.Mode())
	}
	text, err := io.ReadAll(io.LimitReader(f, maxPassword))
	if err == nil {
		password, err = job.SecretFrom(text)
	}
	if err != nil {
		return password, job.Errorf(op, job.Invalid, next, "%s: %w", path, err)
	}
	return password, nil
}

// Publish writes reports, in the order given. A report that is older than the stored one changes nothing and is no
// error. For a report that Redis has already, its hash and its entry in the lists are written again. So a Redis that
// came back empty is filled again by publishing the newest report of every job. A Redis that does not answer costs at
// most half a second; one that answers slowly costs at most half a second for each 64 reports. After an error any of
// the reports may or may not be stored. What was refused is refused again until its cause is gone. Errors are
// Unavailable (dead, slow, full, read-only), Auth, Permission, Conflict (another program's key), Unsupported (a
// cluster), and Invalid if a report has no version.
func (r *Redis) Publish(ctx context.Context, reports []report.Report) error {
	return inParts(ctx, "publish reports to Redis", reports, newCall, func(ctx context.Context, c []call) (int, error) {
		return r.send(ctx, r.publishes, c)
	}, r)
}

// Erase removes deleted jobs, and leaves a mark for an hour in the stream of each. A job with a newer report stays.
// Costs and errors are those of Publish.
func (r *Redis) Erase(ctx context.Context, deleted []report.Deleted) error {
	return inParts(ctx, "erase jobs in Redis", deleted, newErase, func(ctx context.Context, c []call) (int, error) {
		return r.send(ctx, r.erases, c)
	}, r)
}

// Confirm tells readers that Redis has the newest report of every job, and that they hear of it again within this time:
// the key vmferry:v1:daemon exists so long. 0 removes it. Costs and errors are those of Publish.
func (r *Redis) Confirm(ctx context.Context, within time.Duration) error {
	const op = "confirm to readers of Redis"
	c := call{keys: []string{keyDaemon}, args: []any{within.Milliseconds(), time.Now().UTC().Format(time.RFC3339Nano)}}
	if _, err := r.send(ctx, r.confirms, []call{c}); err != nil {
		return r.failure(ctx, op, err)
	}
	return nil
}

// inParts makes calls of all items and sends them in pipelines.
func inParts[T any](ctx context.Context, op string, items []T, encode func(T) (call, error),
	send func(context.Context, []call) (int, error), r *Redis,
) error {
	var first error
	for part := range slices.Chunk(items, redisPipeline) {
		calls := make([]call, len(part))
		for i, item := range part {
			c, err := encode(item)
			if err != nil {
				return err
			}
			calls[i] = c
		}
		good, err := send(ctx, calls)
		if err != nil && first == nil {
			first = r.failure(ctx, op, err)
		}
		if err != nil && good == 0 {
			return first // Redis is away. If some had succeeded, one bad key must not stop the next jobs
		}
	}
	return first
}

// send runs one pipeline. Each item is a script call by digest; the script is loaded again if Redis has lost it. good
// is the number of items that Redis has taken or refused as old.
func (r *Redis) send(ctx context.Context, script *redis.Script, calls []call) (good int, err error) {
	ctx, cancel := context.WithTimeout(ctx, redisAnswer)
	defer cancel()
	good, left, err := r.run(ctx, script, calls)
	if len(left) == 0 {
		return good, err
	}
	if err := script.Load(ctx, r.client).Err(); err != nil {
		return good, fmt.Errorf("%w [SCRIPT LOAD]", err)
	}
	again, left, second := r.run(ctx, script, left)
	if err == nil {
		err = second
	}
	if err == nil && len(left) > 0 {
		err = errNoScript
	}
	return good + again, err
}

// run sends the calls in one pipeline. It returns how many succeeded, those that failed because Redis does not know
// the script, and the first other error.
func (r *Redis) run(ctx context.Context, script *redis.Script, calls []call) (good int, left []call, first error) {
	pipe := r.client.Pipeline()
	answers := make([]*redis.Cmd, len(calls))
	for i, c := range calls {
		answers[i] = script.EvalSha(ctx, pipe, c.keys, c.args...)
	}
	_, failed := pipe.Exec(ctx)
	if failed != nil && !isReply(failed) {
		return 0, nil, failed
	}
	for i, a := range answers {
		err := a.Err()
		if err == nil && a.Val() == nil { // the command was not sent: a refused login marks no command as failed
			err = cmp.Or(failed, errNoAnswer)
		}
		switch {
		case err == nil:
			good++
		case redis.HasErrorPrefix(err, "NOSCRIPT"):
			left = append(left, calls[i])
		case first == nil:
			first = err
		}
	}
	return good, left, first
}

// isReply says whether err is an answer of Redis, and not a missing answer.
func isReply(err error) bool {
	var e redis.Error
	return errors.As(err, &e)
}

// Ping checks within half a second whether Redis answers. Errors are as those of Publish.
func (r *Redis) Ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, redisAnswer)
	defer cancel()
	if err := r.client.Ping(ctx).Err(); err != nil {
		return r.failure(ctx, "ping Redis", err)
	}
	return nil
}

// Close ends all connections.
func (r *Redis) Close() error {
	if err := r.client.Close(); err != nil && !errors.Is(err, redis.ErrClosed) {
		return job.Errorf("close Redis", job.Unavailable, "", "%w", err)
	}
	return nil
}
