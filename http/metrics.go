package http

import (
	"net/http"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/vmferry/vmferry/http/rest"
	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
)

// recently is how long a job that has ended keeps its own series, so that its last numbers are scraped.
const recently = 15 * time.Minute

// hasSeries says whether a job has series of its own: one of ours that has not ended, or has ended a short while ago.
// So the number of series does not grow with the history.
func hasSeries(r *report.Report, now time.Time) bool {
	return r.Origin != report.External && (r.EndedAt == nil || now.Sub(*r.EndedAt) < recently)
}

// metrics serves GET /metrics: series of the daemon and its jobs, computed from the reports at each request, and the
// series of the registry. A deleted job has no series, and neither has one that ended some time ago, or one of another
// tool.
func (h *Handler) metrics(registry *prometheus.Registry) http.Handler {
	if registry == nil {
		registry = prometheus.NewRegistry()
		registry.MustRegister(collectors.NewGoCollector(),
			collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	}
	all := newSeries()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		reports, err := h.reports.Reports(r.Context())
		if err != nil {
			h.fail(w, r, problemOf(err))
			return
		}
		limits, use := h.commands.Limits()
		now := prometheus.NewRegistry()
		if err := now.Register(moment{
			series: all, reports: reports, state: h.system.State(r.Context()), opened: h.streams.count(),
			version: h.version, limits: limits, use: use, begun: h.restarts.counts(), now: h.now(),
		}); err != nil {
			h.fail(w, r, problemOf(err))
			return
		}
		promhttp.HandlerFor(prometheus.Gatherers{registry, now},
			promhttp.HandlerOpts{DisableCompression: true}).ServeHTTP(w, r)
	})
}

// moment has what all series are computed from, at one moment.
type moment struct {
	*series

	reports []*report.Report
	state   SystemState
	opened  int // event streams
	version string
	limits  job.Limits
	use     []job.HostUse
	begun   map[job.Kind]int // restarts of disks
	now     time.Time
}

// Describe sends nothing: the series differ from one request to the next.
func (moment) Describe(chan<- *prometheus.Desc) {}

// Collect sends every series.
func (m moment) Collect(out chan<- prometheus.Metric) {
	m.build.send(out, 1, m.version, m.state.Role)
	m.streams.send(out, float64(m.opened))
	m.sinks(out)
	m.vcenter(out)
	m.limitsAndUse(out)
	m.actors(out)
	m.links(out)
	for _, w := range m.state.Webhooks {
		m.hookPending.send(out, float64(w.Pending), w.URL)
		m.hookSent.send(out, float64(w.Sent), w.URL)
		m.hookFailed.send(out, float64(w.FailedTries), w.URL)
		m.hookDropped.send(out, float64(w.Dropped), w.URL)
	}
	for _, k := range restartKinds() {
		m.restarts.send(out, float64(m.begun[k]), string(k))
	}
	m.allJobs(out)
}

// links sends the series of the links.
func (m moment) links(out chan<- prometheus.Metric) {
	for _, l := range m.state.Links {
		m.linkUp.send(out, flag(l.State == "up"), l.Node)
		m.linkWaiting.send(out, float64(l.Waiting), l.Node)
		if l.RoundTripMS != nil {
			m.linkTrip.send(out, *l.RoundTripMS/1000, l.Node)
		}
		if l.CertificateExpires != nil {
			m.linkExpires.send(out, float64(l.CertificateExpires.Unix()), l.Node)
		}
		for cause, n := range l.Refused {
			m.linkRefused.send(out, float64(n), l.Node, cause)
		}
	}
}

// allJobs sends the counts of jobs and their phases, and the series of each job that has some.
func (m moment) allJobs(out chan<- prometheus.Metric) {
	statuses, external := map[job.Status]int{}, map[job.Status]int{}
	flags, phases, disks := map[report.Health]int{}, map[job.Phase]int{}, map[job.DiskPhase]int{}
	took := map[job.Phase]*histogram{}
	for _, r := range m.reports {
		statuses[r.Status]++
		for _, p := range r.Phases {
			if p.EndedAt != nil && !p.Name.Terminal() {
				observe(took, p.Name, p.EndedAt.Sub(p.StartedAt))
			}
		}
		if r.Origin == report.External {
			external[r.Status]++
			continue
		}
		if !r.Status.Terminal() {
			phases[r.Phase]++
			for _, f := range r.Health {
				flags[f]++
			}
			for _, d := range r.Disks {
				disks[d.Status]++
			}
		}
		if hasSeries(r, m.now) {
			m.job(out, r)
		}
	}
	counts(out, m.jobs, wordsOf[job.Status](), statuses)
	counts(out, m.external, wordsOf[job.Status](), external)
	counts(out, m.byHealth, wordsOf[report.Health](), flags)
	counts(out, m.byPhase, job.Way()[:len(job.Way())-1], phases)
	counts(out, m.disksBy, wordsOf[job.DiskPhase](), disks)
	for p, h := range took {
		out <- prometheus.MustNewConstHistogram(m.took, h.count, h.sum, h.buckets, string(p))
	}
}

// counts sends a series for each word, those that are 0 included: an alert on a series that is missing has gaps.
func counts[T ~string](out chan<- prometheus.Metric, s serie, all []T, n map[T]int) {
	for _, w := range all {
		s.send(out, float64(n[w]), string(w))
	}
}

func (m moment) sinks(out chan<- prometheus.Metric) {
	for _, s := range m.state.Sinks {
		m.lag.send(out, s.LagSeconds, s.Name)
		m.sinkUp.send(out, flag(s.OK), s.Name)
		if s.Since != nil {
			m.sinkSince.send(out, seconds(*s.Since), s.Name)
		}
		if s.Name == "redis" {
			m.redis.send(out, flag(s.OK))
		}
	}
}

func (m moment) actors(out chan<- prometheus.Metric) {
	for actor, n := range m.state.Actors.Mailboxes {
		m.mailbox.send(out, float64(n), actor)
	}
	for kind, n := range m.state.Actors.Panics {
		m.panics.send(out, float64(n), kind)
	}
	m.revived.send(out, float64(m.state.Actors.Revived))
	m.down.send(out, float64(m.state.Actors.Down))
}

func (m moment) vcenter(out chan<- prometheus.Metric) {
	now := m.state.VCenter
	if now.State == "" || now.State == rest.VCenterNotConfigured {
		return
	}
	m.vcenterUp.send(out, flag(now.State == rest.VCenterOK))
	for _, s := range []rest.VCenterState{
		rest.VCenterOK, rest.VCenterUnknown, rest.VCenterUnreachable, rest.VCenterWrongCertificate,
		rest.VCenterWrongPassword, rest.VCenterUnusable,
	} {
		m.vcenterState.send(out, flag(s == now.State), string(s))
	}
	m.vcenterSince.send(out, seconds(now.Since))
	if now.CheckedAt != nil {
		m.vcenterChecked.send(out, seconds(*now.CheckedAt))
	}
}

func (m moment) limitsAndUse(out chan<- prometheus.Metric) {
	m.limitJobs.send(out, float64(m.limits.Jobs))
	m.limitDisks.send(out, float64(m.limits.Disks))
	m.limitRate.send(out, float64(m.limits.Bandwidth))
	m.limitHostDisks.send(out, float64(m.limits.HostDisks))
	m.limitHostConns.send(out, float64(m.limits.HostConnections))
	m.limitHostBytes.send(out, float64(m.limits.HostBytes))
	m.limitHostRate.send(out, float64(m.limits.HostBandwidth))
	seen := map[string]bool{}
	for _, u := range m.use {
		host := valid(u.Host)
		if seen[host] {
			continue
		}
		seen[host] = true
		m.hostDisks.send(out, float64(u.Disks), host)
		m.hostWaiting.send(out, float64(u.Waiting), host)
		m.hostConns.send(out, float64(u.Connections), host)
		m.hostBytes.send(out, float64(u.BytesInFlight), host)
	}
}

func (m moment) job(out chan<- prometheus.Metric, r *report.Report) {
	id := string(r.JobID)
	m.info.send(out, 1, id, valid(r.VM.Name), string(r.Origin), string(r.Mode))
	m.ratio.send(out, r.OverallPercent/100, id)
	m.stalled.send(out, flag(r.StalledSince != nil), id)
	if r.ETASeconds != nil {
		m.eta.send(out, float64(*r.ETASeconds), id)
	}
	if r.BytesPerSecond != nil {
		m.speed.send(out, *r.BytesPerSecond, id)
	}
	if r.BytesPerSecondAverage != nil {
		m.average.send(out, *r.BytesPerSecondAverage, id)
	}
	m.skipped.send(out, float64(r.BytesSkipped), id)
	m.resent.send(out, float64(r.BytesResent), id)
	if r.Snapshot != nil {
		m.snapshot.send(out, seconds(r.Snapshot.TakenAt), id)
	}
	if r.Wait != nil {
		m.waiting.send(out, seconds(r.Wait.Since), id, r.Wait.For)
	}
	if r.SampledAt != nil {
		m.sampled.send(out, seconds(*r.SampledAt), id)
	}
	if n := len(r.Phases); n > 0 && !r.Status.Terminal() {
		m.phase.send(out, seconds(r.Phases[n-1].StartedAt), id, string(r.Phase))
	}
	m.disks(out, id, r)
}

func (m moment) disks(out chan<- prometheus.Metric, id string, r *report.Report) {
	var durable, verified int64
	var silent *time.Time
	seen := map[job.DiskID]bool{}
	for _, d := range r.Disks {
		if seen[d.DiskID] {
			continue // two series of one name make the whole answer invalid
		}
		seen[d.DiskID] = true
		disk := valid(string(d.DiskID))
		durable, verified = durable+d.BytesDurable, verified+d.BytesVerified
		m.diskMoved.send(out, float64(d.BytesTransferred), id, disk)
		m.diskResent.send(out, float64(d.BytesResent), id, disk)
		m.diskRestarts.send(out, float64(d.Restarts), id, disk)
		m.diskSize.send(out, float64(d.BytesCapacity), id, disk)
		if d.BytesToTransfer != nil {
			m.diskToMove.send(out, float64(*d.BytesToTransfer), id, disk)
		}
		m.diskSkipped.send(out, float64(d.BytesSkipped), id, disk)
		m.diskDurable.send(out, float64(d.BytesDurable), id, disk)
		m.diskVerified.send(out, float64(d.BytesVerified), id, disk)
		if d.BytesPerSecond != nil {
			m.diskSpeed.send(out, *d.BytesPerSecond, id, disk)
		}
		if d.ETASeconds != nil {
			m.diskETA.send(out, float64(*d.ETASeconds), id, disk)
		}
		if d.SilentSince != nil {
			m.diskSilent.send(out, seconds(*d.SilentSince), id, disk)
			if silent == nil || d.SilentSince.Before(*silent) {
				silent = d.SilentSince
			}
		}
	}
	m.durable.send(out, float64(durable), id)
	m.verified.send(out, float64(verified), id)
	if silent != nil {
		m.silent.send(out, seconds(*silent), id)
	}
}

// seconds is a time as Prometheus has it: seconds since 1970.
func seconds(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }

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

// wordsOf are the words of a closed set that the description of the API has.
func wordsOf[T ~string]() []T {
	var out []T
	for _, w := range words(reflect.TypeFor[T]()) {
		if s, ok := w.(string); ok && !slices.Contains(out, T(s)) {
			out = append(out, T(s))
		}
	}
	return out
}
