package nbd

import "time"

// side holds the requests that a thread has in flight at its source, or at its target. One goroutine uses it.
type side struct {
	inFlight int
	queue    queue[begun]  // in the order of their start; answered ones are taken off the front
	seen     time.Time     // last sign of life, or the start of the first request after none was in flight
	newest   time.Time     // latest start of a request that was answered
	usual    time.Duration // of a read or write, as a moving mean
	quiet    *quiet        // of this side, for the meter
	told     bool          // the meter knows that this thread waits in silence
}

// begun is a request with the time of its start. Once a request is answered, its began is zero, or another start if it
// was used again.
type begun struct {
	*request
	at time.Time
}

func (b begun) unanswered() bool { return b.began.Equal(b.at) }

func (s *side) begin(r *request, now time.Time) {
	if s.inFlight == 0 {
		s.seen = now
	}
	s.inFlight++
	r.began = now
	s.queue.push(begun{r, now})
}

func (s *side) end(r *request, now time.Time) {
	s.inFlight--
	s.alive(now)
	if r.began.After(s.newest) {
		s.newest = r.began
	}
	if r.op == opRead || r.op == opWrite {
		s.usual += (now.Sub(r.began) - s.usual) / 8
	}
	r.began = time.Time{}
	for s.queue.len() > 0 && !s.queue.first().unanswered() {
		s.queue.pop()
	}
}

// alive notes a sign of life.
func (s *side) alive(now time.Time) {
	s.seen = now
	if s.told {
		s.leave()
	}
}

// tell lets the meter know when this thread has waited a second without a sign of life. While the side answers, it
// costs no write to what threads share.
func (s *side) tell(now time.Time) {
	switch {
	case s.told && s.inFlight == 0:
		s.leave()
	case !s.told && s.inFlight > 0 && now.Sub(s.seen) >= accountEvery:
		s.told = true
		s.quiet.waits(s.seen)
	}
}

// leave takes back what tell said.
func (s *side) leave() {
	if s.told {
		s.told = false
		s.quiet.over()
	}
}

// silent says whether the server has given no sign of life for the deadline, or has forgotten one request: the request
// is older than the deadline, and one that was started more than half a deadline later has been answered. On a slow
// line requests only wait for their turn.
func (s *side) silent(now time.Time, deadline time.Duration) bool {
	if s.inFlight == 0 {
		return false
	}
	oldest := s.queue.first().at
	forgotten := now.Sub(oldest) > deadline && s.newest.Sub(oldest) > deadline/2
	return forgotten || now.Sub(s.seen) > deadline
}

// since is when the oldest request in flight began; if there is none, the last sign of life.
func (s *side) since() time.Time {
	if s.inFlight > 0 && s.queue.len() > 0 {
		return s.queue.first().at
	}
	return s.seen
}

// until is when silent must be asked again at the latest. It is valid with requests in flight.
func (s *side) until(now time.Time, deadline time.Duration) time.Time {
	heard := s.seen.Add(deadline)
	if oldest := s.queue.first().at.Add(deadline); oldest.After(now) && oldest.Before(heard) {
		return oldest
	}
	return heard
}
