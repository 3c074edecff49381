package app

import (
	"context"
	"log/slog"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"github.com/vmferry/vmferry/http/rest"
)

// watchdog notifies systemd's watchdog as long as the daemon answers its own requests, three times in the interval that
// systemd demands. It returns when ctx ends, or at once if systemd has no watchdog for this process.
func watchdog(ctx context.Context, url string, log *slog.Logger) {
	every, err := daemon.SdWatchdogEnabled(false)
	if err != nil || every <= 0 {
		return
	}
	c, err := rest.NewClient(url)
	if err != nil {
		log.Warn("the watchdog cannot make requests", "err", err)
		return
	}
	defer c.Close()
	tick := time.NewTicker(every / 3)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := alive(ctx, c, every/3); err != nil && ctx.Err() == nil {
			log.Error("the daemon does not answer itself", "err", err)
			continue
		}
		notify(log, daemon.SdNotifyWatchdog)
	}
}

func alive(ctx context.Context, c *rest.Client, within time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	_, err := c.System(ctx)
	return err
}
