package rest

import (
	"encoding/json"
	"strconv"
	"sync"
	"time"
)

// The daemon's clock, in ms since 1970, is in this header of each answer, and in the data of this event, which a stream
// sends after so much silence.
const (
	TimeHeader = "Vmferry-Time"
	TimeEvent  = "time"
	Heartbeat  = 2 * time.Second
)

// TimeText writes a time as the header and the event have it.
func TimeText(t time.Time) string { return strconv.FormatInt(t.UnixMilli(), 10) }

// clock is what a client knows of the daemon's clock. Its methods may be called from many goroutines.
type clock struct {
	mu    sync.Mutex
	told  time.Time // the daemon's time, as it came last
	at    time.Time // when it came, by our clock
	heard time.Time // when anything came last, by our clock
}

// tell takes the daemon's time as TimeText writes it; "" if the answer of an older daemon has none.
func (c *clock) tell(text string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.heard = time.Now()
	if ms, err := strconv.ParseInt(text, 10, 64); err == nil && ms > 0 {
		c.told, c.at = time.UnixMilli(ms), c.heard
	}
}

// event takes the data of an event with the daemon's time.
func (c *clock) event(data string) {
	var t struct {
		MS json.Number `json:"time_ms"`
	}
	if json.Unmarshal([]byte(data), &t) == nil {
		c.tell(t.MS.String())
	}
}

// hear takes a sign of life without a time.
func (c *clock) hear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.heard = time.Now()
}

// Time is the daemon's time now, as far as the newest answer or event tells: it goes on by our own clock since then, so
// neither clock has to be right. ok is false before the first answer, and for a daemon that tells no time.
func (c *Client) Time() (now time.Time, ok bool) {
	c.clock.mu.Lock()
	defer c.clock.mu.Unlock()
	if c.clock.at.IsZero() {
		return time.Time{}, false
	}
	return c.clock.told.Add(time.Since(c.clock.at)), true
}

// Heard is how long ago the newest answer, event or heartbeat came; false before the first. While Watch is connected,
// more than Heartbeat and a moment is a daemon that does not answer.
func (c *Client) Heard() (ago time.Duration, ok bool) {
	c.clock.mu.Lock()
	defer c.clock.mu.Unlock()
	return time.Since(c.clock.heard), !c.clock.heard.IsZero()
}
