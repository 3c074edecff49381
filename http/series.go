package http

import "github.com/prometheus/client_golang/prometheus"

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

// series are all kinds of series.
type series struct {
	build, streams, lag, redis, sinkUp, sinkSince                                    serie
	jobs, external, byHealth, byPhase, disksBy, restarts                             serie
	info, ratio, eta, stalled, speed, average, skipped, durable, verified, resent    serie
	snapshot, waiting, silent, phase, sampled                                        serie
	diskMoved, diskSize, diskToMove, diskResent, diskRestarts, diskSpeed, diskETA    serie
	diskSkipped, diskDurable, diskVerified, diskSilent                               serie
	vcenterUp, vcenterState, vcenterSince, vcenterChecked                            serie
	limitJobs, limitDisks, limitRate, limitHostDisks, limitHostConns, limitHostBytes serie
	limitHostRate, hostDisks, hostWaiting, hostConns, hostBytes                      serie
	mailbox, panics, revived, down                                                   serie
	hookPending, hookSent, hookFailed, hookDropped                                   serie
	linkUp, linkTrip, linkExpires, linkRefused, linkWaiting                          serie

	took *prometheus.Desc // a histogram
}

//nolint:funlen // one line for each kind
func newSeries() *series {
	return &series{
		build:   gaugeOf("build_info", "Always 1.", "version", "role"),
		streams: gaugeOf("sse_clients", "Event streams that are open."),
		lag:     gaugeOf("projection_lag_seconds", "Age of the oldest report that a sink has not taken.", "sink"),
		redis:   gaugeOf("redis_up", "1 while Redis takes reports; missing if none is configured."),

		jobs: gaugeOf("jobs", "Jobs by status.", "status"),
		external: gaugeOf("external_jobs",
			"Jobs of other copy tools by status. They have no series of their own.", "status"),
		byHealth: gaugeOf("jobs_by_health", "Jobs of vmferry that have not ended, by flag of their health.", "flag"),
		byPhase:  gaugeOf("jobs_by_phase", "Jobs of vmferry that have not ended, by phase.", "phase"),
		disksBy:  gaugeOf("disks", "Disks of jobs that have not ended, by status.", "status"),
		restarts: counterOf("restarts_total",
			"Attempts of disks that were begun again since the start of the daemon, by the kind of the failure.",
			"kind"),

		info:     gaugeOf("job_info", "Always 1; the VM, origin and mode of a job.", "job", "vm", "origin", "mode"),
		ratio:    gaugeOf("job_progress_ratio", "How much of a job is done, 0 to 1; 1 only once completed.", "job"),
		eta:      gaugeOf("job_eta_seconds", "Time until this round is copied; missing while unknown.", "job"),
		stalled:  gaugeOf("job_stalled", "1 while no byte moves though it should.", "job"),
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

		diskMoved: counterOf("disk_transferred_bytes_total", "Bytes that the target acknowledged in this round.", "job",
			"disk"),
		diskSize: gaugeOf("disk_size_bytes", "Capacity of a disk.", "job", "disk"),
		diskToMove: gaugeOf("disk_to_transfer_bytes", "Bytes that this round handles; missing while unknown.", "job",
			"disk"),
		diskResent: counterOf("disk_resent_bytes_total", "Bytes sent again in this round after restarts.", "job",
			"disk"),
		diskRestarts: counterOf("disk_restarts_total", "Restarts of a disk over all rounds.", "job", "disk"),
		diskSpeed: gaugeOf("disk_speed_bytes_per_second", "Speed of a disk; missing while nothing moves.", "job",
			"disk"),
		diskETA:     gaugeOf("disk_eta_seconds", "Time until this round of a disk is copied.", "job", "disk"),
		diskSkipped: gaugeOf("disk_skipped_bytes", "Zeros of this round that need not be sent.", "job", "disk"),
		diskDurable: gaugeOf("disk_durable_bytes", "Bytes of this round that no crash loses.", "job", "disk"),
		diskVerified: gaugeOf("disk_verified_bytes", "Bytes of this round that were read back and compared.", "job",
			"disk"),
		diskSilent: gaugeOf("disk_silent_since_timestamp_seconds",
			"Since when a request of the disk has no answer; missing if none is late.", "job", "disk"),

		linkUp:   gaugeOf("link_up", "1 while the link with a node is up; missing without one.", "node"),
		linkTrip: gaugeOf("link_round_trip_seconds", "Of the last ping; missing while the link is down.", "node"),
		linkExpires: gaugeOf("link_certificate_expires_timestamp_seconds",
			"When the certificate of a node ends; missing before it was seen.", "node"),
		linkRefused: counterOf("link_refused_total", "What a node has sent and was refused, by cause.", "node",
			"cause"),
		linkWaiting: gaugeOf("link_waiting_messages", "Messages that a node has not acknowledged.", "node"),

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

		hookPending: gaugeOf("webhook_pending", "Deliveries that a webhook has not taken yet.", "url"),
		hookSent:    counterOf("webhook_sent_total", "Deliveries that a webhook has taken since the start.", "url"),
		hookFailed:  counterOf("webhook_failed_tries_total", "Tries that a webhook did not take.", "url"),
		hookDropped: counterOf("webhook_dropped_total", "Deliveries that were given up since the start.", "url"),

		mailbox: gaugeOf("actor_mailbox_messages", "Messages that wait for an actor.", "actor"),
		panics: counterOf("actor_panics_total", "Panics of actors since the start of the daemon: faults of vmferry.",
			"kind"),
		revived: counterOf("jobs_revived_total",
			"Jobs that began again from the journal after a panic, since the start of the daemon."),
		down: gaugeOf("jobs_down",
			"Jobs that stand still because their actors panicked too often; a retry begins them anew."),

		took: prometheus.NewDesc("vmferry_stage_duration_seconds",
			"How long finished phases took; deleted jobs do not count.", []string{"phase"}, nil),
	}
}
