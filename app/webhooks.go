package app

import (
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"path/filepath"
	"slices"
	"time"

	"github.com/vmferry/vmferry/http/rest"
	"github.com/vmferry/vmferry/nbd"
	"github.com/vmferry/vmferry/report"
	"github.com/vmferry/vmferry/store"
	"github.com/vmferry/vmferry/webhook"
)

const mostWebhooks = 20

// checkWebhooks refuses what cannot work. Any address is allowed, also a private one: it is the operator's file.
func (cfg *Config) checkWebhooks() error {
	if len(cfg.Webhooks) > mostWebhooks {
		return wrong("webhooks", fmt.Sprintf("Keep at most %d", mostWebhooks), "there are %d", len(cfg.Webhooks))
	}
	seen := map[string]bool{}
	for i, w := range cfg.Webhooks {
		key := func(name string) string { return fmt.Sprintf("webhooks[%d].%s", i, name) }
		u, err := url.Parse(w.URL)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil {
			return wrong(key("url"), "Write it as in https://tickets.example.org/vmferry, without user and password",
				"this is not an http or https address")
		}
		u.RawQuery, u.Fragment = "", ""
		if seen[u.String()] {
			return wrong(key("url"), "Name it once, with all its events", "this address is named twice")
		}
		seen[u.String()] = true
		for _, e := range w.Events {
			if !slices.Contains(webhook.Events(), webhook.Event(e)) {
				return wrong(key("events"), "Use failed, waiting_cutover or completed", "%q is not an event", e)
			}
		}
		if w.SecretFile == "" {
			return wrong(key("secret_file"), "Write a secret into a file with mode 0600 and name it here",
				"what is sent must be signed")
		}
		if err := checkSecretFile(key("secret_file"), w.SecretFile); err != nil {
			return err
		}
	}
	return nil
}

// hooks are the webhooks as the sender takes them.
func (cfg *Config) hooks() []webhook.Hook {
	out := make([]webhook.Hook, 0, len(cfg.Webhooks))
	for _, w := range cfg.Webhooks {
		h := webhook.Hook{URL: w.URL, SecretFile: w.SecretFile, Events: webhook.Events()}
		if len(w.Events) > 0 {
			h.Events = nil
			for _, e := range w.Events {
				h.Events = append(h.Events, webhook.Event(e))
			}
		}
		out = append(out, h)
	}
	return out
}

// openWebhooks is for after the node has begun: the reports of the jobs of before the restart are there then.
func openWebhooks(cfg Config, dirs folders, log *slog.Logger) *webhook.Sender {
	return webhook.New(filepath.Join(dirs.state, "webhooks.json"), nbd.WriteDurably, cfg.hooks(), log, time.Now)
}

// runWebhooks follows the reports until the daemon stops. The jobs have stopped before.
func runWebhooks(start startContext, end *ending, s *webhook.Sender, memory *store.Memory) {
	snapshot, _, _, sub := memory.Subscribe(report.Version{})
	end.during(start, func(ctx context.Context) {
		defer sub.Close()
		s.Run(ctx, webhook.Follow{Snapshot: snapshot, Next: sub.NextChanges})
	})
}

// webhookStates are the webhooks for GET /api/v1/system and the metrics.
func webhookStates(s *webhook.Sender) []rest.Webhook {
	out := []rest.Webhook{}
	for _, h := range s.Health() {
		w := rest.Webhook{
			URL: h.URL, Pending: h.Pending, Sent: h.Sent, FailedTries: h.Failed, Dropped: h.Dropped,
			OK: h.Message == "", Message: h.Message,
		}
		for _, e := range h.Events {
			w.Events = append(w.Events, string(e))
		}
		if !h.SentAt.IsZero() {
			at := h.SentAt.UTC()
			w.SentAt = &at
		}
		if !w.OK {
			w.Next = "Look whether the receiver answers with 2xx; what was not sent is kept for a day"
		}
		out = append(out, w)
	}
	return out
}
