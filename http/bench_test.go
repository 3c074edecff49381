package http_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/vmferry/vmferry/job"
)

func BenchmarkGetJob(b *testing.B) {
	w := newWorld()
	h, _ := w.server(b)
	w.running(b, "job-web")
	for _, path := range []string{"/api/v1/jobs/job-web", "/api/v1/progress/job-web", "/api/v1/jobs?limit=50"} {
		b.Run(path, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				rec := httptest.NewRecorder()
				h.ServeHTTP(rec, httptest.NewRequestWithContext(b.Context(), http.MethodGet, "http://localhost"+path,
					http.NoBody))
				if rec.Code != http.StatusOK {
					b.Fatal(rec.Code)
				}
			}
		})
	}
}

// BenchmarkThousandStreams has a thousand streams over TCP and two hundred jobs. It measures how long an event takes to
// all streams, and the memory of the streams.
func BenchmarkThousandStreams(b *testing.B) {
	const streams, jobs = 1000, 200
	w := withJobs(b, jobs)
	_, s := w.server(b)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	conns := make([]*bufio.Reader, streams)
	for i := range conns {
		c, err := (&net.Dialer{}).DialContext(b.Context(), "tcp", s.Listener.Addr().String())
		if err != nil {
			b.Fatal(err)
		}
		defer c.Close()
		if _, err := io.WriteString(c, "GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
			b.Fatal(err)
		}
		conns[i] = bufio.NewReaderSize(c, 4096)
	}
	readTo(b, conns, fmt.Sprintf("id: %d-%d", epoch, jobs))
	runtime.GC()
	runtime.ReadMemStats(&after)
	var worst time.Duration
	for b.Loop() {
		begin := time.Now()
		w.change(b.Context(), b, "job-7")
		r, err := w.memory.Report(b.Context(), job.ID("job-7"))
		if err != nil {
			b.Fatal(err)
		}
		readTo(b, conns, "id: "+r.Version().String())
		worst = max(worst, time.Since(begin))
	}
	b.ReportMetric(float64(after.HeapInuse+after.StackInuse-before.HeapInuse-before.StackInuse)/mib, "MiB")
	b.ReportMetric(float64(worst.Milliseconds()), "worst-ms")
}

// readTo reads every connection up to a line.
func readTo(b *testing.B, conns []*bufio.Reader, want string) {
	b.Helper()
	var all sync.WaitGroup
	for _, c := range conns {
		all.Go(func() {
			for {
				line, isPrefix, err := c.ReadLine()
				if err != nil {
					b.Error(err)
					return
				}
				if !isPrefix && string(line) == want {
					return
				}
			}
		})
	}
	all.Wait()
}
