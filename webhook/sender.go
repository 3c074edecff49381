package webhook

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
)

const (
	mostPending = 1000 // deliveries of one hook
	tryWithin   = 10 * time.Second
	pauseFirst  = time.Second
	pauseMost   = 5 * time.Minute
	giveUpAfter = 24 * time.Hour // after the first try
	mostAnswer  = 64 << 10       // bytes of an answer that are read
	mostFile    = 64 << 20       // bytes of the file; a longer one is none of ours
	saveEvery   = 2 * time.Second
)

// Hook is one receiver, as the configuration has it.
type Hook struct {
	URL        string
	Events     []Event
	SecretFile string // read at each try, so that a secret can be replaced while the daemon runs
}

// Health is how a hook is now.
type Health struct {
	URL     string // without its query, which may hold a secret
	Events  []Event
	Pending int
	Sent    int64 // since the start
	Failed  int64 // tries, since the start
	Dropped int64 // deliveries, since the start
	Message string
	SentAt  time.Time // of the newest delivery; zero for none since the start
}

// Sender tells all hooks. Its methods may be called from many goroutines.
type Sender struct {
	path  string
	write func(path string, content []byte) error
	log   *slog.Logger
	http  *http.Client
	now   func() time.Time

	mu    sync.Mutex
	hooks []*hook
	dirty bool
	bad   bool // the file could not be written, and that was logged
}

// hook is one receiver and what it has not got yet.
type hook struct {
	Hook
	wake    chan struct{}
	fresh   bool // there was no state of it: what was there before is not told
	state   state
	health  Health
	tries   int       // of the oldest delivery
	firstAt time.Time // of these
}

// state is what the file has of one hook.
type state struct {
	Seen    map[job.ID]string `json:"seen"` // the id of the newest delivery of each job
	Pending []Delivery        `json:"pending"`
}

// New reads what an earlier daemon has left in a file. A file that cannot be read is logged, and what it had is lost.
// write replaces a file so that after a crash it has the old content or the new one.
func New(path string, write func(path string, content []byte) error, hooks []Hook, log *slog.Logger,
	now func() time.Time,
) *Sender {
	s := &Sender{path: path, write: write, log: log, now: now, http: &http.Client{
		Timeout: tryWithin,
		// no proxy of the environment, and no redirect: only the address that is configured gets what is sent
		Transport:     &http.Transport{MaxIdleConnsPerHost: 1, IdleConnTimeout: time.Minute},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	saved := s.load()
	for _, h := range hooks {
		st, had := saved[keyOf(h.URL)]
		if st.Seen == nil {
			st.Seen = map[job.ID]string{}
		}
		s.hooks = append(s.hooks, &hook{
			Hook: h, wake: make(chan struct{}, 1), fresh: !had, state: st,
			health: Health{URL: shownURL(h.URL), Events: h.Events},
		})
	}
	return s
}

// keyOf is the name of a hook in the file. It is not the address, which may hold a secret.
func keyOf(address string) string {
	sum := sha256.Sum256([]byte(address))
	return hex.EncodeToString(sum[:16])
}

// shownURL is an address without what may be a secret in it.
func shownURL(text string) string {
	u, err := url.Parse(text)
	if err != nil {
		return ""
	}
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String()
}

func (s *Sender) load() map[string]state {
	info, err := os.Stat(s.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	saved := map[string]state{}
	var b []byte
	if err == nil && info.Size() > mostFile {
		err = errors.New("it is too long")
	}
	if err == nil {
		b, err = os.ReadFile(s.path)
	}
	if err == nil {
		err = json.Unmarshal(b, &saved)
	}
	if err != nil {
		s.log.Warn("what webhooks have told is not known; they begin with what happens from now on", "file", s.path,
			"err", err)
		return nil
	}
	return saved
}

// Follow is where reports come from: those of all jobs, and a function that waits for changes.
type Follow struct {
	Snapshot []*report.Report
	Next     func(ctx context.Context) ([]report.Change, error)
}

// Run tells the hooks until ctx ends. Deliveries that were not sent by then stay in the file.
func (s *Sender) Run(ctx context.Context, f Follow) {
	if len(s.hooks) == 0 {
		return
	}
	s.begin(f.Snapshot)
	s.save()
	var wait sync.WaitGroup
	for _, h := range s.hooks {
		wait.Go(func() { s.deliver(ctx, h) })
	}
	wait.Go(func() { s.saveNowAndThen(ctx) })
	for ctx.Err() == nil {
		changes, err := f.Next(ctx)
		if err != nil {
			continue // ctx has ended, or only deletions were missed
		}
		s.take(changes)
	}
	wait.Wait()
	s.save()
}

// begin takes the reports of all jobs. Jobs that are not there any more are forgotten.
func (s *Sender) begin(all []*report.Report) {
	s.mu.Lock()
	defer s.mu.Unlock()
	there := map[job.ID]bool{}
	for _, r := range all {
		there[r.JobID] = true
		for _, h := range s.hooks {
			s.tell(h, r, h.fresh)
		}
	}
	for _, h := range s.hooks {
		h.fresh = false
		for id := range h.state.Seen {
			if !there[id] {
				delete(h.state.Seen, id)
			}
		}
	}
	s.dirty = true
}

// take takes changes, and keeps what there is to tell of in the file before it is sent.
func (s *Sender) take(changes []report.Change) {
	s.mu.Lock()
	news := false
	for _, c := range changes {
		for _, h := range s.hooks {
			if c.Deleted != nil {
				delete(h.state.Seen, c.Deleted.JobID)
				s.dirty = true
			} else if s.tell(h, c.Report, false) {
				news = true
			}
		}
	}
	s.mu.Unlock()
	if !news {
		return
	}
	s.save()
	for _, h := range s.hooks {
		select {
		case h.wake <- struct{}{}:
		default:
		}
	}
}

// tell adds a delivery if the hook wants it and has not got it; with old it only notes that it has.
func (s *Sender) tell(h *hook, r *report.Report, old bool) bool {
	d, ok := deliveryOf(r)
	if !ok || r.Origin == report.External || !slices.Contains(h.Events, d.Event) || h.state.Seen[r.JobID] == d.ID {
		return false
	}
	h.state.Seen[r.JobID] = d.ID
	s.dirty = true
	if old {
		return false
	}
	h.state.Pending = append(h.state.Pending, d)
	if len(h.state.Pending) > mostPending {
		s.drop(h, "too many wait to be sent")
	}
	return true
}

// drop removes the oldest delivery of a hook.
func (s *Sender) drop(h *hook, why string) {
	d := h.state.Pending[0]
	h.state.Pending = slices.Delete(h.state.Pending, 0, 1)
	h.tries, h.health.Dropped, s.dirty = 0, h.health.Dropped+1, true
	s.log.Warn("a webhook is not told of a job", "url", h.health.URL, "event", string(d.Event), "job_id", d.JobID,
		"reason", why)
}

// deliver sends what is pending, the oldest first, until ctx ends.
func (s *Sender) deliver(ctx context.Context, h *hook) {
	for ctx.Err() == nil {
		d, ok := s.oldest(h)
		if !ok {
			select {
			case <-h.wake:
			case <-ctx.Done():
			}
			continue
		}
		err := s.send(ctx, h, d)
		if ctx.Err() != nil {
			return // a try that was cut off is no failure
		}
		pause := s.sent(h, d, err)
		if pause == 0 {
			continue
		}
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
		}
	}
}

func (s *Sender) oldest(h *hook) (Delivery, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(h.state.Pending) == 0 {
		return Delivery{}, false
	}
	return h.state.Pending[0], true
}

// sent takes the result of a try, and returns the pause before the next one.
func (s *Sender) sent(h *hook, d Delivery, err error) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	if err == nil {
		if h.health.Message != "" {
			s.log.Info("a webhook takes deliveries again", "url", h.health.URL)
		}
		h.health.Sent++
		h.health.Message, h.health.SentAt, h.tries, s.dirty = "", now, 0, true
		h.state.Pending = slices.DeleteFunc(h.state.Pending, func(p Delivery) bool { return p.ID == d.ID })
		return 0
	}
	if h.health.Message == "" {
		s.log.Warn("a webhook does not take deliveries; they are kept and tried again", "url", h.health.URL, "err", err)
	}
	h.health.Failed++
	h.health.Message = err.Error()
	if h.tries == 0 {
		h.firstAt = now
	}
	h.tries++
	if now.Sub(h.firstAt) >= giveUpAfter && len(h.state.Pending) > 0 && h.state.Pending[0].ID == d.ID {
		s.drop(h, "it was tried for a day")
		return pauseFirst
	}
	return min(pauseMost, pauseFirst<<min(h.tries-1, 20))
}

// send makes one try. Its errors have no query of the address in them.
func (s *Sender) send(ctx context.Context, h *hook, d Delivery) error {
	text, err := os.ReadFile(h.SecretFile)
	if err != nil {
		return fmt.Errorf("read the secret: %w", err)
	}
	secret, err := job.SecretFrom(text)
	if err != nil {
		return fmt.Errorf("read the secret: %w", err)
	}
	body, err := json.Marshal(d)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, h.URL, bytes.NewReader(body))
	if err != nil {
		return errors.New("the address cannot be used")
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "vmferry")
	req.Header.Set("Vmferry-Event", string(d.Event))
	req.Header.Set("Vmferry-Delivery", d.ID)
	req.Header.Set("Vmferry-Signature", Sign([]byte(secret.Reveal()), s.now(), body))
	resp, err := s.http.Do(req)
	if err != nil {
		if u, ok := errors.AsType[*url.Error](err); ok {
			err = u.Err // without the address
		}
		return err
	}
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, mostAnswer)) // so that the connection can be used again
	_ = resp.Body.Close()
	switch {
	case resp.StatusCode >= 200 && resp.StatusCode < 300:
		return nil
	case resp.StatusCode >= 300 && resp.StatusCode < 400:
		return fmt.Errorf("the answer is %d: redirects are not followed", resp.StatusCode)
	default:
		return fmt.Errorf("the answer is %d", resp.StatusCode)
	}
}

// saveNowAndThen writes what changed without a hurry: a delivery that was sent, a job that was deleted.
func (s *Sender) saveNowAndThen(ctx context.Context) {
	tick := time.NewTicker(saveEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			s.save()
		case <-ctx.Done():
			return
		}
	}
}

// save writes the file if something has changed. What cannot be written is logged, and tried again.
func (s *Sender) save() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.dirty {
		return
	}
	saved := map[string]state{}
	for _, h := range s.hooks {
		saved[keyOf(h.URL)] = h.state
	}
	b, err := json.Marshal(saved)
	if err == nil {
		err = s.write(s.path, b)
	}
	if err != nil && !s.bad {
		s.log.Warn("what webhooks have told is not kept for the time after a restart", "file", s.path, "err", err)
	}
	s.dirty, s.bad = err != nil, err != nil
}

// Health is how each hook is, in the order of the configuration.
func (s *Sender) Health() []Health {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]Health, 0, len(s.hooks))
	for _, h := range s.hooks {
		now := h.health
		now.Pending = len(h.state.Pending)
		out = append(out, now)
	}
	return out
}
