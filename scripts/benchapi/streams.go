package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	streamJobs = 20
	streamTime = 20 * time.Second
	postEvery  = time.Second // of each job: longer than the pause between two batches of a stream
	settleTime = 2 * time.Second
	smallest   = 4096 // receive buffer of a client that never reads, so that it is full soon
	dialling   = 50   // connections that are made at the same time
)

// reader is one event stream. The bytes of an update say when it was posted, in microseconds since start.
type reader struct {
	conn  net.Conn
	start time.Time
	took  []time.Duration
}

// connect opens an event stream. The kernel of a silent client takes as little as it can.
func connect(ctx context.Context, d *daemon, start time.Time, silent bool) (*reader, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", d.address)
	if err != nil {
		return nil, err
	}
	if c, ok := conn.(*net.TCPConn); ok && silent {
		if err := c.SetReadBuffer(smallest); err != nil {
			return nil, errors.Join(err, conn.Close())
		}
	}
	_, err = fmt.Fprintf(conn, "GET /api/v1/events HTTP/1.1\r\nHost: %s\r\nAccept: text/event-stream\r\n\r\n",
		d.address)
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return &reader{conn: conn, start: start}, nil
}

// follow notes how long each event took, until the connection ends.
func (r *reader) follow() {
	lines := bufio.NewScanner(r.conn)
	lines.Buffer(make([]byte, 0, 8<<10), 1<<20)
	for lines.Scan() {
		if posted, ok := postedAt(lines.Bytes()); ok {
			r.took = append(r.took, time.Since(r.start)-posted)
		}
	}
}

// postedAt reads when the update of an event was posted. The snapshot at the begin is no event of an update.
func postedAt(line []byte) (time.Duration, bool) {
	const name = `"bytes_transferred":`
	if !bytes.HasPrefix(line, []byte(`data: {"job_id"`)) {
		return 0, false
	}
	_, rest, ok := bytes.Cut(line, []byte(name))
	end := bytes.IndexByte(rest, ',')
	if !ok || end < 0 {
		return 0, false
	}
	n, err := strconv.ParseInt(string(rest[:end]), 10, 64)
	return time.Duration(n) * time.Microsecond, err == nil && n > 0
}

// measureStreams measures how long an event takes to a thousand readers, and what they cost.
func measureStreams(ctx context.Context, o options, d *daemon) ([]figure, error) {
	start := time.Now()
	readers, silent, err := connectAll(ctx, o, d, start)
	defer func() {
		for _, r := range append(readers, silent...) {
			_ = r.conn.Close() // also ends its reading
		}
	}()
	if err != nil {
		return nil, err
	}
	var following sync.WaitGroup
	for _, r := range readers {
		following.Go(r.follow)
	}
	before, err := d.cpu()
	if err != nil {
		return nil, err
	}
	posts, err := postAll(ctx, d, start)
	if err != nil {
		return nil, err
	}
	after, err := d.cpu()
	if err != nil {
		return nil, err
	}
	pause(ctx, settleTime) // the last events are on their way
	memory, err := d.memory()
	for _, r := range readers {
		_ = r.conn.Close() // ends its reading
	}
	following.Wait()
	var took []time.Duration
	for _, r := range readers {
		took = append(took, r.took...)
	}
	if want := posts * len(readers); len(took) < want*9/10 {
		return nil, fmt.Errorf("only %d of %d events arrived", len(took), want)
	}
	return []figure{
		inTime(fmt.Sprintf("from a POST to its event, %d streams, %d of them never read: 50 of 100 events",
			o.clients, o.silent), "elapsed", percentile(took, 50), 0),
		inTime("the same: 99 of 100 events", "elapsed", percentile(took, 99), 500*time.Millisecond),
		inTime("the same: one update to all streams", "CPU", (after-before)/time.Duration(posts), 0),
		inMiB(fmt.Sprintf("greatest memory with %d streams", o.clients), memory, 150),
	}, err
}

// connectAll opens all streams: those that are read, and the silent ones.
func connectAll(ctx context.Context, o options, d *daemon, start time.Time) (readers, silent []*reader, err error) {
	var mu sync.Mutex
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(dialling)
	for i := range o.clients {
		g.Go(func() error {
			r, err := connect(ctx, d, start, i < o.silent)
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			if i < o.silent {
				silent = append(silent, r)
			} else {
				readers = append(readers, r)
			}
			return nil
		})
	}
	return readers, silent, g.Wait()
}

// postAll posts updates of all jobs, evenly over time, and returns how many.
func postAll(ctx context.Context, d *daemon, start time.Time) (posts int, err error) {
	tick := time.NewTicker(postEvery / streamJobs)
	defer tick.Stop()
	for end := time.Now().Add(streamTime); time.Now().Before(end); posts++ {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return posts, ctx.Err()
		}
		if err := d.post(ctx, posts%streamJobs, time.Since(start).Microseconds()); err != nil {
			return posts, err
		}
	}
	return posts, nil
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// percentile is the time within which that many of 100 were done.
func percentile(took []time.Duration, percent int) time.Duration {
	if len(took) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(took))
	return sorted[min(len(sorted)-1, len(sorted)*percent/100)]
}
