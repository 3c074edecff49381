package store

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/vmferry/vmferry/job"
)

// redisRights are what a Redis user needs, as ACL SETUSER takes them.
const redisRights = "~vmferry:v1:* &vmferry:v1:* +hello +auth +select +ping +evalsha +script|load +hmget +hset +xadd " +
	"+xrevrange +zadd +zrem +zremrangebyrank +pexpire +persist +publish +del"

// refusal is an answer of Redis: its text, and the command that it refused with its key or channel; "" where unknown.
type refusal struct{ text, command, on string }

var (
	scriptPlace = regexp.MustCompile(` ?(script: [0-9a-f]{40}, )?on @?user_script:\d+\.?`)
	inBrackets  = regexp.MustCompile(` \[([A-Z ]+?)(?: (vmferry:\S+))?\]$`)
	ofOneJob    = regexp.MustCompile(`\{[^}]*\}|(events:).+$`)
)

// refusalOf reads what the scripts, or send, have put into brackets.
func refusalOf(err error) refusal {
	r := refusal{text: scriptPlace.ReplaceAllString(err.Error(), "")}
	if m := inBrackets.FindStringSubmatch(r.text); m != nil {
		r.text, r.command, r.on = strings.TrimSuffix(r.text, m[0]), m[1], m[2]
	}
	return r
}

// error is the refusal in words. It is the same for all jobs where the key does not matter.
func (r refusal) error(cause error, exact bool) error {
	what := ""
	if r.command != "" {
		on := r.on
		if !exact {
			on = ofOneJob.ReplaceAllStringFunc(on, func(s string) string {
				if strings.HasPrefix(s, "{") {
					return "{*}"
				}
				return "events:*"
			})
		}
		what = strings.TrimSpace(r.command+" "+on) + ": "
	}
	return &saidError{what + r.text, cause}
}

// saidError has another text than its cause.
type saidError struct {
	text  string
	cause error
}

func (e *saidError) Error() string { return e.text }
func (e *saidError) Unwrap() error { return e.cause }

// failure gives an error its kind and the next step. Kinds: see Publish.
func (r *Redis) failure(ctx context.Context, op string, err error) error {
	var known *job.Error
	var untrusted *tls.CertificateVerificationError
	switch {
	case errors.As(err, &known):
		return err
	case errors.Is(ctx.Err(), context.Canceled):
		return &job.Error{Op: op, Kind: job.Cancelled, Err: err}
	case errors.As(err, &untrusted):
		return &job.Error{
			Op: op, Kind: job.Auth, Next: "Set redis.ca_file to the authority that signed Redis's certificate",
			Err: err,
		}
	case !isReply(err):
		return &job.Error{
			Op: op, Kind: job.Unavailable, Next: "Start Redis, or check redis.url; " + redisWait, Err: err,
		}
	}
	if r.sources.stale(err) {
		r.sources.hangUp() // the next call asks the Sentinels again
	}
	said := refusalOf(err)
	kind, next := r.refused(said)
	return &job.Error{Op: op, Kind: kind, Next: next, Err: said.error(err, kind == job.Conflict)}
}

const redisWait = "copying goes on, and what Redis missed is written when it is back"

// refused is the table of Redis's refusals. Redis 7.0 has no code for what a script may not do.
func (r *Redis) refused(said refusal) (job.Kind, string) {
	starts := func(codes ...string) bool {
		for _, c := range codes {
			if strings.HasPrefix(said.text, c) {
				return true
			}
		}
		return false
	}
	switch {
	case starts("NOAUTH", "WRONGPASS", "Protocol error: unauthenticated", // the refusal of a long command
		"ERR Protocol error: unauthenticated"):
		return job.Auth, "Check redis.password_file and the user in redis.url"
	case starts("NOPERM"), strings.Contains(said.text, "The user executing the script can't"),
		strings.Contains(said.text, "ACL failure in script"):
		return job.Permission, fmt.Sprintf("Allow it in Redis: ACL SETUSER %s %s", r.user, redisRights)
	case starts("READONLY"):
		return job.Unavailable, "Name the master, not a replica, in redis.url, or its Sentinels in redis.sentinels; " +
			redisWait
	case starts("OOM"):
		return job.Unavailable, "Raise the maxmemory of Redis, which is full; " + redisWait
	case starts("WRONGTYPE"):
		return job.Conflict, "Look which program uses the key " + said.on + ", and remove it: DEL " + said.on +
			". Or give vmferry a database of its own in redis.url"
	case starts("CROSSSLOT", "MOVED", "ASK ", "CLUSTERDOWN"):
		return job.Unsupported, "Use a Redis without cluster mode, alone or with Sentinels (redis.sentinels)"
	case starts("MISCONF"):
		return job.Unavailable, "Look into Redis's log: it cannot save its data and refuses writes; " + redisWait
	default:
		return job.Unavailable, "Look into Redis's log; " + redisWait
	}
}

// isReadOnly says whether a server that should be the master is a replica.
func isReadOnly(err error) bool {
	return redis.HasErrorPrefix(err, "READONLY") || redis.HasErrorPrefix(err, "MASTERDOWN")
}
