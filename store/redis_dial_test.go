package store_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
	"github.com/vmferry/vmferry/store"
)

func freePort(tb testing.TB) string {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(tb, err)
	_, port, err := net.SplitHostPort(l.Addr().String())
	must(tb, err)
	must(tb, l.Close())
	return port
}

func (s *redisServer) address() string { return "127.0.0.1:" + s.port }

func passwordFile(tb testing.TB, text string) string {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "password")
	must(tb, os.WriteFile(path, []byte(text+"\n"), 0o600))
	return path
}

// authority makes a certificate for 127.0.0.1 and the authority that signed it. It returns the three files.
func authority(tb testing.TB) (ca, cert, key string) {
	tb.Helper()
	dir := tb.TempDir()
	write := func(name, kind string, der []byte) string {
		path := filepath.Join(dir, name)
		must(tb, os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
		return path
	}
	sign := func(of, by *x509.Certificate, pub, signer *ecdsa.PrivateKey) []byte {
		der, err := x509.CreateCertificate(rand.Reader, of, by, &pub.PublicKey, signer)
		must(tb, err)
		return der
	}
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(tb, err)
	ownKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(tb, err)
	root := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "own authority"}, IsCA: true,
		BasicConstraintsValid: true, NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	own := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "redis"}, NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.MarshalECPrivateKey(ownKey)
	must(tb, err)
	return write("ca.pem", "CERTIFICATE", sign(root, root, caKey, caKey)),
		write("cert.pem", "CERTIFICATE", sign(own, root, ownKey, caKey)), write("key.pem", "EC PRIVATE KEY", der)
}

func TestRedisByTLSIsTrustedByItsOwnAuthority(t *testing.T) {
	need(t, "redis-server")
	ca, cert, key := authority(t)
	stranger, _, _ := authority(t)
	s := &redisServer{tls: freePort(t)}
	s.start(t, "--tls-port", s.tls, "--tls-cert-file", cert, "--tls-key-file", key, "--tls-ca-cert-file", ca,
		"--tls-auth-clients", "no")
	defer s.kill(t)
	url := "rediss://127.0.0.1:" + s.tls + "/0"
	publish(t, openRedis(t, store.RedisConfig{URL: url, CAFile: ca}), reportOf("a", 1, 1))
	for _, cfg := range []store.RedisConfig{{URL: url}, {URL: url, CAFile: stranger}} {
		r := openRedis(t, cfg)
		err := r.Publish(t.Context(), []report.Report{reportOf("a", 1, 1)})
		for job.KindOf(err) == job.Unavailable { // a busy machine: the handshake took longer than it may
			err = r.Publish(t.Context(), []report.Report{reportOf("a", 1, 1)})
		}
		wantKind(t, err, job.Auth)
		if !strings.Contains(job.NextOf(err), "redis.ca_file") {
			t.Errorf("%q, next %q", err, job.NextOf(err))
		}
	}
	for _, cfg := range []store.RedisConfig{
		{URL: "redis://127.0.0.1:1/0", CAFile: ca}, {URL: url, CAFile: key}, {URL: url, CAFile: "/nowhere"},
	} {
		_, err := store.OpenRedis(cfg)
		wantKind(t, err, job.Invalid)
	}
}

// sentinel starts a Sentinel that knows the master as mymaster.
func sentinel(tb testing.TB, master *redisServer, more string) *redisServer {
	tb.Helper()
	s := &redisServer{port: freePort(tb), socket: filepath.Join(shortDir(tb), "s")}
	file := filepath.Join(filepath.Dir(s.socket), "sentinel.conf")
	text := fmt.Sprintf("port %s\nbind 127.0.0.1\nsentinel monitor mymaster 127.0.0.1 %s 1\n"+
		"sentinel down-after-milliseconds mymaster 500\nsentinel failover-timeout mymaster 3000\n%s\n",
		s.port, master.port, more)
	must(tb, os.WriteFile(file, []byte(text), 0o600))
	s.run(tb, "Sentinel ID is", file, "--sentinel")
	tb.Cleanup(func() { s.kill(tb) })
	return s
}

func TestAFailOverBySentinelsIsSurvived(t *testing.T) {
	need(t, "redis-server")
	master, replica := &redisServer{port: freePort(t)}, &redisServer{port: freePort(t)}
	master.start(t)
	replica.start(t, "--replicaof", "127.0.0.1 "+master.port)
	defer replica.kill(t)
	c := redis.NewClient(&redis.Options{Addr: replica.address()})
	defer c.Close()
	waitFor(t, "the replica", func() bool {
		return strings.Contains(c.Info(t.Context(), "replication").Val(), "master_link_status:up")
	})
	one := sentinel(t, master, "requirepass knock")
	cfg := store.RedisConfig{
		Sentinels: []string{"127.0.0.1:1", one.address()}, Master: "mymaster",
		SentinelPasswordFile: passwordFile(t, "knock"),
	}
	r := openRedis(t, cfg)
	publish(t, r, reportOf("a", 1, 1))
	waitFor(t, "the Sentinel to know the replica", func() bool {
		sc := redis.NewSentinelClient(&redis.Options{Addr: one.address(), Password: "knock"})
		defer sc.Close()
		found, err := sc.Replicas(t.Context(), "mymaster").Result()
		return err == nil && len(found) == 1 && found[0]["master-link-status"] == "ok"
	})
	master.kill(t)
	seq := int64(1)
	waitFor(t, "the fail-over", func() bool {
		seq++
		return r.Publish(t.Context(), []report.Report{reportOf("a", 1, seq)}) == nil
	})
	if got, ok := redisStored(c)(t, "a"); !ok || got.Seq != seq {
		t.Errorf("the new master has %v, %+v, want seq %d", ok, got.Version(), seq)
	}
	if _, err := r.Try(t.Context()); err != nil {
		t.Error(err)
	}
	for _, tc := range []struct {
		change func(*store.RedisConfig)
		kind   job.Kind
		next   string
	}{
		{func(c *store.RedisConfig) { c.Master = "other" }, job.Unavailable, "redis.master"},
		{func(c *store.RedisConfig) { c.SentinelPasswordFile = "" }, job.Auth, "sentinel_password_file"},
		{func(c *store.RedisConfig) { c.Sentinels = []string{"127.0.0.1:1"} }, job.Unavailable, "redis.sentinels"},
	} {
		cfg := cfg
		tc.change(&cfg)
		err := openRedis(t, cfg).Publish(t.Context(), []report.Report{reportOf("a", 1, 1)})
		wantKind(t, err, tc.kind)
		if !strings.Contains(job.NextOf(err), tc.next) {
			t.Errorf("%q, next %q", err, job.NextOf(err))
		}
	}
}

func TestAMasterThatBecomesAReplicaIsLeft(t *testing.T) {
	need(t, "redis-server")
	one, two := &redisServer{port: freePort(t)}, &redisServer{port: freePort(t)}
	one.start(t)
	defer one.kill(t)
	two.start(t)
	defer two.kill(t)
	// The Sentinel is told of another master by hand: the old one keeps our connection open.
	s := sentinel(t, one, "")
	r := openRedis(t, store.RedisConfig{Sentinels: []string{s.address()}, Master: "mymaster"})
	publish(t, r, reportOf("a", 1, 1))
	sc := redis.NewSentinelClient(&redis.Options{Addr: s.address()})
	defer sc.Close()
	must(t, sc.Remove(t.Context(), "mymaster").Err())
	must(t, sc.Monitor(t.Context(), "mymaster", "127.0.0.1", two.port, "1").Err())
	c := redis.NewClient(&redis.Options{Addr: one.address()})
	defer c.Close()
	must(t, c.ReplicaOf(t.Context(), "127.0.0.1", two.port).Err())
	waitFor(t, "the other master", func() bool {
		return r.Publish(t.Context(), []report.Report{reportOf("a", 1, 2)}) == nil
	})
	c2 := redis.NewClient(&redis.Options{Addr: two.address()})
	defer c2.Close()
	if got, ok := redisStored(c2)(t, "a"); !ok || got.Seq != 2 {
		t.Errorf("the other master has %v, %+v", ok, got.Version())
	}
}

func TestAWrongConfigurationOfSentinelsIsRefused(t *testing.T) {
	for _, cfg := range []store.RedisConfig{
		{Sentinels: []string{"a:1"}},
		{Sentinels: []string{"a:1"}, Master: "m", URL: "redis://host:6379/0"},
		{Sentinels: []string{"a:1"}, Master: "m", URL: "unix:///run/redis.sock"},
		{Sentinels: []string{"a:1"}, Master: "m", SentinelPasswordFile: "/nowhere"},
	} {
		_, err := store.OpenRedis(cfg)
		wantKind(t, err, job.Invalid)
		if job.NextOf(err) == "" {
			t.Errorf("%v has no next step", err)
		}
	}
}
