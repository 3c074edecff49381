package http

import (
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
)

// metrics serves GET /metrics: series of the jobs, computed from the reports at each request, and the series of the
// registry. A deleted job has no series, and neither has one that ended some time ago, or one of another tool.
func (h *Handler) metrics(registry *prometheus.Registry) http.Handler {
	if registry == nil {
		registry = prometheus.NewRegistry()
		registry.MustRegister(collectors.NewGoCollector(),
			collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	}
	d, more := newDescriptions(), newMoreSeries()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		reports, err := h.reports.Reports(r.Context())
		if err != nil {
			h.fail(w, r, problemOf(err))
			return
		}
		now, state := prometheus.NewRegistry(), h.system.State(r.Context())
		limits, use := h.commands.Limits()
		if err := errors.Join(now.Register(jobMetrics{
			descriptions: d, reports: reports, system: state, streams: h.streams.count(), version: h.version,
			now: h.now(),
		}), now.Register(moreMetrics{
			moreSeries: more, reports: reports, state: state, limits: limits, use: use, restarts: h.restarts.counts(),
			now: h.now(),
		}), now.Register(actorMetrics(state.Actors))); err != nil {
			h.fail(w, r, problemOf(err))
			return
		}
		promhttp.HandlerFor(prometheus.Gatherers{registry, now},
			promhttp.HandlerOpts{DisableCompression: true}).ServeHTTP(w, r)
	})
}

// descriptions are the names of the series.
type descriptions struct {
	build, jobs, external, info, ratio, eta, stalled, phase *prometheus.Desc
	moved, size, toMove, resent, restarts                   *prometheus.Desc
	lag, redis, streams                                     *prometheus.Desc
}

func newDescriptions() *descriptions {
	d := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("vmferry_"+name, help, labels, nil)
	}
	return &descriptions{
		build:    d("build_info", "Always 1.", "version", "role"),
		jobs:     d("jobs", "Jobs by status.", "status"),
		external: d("external_jobs", "Jobs of other copy tools by status. They have no series of their own.", "status"),
		info:     d("job_info", "Always 1; the VM, origin and mode of a job.", "job", "vm", "origin", "mode"),
		ratio:    d("job_progress_ratio", "How much of a job is done, 0 to 1; 1 only when it is completed.", "job"),
		eta:      d("job_eta_seconds", "Time until the bytes of this round are copied; missing while unknown.", "job"),
		stalled:  d("job_stalled", "1 while no byte moves though it should.", "job"),
		phase:    d("stage_duration_seconds", "How long finished phases took; deleted jobs do not count.", "phase"),
		moved:    d("disk_transferred_bytes_total", "Bytes that the target acknowledged in this round.", "job", "disk"),
		size:     d("disk_size_bytes", "Capacity of a disk.", "job", "disk"),
		toMove:   d("disk_to_transfer_bytes", "Bytes that this round handles; missing while unknown.", "job", "disk"),
		resent:   d("disk_resent_bytes_total", "Bytes sent again in this round after restarts.", "job", "disk"),
		restarts: d("disk_restarts_total", "Restarts of a disk over all rounds.", "job", "disk"),
		lag:      d("projection_lag_seconds", "Age of the oldest report that a sink has not taken.", "sink"),
		redis:    d("redis_up", "1 while Redis takes reports; missing if none is configured."),
		streams:  d("sse_clients", "Event streams that are open."),
	}
}

// jobMetrics are the series of the jobs at one moment.
type jobMetrics struct {
	*descriptions

	reports []*report.Report
	system  SystemState
	streams int
	version string
	now     time.Time
}

// Describe sends nothing: the series differ from one request to the next.
func (jobMetrics) Describe(chan<- *prometheus.Desc) {}

// Collect sends every series.
func (m jobMetrics) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	gauge(m.build, 1, m.version, m.system.Role)
	gauge(m.descriptions.streams, float64(m.streams))
	for _, s := range m.system.Sinks {
		gauge(m.lag, s.LagSeconds, s.Name)
		if s.Name == "redis" {
			gauge(m.redis, flag(s.OK))
		}
	}
	byStatus, external := map[job.Status]int{}, map[job.Status]int{}
	phases := map[job.Phase]*histogram{}
	for _, r := range m.reports {
		byStatus[r.Status]++
		if r.Origin == report.External {
			external[r.Status]++
		}
		if hasSeries(r, m.now) {
			m.job(*r, gauge)
			m.disks(*r, out)
		}
		for _, p := range r.Phases {
			if p.EndedAt != nil && !p.Name.Terminal() {
				observe(phases, p.Name, p.EndedAt.Sub(p.StartedAt))
			}
		}
	}
	for _, s := range wordsOf[job.Status]() { // those that are 0 too
		gauge(m.jobs, float64(byStatus[s]), string(s))
		gauge(m.external, float64(external[s]), string(s))
	}
	for p, h := range phases {
		out <- prometheus.MustNewConstHistogram(m.phase, h.count, h.sum, h.buckets, string(p))
	}
}

func (m jobMetrics) job(r report.Report, gauge func(*prometheus.Desc, float64, ...string)) {
	id := string(r.JobID)
	gauge(m.info, 1, id, valid(r.VM.Name), string(r.Origin), string(r.Mode))
	gauge(m.ratio, r.OverallPercent/100, id)
	gauge(m.stalled, flag(r.StalledSince != nil), id)
	if r.ETASeconds != nil {
		gauge(m.eta, float64(*r.ETASeconds), id)
	}
}

func (m jobMetrics) disks(r report.Report, out chan<- prometheus.Metric) {
	seen := map[job.DiskID]bool{}
	for _, d := range r.Disks {
		if seen[d.DiskID] {
			continue // two series of one name make the whole answer invalid
		}
		seen[d.DiskID] = true
		send := func(desc *prometheus.Desc, t prometheus.ValueType, v float64) {
			out <- prometheus.MustNewConstMetric(desc, t, v, string(r.JobID), valid(string(d.DiskID)))
		}
		send(m.moved, prometheus.CounterValue, float64(d.BytesTransferred))
		send(m.resent, prometheus.CounterValue, float64(d.BytesResent))
		send(m.restarts, prometheus.CounterValue, float64(d.Restarts))
		send(m.size, prometheus.GaugeValue, float64(d.BytesCapacity))
		if d.BytesToTransfer != nil {
			send(m.toMove, prometheus.GaugeValue, float64(*d.BytesToTransfer))
		}
	}
}

type histogram struct {
	count   uint64
	sum     float64
	buckets map[float64]uint64
}

func observe(phases map[job.Phase]*histogram, p job.Phase, took time.Duration) {
	h := phases[p]
	if h == nil {
		h = &histogram{buckets: map[float64]uint64{}}
		phases[p] = h
	}
	h.count++
	h.sum += took.Seconds()
	// seconds: from one call to a day of copying
	for _, limit := range []float64{0.1, 1, 10, 60, 600, 3600, 6 * 3600, 24 * 3600} {
		if took.Seconds() <= limit {
			h.buckets[limit]++
		} else {
			h.buckets[limit] += 0
		}
	}
}

func flag(on bool) float64 {
	if on {
		return 1
	}
	return 0
}

// valid makes a text from outside valid UTF-8, as a label must be.
func valid(s string) string { return strings.ToValidUTF8(s, "?") }
