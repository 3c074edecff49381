// follow_sse follows all jobs of a vmferry daemon over its event stream. It needs the standard library only.
//
//	VMFERRY_SERVER=http://127.0.0.1:8081 go run main.go
package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"
)

const silence = 10 * time.Second // the daemon sends at least the time every 2 s

// change is a report, as far as this program reads it, or that a job was deleted.
type change struct {
	JobID            string  `json:"job_id"`
	Epoch            int64   `json:"epoch"`
	Seq              int64   `json:"seq"`
	Deleted          bool    `json:"deleted"`
	Status           string  `json:"status"`
	Phase            string  `json:"phase"`
	Round            int     `json:"round"`
	BytesTransferred int64   `json:"bytes_transferred"`
	OverallPercent   float64 `json:"overall_percent"`
	Phases           []stay  `json:"phases"`
}

type stay struct {
	Name      string    `json:"name"`
	Round     int       `json:"round"`
	StartedAt time.Time `json:"started_at"`
}

type follower struct {
	server string
	known  map[string]change // the newest report of each job
	last   string            // the id of the last event that was taken
	live   bool
}

func main() {
	f := follower{server: cmp.Or(os.Getenv("VMFERRY_SERVER"), "http://127.0.0.1:8081"), known: map[string]change{}}
	for {
		f.mark(false, f.follow(context.Background()))
		<-time.After(time.Second)
	}
}

// follow follows one connection until it ends, and says why it ended.
func (f *follower) follow(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	quiet := time.AfterFunc(silence, cancel)
	defer quiet.Stop()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, f.server+"/api/v1/events", http.NoBody)
	if err != nil {
		return err
	}
	if f.last != "" {
		req.Header.Set("Last-Event-ID", f.last)
	}
	if path := os.Getenv("VMFERRY_TOKEN_FILE"); path != "" {
		token, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	}
	answer, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = answer.Body.Close() }()
	if answer.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(answer.Body)
		if slices.Contains([]int{400, 401, 403, 404}, answer.StatusCode) { // asking again would change nothing
			fmt.Fprintln(os.Stderr, answer.Status, string(text))
			os.Exit(1)
		}
		return fmt.Errorf("the daemon answers %s", answer.Status)
	}
	lines := bufio.NewReader(answer.Body)
	fields := map[string]string{}
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			return err
		}
		quiet.Reset(silence)
		field, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
		if field != "" {
			fields[field] = strings.TrimPrefix(value, " ") // our events have one line of data
			continue
		}
		if err := f.event(fields["event"], fields["data"]); err != nil {
			return err
		}
		f.last = cmp.Or(fields["id"], f.last)
		clear(fields)
	}
}

func (f *follower) event(name, data string) error {
	switch name {
	case "":
		return nil
	case "snapshot":
		var all struct{ Jobs []change }
		if err := json.Unmarshal([]byte(data), &all); err != nil {
			return err
		}
		f.takeAll(all.Jobs)
	case "progress", "deleted":
		var c change
		if err := json.Unmarshal([]byte(data), &c); err != nil {
			return err
		}
		f.take(c)
	}
	f.mark(true, nil)
	return nil
}

// take takes a report, or that a job was deleted. What is not newer than what is known says nothing.
func (f *follower) take(c change) {
	old, had := f.known[c.JobID]
	if had && cmp.Or(cmp.Compare(c.Epoch, old.Epoch), cmp.Compare(c.Seq, old.Seq)) <= 0 {
		return
	}
	if c.Deleted {
		f.forget(c.JobID)
		return
	}
	for _, s := range c.Phases { // also those that began and ended while this program did not look
		if !slices.Contains(old.Phases, s) {
			fmt.Println(c.JobID, "entered", s.Name, s.Round)
		}
	}
	f.known[c.JobID] = c
	fmt.Println(c.JobID, c.Status, c.Phase, c.Round, c.BytesTransferred, c.OverallPercent)
}

// takeAll takes the newest report of every job. A job that is missing was deleted.
func (f *follower) takeAll(all []change) {
	there := map[string]bool{}
	for _, c := range all {
		there[c.JobID] = true
		f.take(c)
	}
	for id := range f.known {
		if !there[id] {
			f.forget(id)
		}
	}
}

func (f *follower) forget(id string) {
	if _, had := f.known[id]; had {
		delete(f.known, id)
		fmt.Println(id, "deleted")
	}
}

// mark says when all that is shown becomes old, and when it is right again.
func (f *follower) mark(live bool, why error) {
	if live && !f.live {
		fmt.Fprintln(os.Stderr, "live")
	} else if f.live && !live {
		fmt.Fprintln(os.Stderr, "stale:", why)
	}
	f.live = live
}
