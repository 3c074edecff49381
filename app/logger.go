package app

import (
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

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
	return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level, ReplaceAttr: harmless}))
}

// harmless replaces by U+FFFD what would command the terminal on which a log is read, or turn the direction of its
// text: names and messages come from guests, servers and other tools. JSON escapes only the first 32 characters; the
// handler for text escapes all of these.
func harmless(_ []string, a slog.Attr) slog.Attr {
	var text string
	switch v := a.Value.Any().(type) {
	case string:
		text = v
	case error:
		text = v.Error()
	case time.Time, time.Duration, int64, uint64, float64, bool, slog.Level:
		return a
	default:
		text = fmt.Sprintf("%+v", v)
	}
	if strings.ContainsFunc(text, commanding) {
		a.Value = slog.StringValue(strings.Map(func(r rune) rune {
			if commanding(r) {
				return utf8.RuneError
			}
			return r
		}, text))
	}
	return a
}

func commanding(r rune) bool {
	return r >= 0x7f && unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r)
}
