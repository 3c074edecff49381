package app

import (
	"io"
	"log/slog"

	"github.com/lmittmann/tint"
)

// NewLogger makes the daemon's logger: JSON lines, or text if the format is text, or auto on a terminal (tty). The text
// is in colour if colour is set.
func NewLogger(w io.Writer, cfg Log, tty, colour bool) *slog.Logger {
	var level slog.Level
	_ = level.UnmarshalText([]byte(cfg.Level)) // cannot fail after Load has checked it; if it does, info
	if cfg.Format == "text" || cfg.Format == "auto" && tty {
		return slog.New(tint.NewTextHandler(w, &tint.Options{
			Level: level, TimeFormat: "15:04:05.000",
			NoColor: !colour,
		}))
	}
	return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level}))
}
