package http

import (
	"github.com/prometheus/client_golang/prometheus"
)

// actorMetrics are the series of the daemon's actors.
type actorMetrics ActorState

// Describe sends nothing: the series differ from one request to the next.
func (actorMetrics) Describe(chan<- *prometheus.Desc) {}

// Collect sends every series.
func (m actorMetrics) Collect(out chan<- prometheus.Metric) {
	send := func(t prometheus.ValueType, name, help string, v float64, label string, value ...string) {
		var names []string
		if label != "" {
			names = []string{label}
		}
		out <- prometheus.MustNewConstMetric(prometheus.NewDesc("vmferry_"+name, help, names, nil), t, v, value...)
	}
	for actor, n := range m.Mailboxes {
		send(prometheus.GaugeValue, "actor_mailbox_messages", "Messages that wait for an actor.", float64(n), "actor",
			actor)
	}
	for kind, n := range m.Panics {
		send(prometheus.CounterValue, "actor_panics_total",
			"Panics of actors since the start of the daemon: faults of vmferry.", float64(n), "kind", kind)
	}
	send(prometheus.CounterValue, "jobs_revived_total",
		"Jobs that began again from the journal after a panic, since the start of the daemon.", float64(m.Revived), "")
	send(prometheus.GaugeValue, "jobs_down",
		"Jobs that stand still because their actors panicked too often; a retry begins them anew.", float64(m.Down), "")
}
