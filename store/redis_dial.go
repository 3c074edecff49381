package store

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/url"
	"os"
	"strings"
	"sync"

	"github.com/redis/go-redis/v9"

	"github.com/vmferry/vmferry/job"
)

// address is the URL for go-redis. With Sentinels its host stands for the master.
func (cfg RedisConfig) address() (string, error) {
	const op = "read redis.url"
	if len(cfg.Sentinels) == 0 {
		return cfg.URL, nil
	}
	if cfg.Master == "" {
		return "", job.Errorf("read redis.master", job.Invalid, "Set redis.master to the name in sentinel.conf",
			"Sentinels are set, but not the name of their master")
	}
	u, err := url.Parse(cmp.Or(cfg.URL, "redis:///0"))
	if err != nil || u.Scheme != "redis" && u.Scheme != "rediss" || u.Host != "" {
		return "", job.Errorf(op, job.Invalid, "Leave out redis.url, or write it as in rediss://user@/0",
			"%q has a host or is not the URL of a Redis, but redis.sentinels find the master", hidden(cfg.URL))
	}
	u.Host = "master:6379"
	return u.String(), nil
}

// trust makes opt accept the certificates of CAFile's authorities only.
func (cfg RedisConfig) trust(opt *redis.Options) error {
	if cfg.CAFile == "" {
		return nil
	}
	const op = "read redis.ca_file"
	if opt.TLSConfig == nil {
		return job.Errorf(op, job.Invalid, "Write redis.url with rediss://, or leave out redis.ca_file",
			"redis.url is without TLS")
	}
	pem, err := os.ReadFile(cfg.CAFile)
	if err != nil {
		return &job.Error{Op: op, Kind: job.Invalid, Next: "Set redis.ca_file to a PEM file", Err: err}
	}
	opt.TLSConfig.RootCAs = x509.NewCertPool()
	if !opt.TLSConfig.RootCAs.AppendCertsFromPEM(pem) {
		return job.Errorf(op, job.Invalid, "Set redis.ca_file to a PEM file", "%s holds no certificate", cfg.CAFile)
	}
	return nil
}

// sources find the master by asking the Sentinels each time that a connection is made. go-redis's own client for this
// keeps a connection and goroutines of its own, and logs by itself. When Sentinels make another server the master, they
// end the connections to the old one.
type sources struct {
	sentinels []string
	master    string
	options   *redis.Options // of a Sentinel, but for its address
	tls       *tls.Config    // nil without

	mu    *sync.Mutex
	conns map[net.Conn]bool // those that are open; guarded by mu
}

func newSources(cfg RedisConfig, opt *redis.Options) (sources, error) {
	s := sources{
		sentinels: cfg.Sentinels, master: cfg.Master, tls: opt.TLSConfig, mu: &sync.Mutex{}, conns: map[net.Conn]bool{},
		options: &redis.Options{
			MaxRetries: -1, DialerRetries: 1, DialTimeout: redisDial, ReadTimeout: redisDial, WriteTimeout: redisDial,
			ContextTimeoutEnabled: true, PoolSize: 1, DisableIdentity: true, Protocol: 2,
		},
	}
	if cfg.SentinelPasswordFile != "" {
		password, err := readPassword("redis.sentinel_password_file", cfg.SentinelPasswordFile)
		if err != nil {
			return sources{}, err
		}
		s.options.Password = password.Reveal()
	}
	return s, nil
}

// dial connects to the present master.
func (s sources) dial(ctx context.Context, network, _ string) (net.Conn, error) {
	address, err := s.find(ctx)
	if err != nil {
		return nil, err
	}
	raw, err := s.connect(ctx, network, address)
	if err != nil {
		return nil, err
	}
	c := &sourceConn{Conn: raw, sources: s}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns[c] = true
	return c, nil
}

func (s sources) connect(ctx context.Context, network, address string) (net.Conn, error) {
	d := &net.Dialer{Timeout: redisDial}
	if s.tls == nil {
		return d.DialContext(ctx, network, address)
	}
	cfg := s.tls.Clone()
	cfg.ServerName = "" // of the address, which is not that of the URL
	return (&tls.Dialer{NetDialer: d, Config: cfg}).DialContext(ctx, network, address)
}

// find asks all Sentinels at once; the first answer counts.
func (s sources) find(ctx context.Context) (string, error) {
	const op = "find the Redis master"
	type answer struct {
		address []string
		err     error
	}
	ctx, cancel := context.WithTimeout(ctx, redisDial)
	defer cancel()
	answers := make(chan answer, len(s.sentinels))
	for _, at := range s.sentinels {
		go func() {
			address, err := s.ask(ctx, at)
			answers <- answer{address, err}
		}()
	}
	var errs []error
	for range s.sentinels {
		a := <-answers
		if a.err == nil && len(a.address) == 2 {
			return net.JoinHostPort(a.address[0], a.address[1]), nil
		}
		errs = append(errs, a.err)
	}
	err := errors.Join(errs...)
	if errors.Is(err, redis.Nil) {
		return "", job.Errorf(op, job.Unavailable, "Set redis.master to the name in sentinel.conf",
			"no Sentinel knows a master %q", s.master)
	}
	next := "Start the Sentinels, or check redis.sentinels; " + redisWait
	kind := job.Unavailable
	if strings.Contains(err.Error(), "NOAUTH") || strings.Contains(err.Error(), "WRONGPASS") {
		kind, next = job.Auth, "Set redis.sentinel_password_file to the file with the Sentinels' password"
	}
	return "", job.Errorf(op, kind, next, "no Sentinel answers: %w", err)
}

func (s sources) ask(ctx context.Context, at string) (_ []string, err error) {
	opt := *s.options
	opt.Addr = at
	opt.Dialer = func(ctx context.Context, network, address string) (net.Conn, error) {
		return s.connect(ctx, network, address)
	}
	c := redis.NewSentinelClient(&opt)
	defer func() { _ = c.Close() }() // it was used once, for reading
	return c.GetMasterAddrByName(ctx, s.master).Result()
}

// stale says whether err means that the master has become a replica.
func (s sources) stale(err error) bool { return len(s.sentinels) > 0 && isReadOnly(err) }

// hangUp ends all connections.
func (s sources) hangUp() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		_ = c.(*sourceConn).Conn.Close() //nolint:forcetypeassert // dial puts nothing else there
	}
	clear(s.conns)
}

// sourceConn is a connection that its sources know while it is open.
type sourceConn struct {
	net.Conn
	sources sources
}

// Close ends the connection.
func (c *sourceConn) Close() error {
	c.sources.mu.Lock()
	defer c.sources.mu.Unlock()
	delete(c.sources.conns, c)
	return c.Conn.Close()
}
