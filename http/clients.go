package http

import (
	"sync"
	"time"

	limiter "golang.org/x/time/rate"
)

const (
	attempts       = 10 // wrong tokens that one client may send at once, and after them one in
	attemptEvery   = 5 * time.Second
	attemptSeconds = "5"    // the same, for Retry-After
	maxClients     = 10_000 // that are counted at the same time
)

// clients limits how much each client may ask. Its methods may be called from many goroutines.
type clients struct {
	perSecond float64 // requests; 0 for no limit
	mu        sync.Mutex
	known     map[string]*client
}

type client struct{ requests, attempts *limiter.Limiter }

func (c *clients) of(key string) *client {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.known == nil || len(c.known) >= maxClients {
		c.known = map[string]*client{} // all begin again: a client that sends too much is found again in a second
	}
	k := c.known[key]
	if k == nil {
		most := limiter.Limit(c.perSecond)
		if c.perSecond <= 0 {
			most = limiter.Inf
		}
		k = &client{
			requests: limiter.NewLimiter(most, int(2*c.perSecond)),
			attempts: limiter.NewLimiter(limiter.Every(attemptEvery), attempts),
		}
		c.known[key] = k
	}
	return k
}

// request says whether a client may send one more request.
func (c *clients) request(key string, now time.Time) bool { return c.of(key).requests.AllowN(now, 1) }

// attempt says whether a client may send one more wrong token.
func (c *clients) attempt(key string, now time.Time) bool { return c.of(key).attempts.AllowN(now, 1) }
