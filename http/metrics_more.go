package http

import (
	"maps"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

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

// serie is one kind of series: its description, and its type.
type serie struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
}

func gaugeOf(name, help string, labels ...string) serie {
	return serie{prometheus.NewDesc("vmferry_"+name, help, labels, nil), prometheus.GaugeValue}
}

func counterOf(name, help string, labels ...string) serie {
	return serie{prometheus.NewDesc("vmferry_"+name, help, labels, nil), prometheus.CounterValue}
}

func (s serie) send(out chan<- prometheus.Metric, v float64, labels ...string) {
	out <- prometheus.MustNewConstMetric(s.desc, s.kind, v, labels...)
}

// moreSeries are the kinds of series of jobs and of the node beside those of descriptions.
type moreSeries struct {
	byHealth, byPhase, disksBy, restarts                                                 serie
	speed, average, skipped, durable, verified, resent, snapshot, waiting, silent, phase serie
	diskSpeed, diskETA, diskSkipped, diskDurable, diskVerified, diskSilent               serie
	vcenterUp, vcenterState, vcenterSince, vcenterChecked, sinkUp, sinkSince             serie
	limitJobs, limitDisks, limitRate, limitHostDisks, limitHostConns, limitHostBytes     serie
	limitHostRate, hostDisks, hostWaiting, hostConns, hostBytes, sampled                 serie
}

func newMoreSeries() *moreSeries {
	return &moreSeries{
		byHealth: gaugeOf("jobs_by_health", "Jobs of vmferry that have not ended, by flag of their health.", "flag"),
		byPhase:  gaugeOf("jobs_by_phase", "Jobs of vmferry that have not ended, by phase.", "phase"),
		disksBy:  gaugeOf("disks", "Disks of jobs that have not ended, by status.", "status"),
		restarts: counterOf("restarts_total",
			"Attempts of disks that were begun again since the start of the daemon, by the kind of the failure.",
			"kind"),

		speed:    gaugeOf("job_speed_bytes_per_second", "Speed over about 5 s; missing while nothing moves.", "job"),
		average:  gaugeOf("job_average_speed_bytes_per_second", "Speed over about 60 s; missing as above.", "job"),
		skipped:  gaugeOf("job_skipped_bytes", "Zeros of this round that need not be sent.", "job"),
		durable:  gaugeOf("job_durable_bytes", "Bytes of this round that no crash loses.", "job"),
		verified: gaugeOf("job_verified_bytes", "Bytes of this round that were read back and compared.", "job"),
		resent:   gaugeOf("job_resent_bytes", "Bytes of this round that were sent again after restarts.", "job"),
		snapshot: gaugeOf("job_snapshot_timestamp_seconds", "When the snapshot was taken that the job holds.", "job"),
		waiting: gaugeOf("job_waiting_since_timestamp_seconds",
			"Since when a job waits for what is unavailable; missing while it does not.", "job", "for"),
		silent: gaugeOf("job_silent_since_timestamp_seconds",
			"Since when a request of the job has no answer; missing if none is late.", "job"),
		phase:   gaugeOf("job_phase_timestamp_seconds", "When the phase began that the job is in.", "job", "phase"),
		sampled: gaugeOf("job_sampled_timestamp_seconds", "When the newest numbers of the job were taken.", "job"),

		diskSpeed: gaugeOf("disk_speed_bytes_per_second", "Speed of a disk; missing while nothing moves.", "job",
			"disk"),
		diskETA:     gaugeOf("disk_eta_seconds", "Time until this round of a disk is copied.", "job", "disk"),
		diskSkipped: gaugeOf("disk_skipped_bytes", "Zeros of this round that need not be sent.", "job", "disk"),
		diskDurable: gaugeOf("disk_durable_bytes", "Bytes of this round that no crash loses.", "job", "disk"),
		diskVerified: gaugeOf("disk_verified_bytes", "Bytes of this round that were read back and compared.", "job",
			"disk"),
		diskSilent: gaugeOf("disk_silent_since_timestamp_seconds",
			"Since when a request of the disk has no answer; missing if none is late.", "job", "disk"),

		vcenterUp:      gaugeOf("vcenter_up", "1 while the vCenter can be used; missing if none is configured."),
		vcenterState:   gaugeOf("vcenter_state", "1 for the state that the vCenter is in, 0 for all others.", "state"),
		vcenterSince:   gaugeOf("vcenter_state_timestamp_seconds", "When the vCenter came into its state."),
		vcenterChecked: gaugeOf("vcenter_checked_timestamp_seconds", "When the vCenter was looked at last."),
		sinkUp:         gaugeOf("sink_up", "1 while a sink takes reports.", "sink"),
		sinkSince: gaugeOf("sink_down_timestamp_seconds", "Since when a sink takes no reports; missing while it does.",
			"sink"),

		limitJobs:      gaugeOf("limit_jobs", "Jobs that may run at the same time."),
		limitDisks:     gaugeOf("limit_disks", "Disks that may be copied at the same time; 0 for no limit."),
		limitRate:      gaugeOf("limit_bytes_per_second", "Speed that all disks together may have; 0 for no limit."),
		limitHostDisks: gaugeOf("limit_host_disks", "Disks that may be read from one ESXi host; 0 for no limit."),
		limitHostConns: gaugeOf("limit_host_connections", "Connections for these disks; 0 for no limit."),
		limitHostBytes: gaugeOf("limit_host_in_flight_bytes", "Bytes that may be asked of one host; 0 for no limit."),
		limitHostRate:  gaugeOf("limit_host_bytes_per_second", "Speed of reading from one host; 0 for no limit."),
		hostDisks:      gaugeOf("host_disks", "Disks that are read from an ESXi host.", "host"),
		hostWaiting:    gaugeOf("host_waiting_disks", "Disks that wait for a limit of an ESXi host.", "host"),
		hostConns:      gaugeOf("host_connections", "Connections over which an ESXi host is read.", "host"),
		hostBytes:      gaugeOf("host_in_flight_bytes", "Bytes that were asked of an ESXi host.", "host"),
	}
}

// moreMetrics are these series at one moment.
type moreMetrics struct {
	*moreSeries

	reports  []*report.Report
	state    SystemState
	limits   job.Limits
	use      []job.HostUse
	restarts map[job.Kind]int
	now      time.Time
}

// Describe sends nothing: the series differ from one request to the next.
func (moreMetrics) Describe(chan<- *prometheus.Desc) {}

// Collect sends every series.
func (m moreMetrics) Collect(out chan<- prometheus.Metric) {
	m.vcenter(out)
	for _, s := range m.state.Sinks {
		m.sinkUp.send(out, flag(s.OK), s.Name)
		if s.Since != nil {
			m.sinkSince.send(out, seconds(*s.Since), s.Name)
		}
	}
	for _, k := range restartKinds() {
		m.moreSeries.restarts.send(out, float64(m.restarts[k]), string(k))
	}
	m.limitsAndUse(out)
	flags, phases, disks := map[report.Health]int{}, map[job.Phase]int{}, map[job.DiskPhase]int{}
	for _, r := range m.reports {
		if r.Origin == report.External {
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
	counts(out, m.byHealth, wordsOf[report.Health](), flags)
	counts(out, m.byPhase, job.Way()[:len(job.Way())-1], phases)
	counts(out, m.disksBy, wordsOf[job.DiskPhase](), disks)
}

// counts sends a series for each word, those that are 0 included: an alert on a series that is missing has gaps.
func counts[T ~string](out chan<- prometheus.Metric, s serie, all []T, n map[T]int) {
	for _, w := range all {
		s.send(out, float64(n[w]), string(w))
	}
}

func (m moreMetrics) vcenter(out chan<- prometheus.Metric) {
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

func (m moreMetrics) limitsAndUse(out chan<- prometheus.Metric) {
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

func (m moreMetrics) job(out chan<- prometheus.Metric, r *report.Report) {
	id := string(r.JobID)
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

func (m moreMetrics) disks(out chan<- prometheus.Metric, id string, r *report.Report) {
	var durable, verified int64
	var silent *time.Time
	seen := map[job.DiskID]bool{}
	for _, d := range r.Disks {
		if seen[d.DiskID] {
			continue
		}
		seen[d.DiskID] = true
		disk := valid(string(d.DiskID))
		durable, verified = durable+d.BytesDurable, verified+d.BytesVerified
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

// restartKinds are the kinds of failures by which restarts are counted.
func restartKinds() []job.Kind {
	return []job.Kind{
		job.Internal, job.Invalid, job.NotFound, job.Conflict, job.Auth, job.Permission, job.Unavailable, job.Timeout,
		job.IO, job.NoSpace, job.Corrupt, job.Unsupported, job.CBTInvalid, job.Cancelled, job.Missing,
	}
}

// restarts counts the restarts of disks by the kind of the failure, from the reports. It begins at 0 with the daemon.
// Its methods may be called from many goroutines.
type restarts struct {
	mu   sync.Mutex
	seen map[job.ID]map[job.DiskID]int // restarts that were counted, of jobs that have not ended
	by   map[job.Kind]int
}

// follow counts what came since the last report of each job. first says that the reports are those of jobs that were
// there before: their restarts are not counted.
func (c *restarts) follow(reports []*report.Report, first bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range reports {
		c.job(r, first)
	}
}

func (c *restarts) job(r *report.Report, first bool) {
	if r.Origin == report.External {
		return
	}
	seen, ended := c.seen[r.JobID], r.Status.Terminal()
	if seen == nil {
		if ended {
			return
		}
		seen = map[job.DiskID]int{}
		c.seen[r.JobID] = seen
	}
	for _, d := range r.Disks {
		if more := d.Restarts - seen[d.DiskID]; more > 0 && !first && d.LastCause != nil {
			c.by[d.LastCause.Code] += more
		}
		seen[d.DiskID] = d.Restarts // fewer after a retry
	}
	if ended {
		delete(c.seen, r.JobID)
	}
}

func (c *restarts) counts() map[job.Kind]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.by)
}

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
