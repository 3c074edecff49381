package app_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"unicode"

	"github.com/vmferry/vmferry/app"
	"github.com/vmferry/vmferry/job"
)

func TestANameCommandsNoTerminalThroughTheLog(t *testing.T) {
	evil := "\x1b]0;x\x07\u202e\u2066\x1b[2J\u009b1m\x7f\x00" + strings.Repeat("<b>", 170)
	for _, format := range []string{"json", "text"} {
		var out bytes.Buffer
		log := app.NewLogger(&out, app.Log{Level: "info", Format: format}, false, false)
		log.Info("job submitted", "vm", evil, "err", errors.New(evil), "list", []string{evil},
			"target", struct{ V string }{evil}, "token", job.NewSecret("vmf_secret"))
		log.With("vm", evil).WithGroup("g").Warn("again", "disk", evil)
		text := out.String()
		if at := strings.IndexFunc(text, func(r rune) bool {
			return r != '\n' && (unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r))
		}); at >= 0 {
			t.Errorf("%s: %q", format, text[max(0, at-40):min(len(text), at+10)])
		}
		if n := strings.Count(text, "\n"); n != 2 || strings.Contains(text, "vmf_secret") {
			t.Errorf("%s: %d lines: %s", format, n, text)
		}
		if !strings.Contains(text, "<b><b>") && !strings.Contains(text, `\u003cb`) {
			t.Errorf("%s: the name is lost: %s", format, text)
		}
	}
}
