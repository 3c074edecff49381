package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vmferry/vmferry/job"
)

const (
	postEvery   = 2 * time.Second // or every whole percent
	postTimeout = 5 * time.Second
	postLast    = 400 * time.Millisecond // for the last report of a cancelled copy, which must end soon
)

// posting says where progress is reported to: a service that older copy tools report to as well. Without a job nothing
// is reported.
type posting struct{ job, url string }

func (p *posting) check() error {
	if p.job == "" {
		return nil
	}
	if _, err := job.ParseID(p.job); err != nil {
		return err
	}
	u, err := url.Parse(p.url)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return fmt.Errorf("--progress-url is an http or https URL, not %q", p.url)
	}
	return nil
}

// copyUpdate is the body of a report. Without a disk it is about the whole job. Only such a report can end the job.
type copyUpdate struct {
	Stage            string  `json:"stage"`
	Status           string  `json:"status"`
	BytesTransferred int64   `json:"bytes_transferred"`
	TotalBytes       int64   `json:"total_bytes"`
	ThroughputBPS    int64   `json:"throughput_bps"`
	Percent          float64 `json:"percent"`
	DiskID           string  `json:"disk_id,omitempty"`
	SyncType         string  `json:"sync_type"`
	ErrorMessage     string  `json:"error_message"`
}

// poster sends reports in its own goroutine, one after the other. Of each disk only the newest report waits.
type poster struct {
	posting
	log  *slog.Logger
	wake chan struct{} // has an element when an update waits; closed after the last put

	mu      sync.Mutex
	waiting []copyUpdate
}

func newPoster(p posting, log *slog.Logger) *poster {
	return &poster{posting: p, log: log, wake: make(chan struct{}, 1)}
}

// put hands over an update. It never blocks.
func (p *poster) put(u copyUpdate) {
	if p.job == "" {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if i := slices.IndexFunc(p.waiting, func(w copyUpdate) bool { return w.DiskID == u.DiskID }); i >= 0 {
		p.waiting[i] = u
	} else {
		p.waiting = append(p.waiting, u)
	}
	select {
	case p.wake <- struct{}{}:
	default: // run is woken already
	}
}

// next takes the update that has waited longest.
func (p *poster) next() (u copyUpdate, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.waiting) == 0 {
		return copyUpdate{}, false
	}
	u, p.waiting = p.waiting[0], p.waiting[1:]
	return u, true
}

// run sends until wake is closed. An error is logged once; the copy goes on.
func (p *poster) run(ctx context.Context) {
	client := &http.Client{Timeout: postTimeout}
	defer client.CloseIdleConnections()
	told := false
	for range p.wake {
		for u, ok := p.next(); ok; u, ok = p.next() {
			err := p.send(ctx, client, u)
			if err != nil && !told {
				told = true
				p.log.Warn("progress cannot be reported; the copy goes on", "url", p.url, "err", err)
			}
			if err == nil {
				p.log.Debug("progress reported", slog.Float64("percent", u.Percent))
			}
		}
	}
}

func (p *posting) send(ctx context.Context, client *http.Client, u copyUpdate) (err error) {
	body, err := json.Marshal(u)
	if err != nil {
		return err
	}
	address := strings.TrimRight(p.url, "/") + "/api/v1/progress/" + url.PathEscape(p.job) + "/update"
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, address, bytes.NewReader(body))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/json")
	answer, err := client.Do(r)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, answer.Body.Close()) }()
	_, _ = io.Copy(io.Discard, io.LimitReader(answer.Body, 64<<10)) // so that the connection can be used again
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("the service answers %s", answer.Status)
	}
	return nil
}
