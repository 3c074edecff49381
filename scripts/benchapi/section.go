package main

import (
	"fmt"
	"math"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/vmferry/vmferry/scripts/document"
)

// marks are those between which the figures stand in the document.
var marks = document.Marks{ //nolint:gochecknoglobals // a constant
	Begin: "<!-- benchapi: written by make bench-api -->", End: "<!-- benchapi: end -->",
}

// figure is one measured number.
type figure struct {
	name, unit    string
	value, wanted string
	met           bool
	demanded      bool
}

func inTime(name, unit string, took, wanted time.Duration) figure {
	f := figure{name: name, unit: unit, value: milliseconds(took), met: took <= wanted, demanded: wanted > 0}
	if f.demanded {
		f.wanted = "≤ " + milliseconds(wanted)
	}
	return f
}

func inMiB(name string, value, wanted float64) figure {
	return figure{
		name: name, unit: "memory", value: fmt.Sprintf("%.0f MiB", value), wanted: fmt.Sprintf("≤ %.0f MiB", wanted),
		met: value <= wanted, demanded: true,
	}
}

func milliseconds(d time.Duration) string {
	return strconv.FormatFloat(math.Round(d.Seconds()*1e6)/1000, 'f', -1, 64) + " ms"
}

// section is the part of the document with all figures.
func section(o options, before, after string, figures []figure) string {
	var t strings.Builder
	_, _ = fmt.Fprintf(&t, `%s
## API

What requests cost the daemon, measured on %s by `+"`make bench-api`"+` with %d external jobs and %d
event streams. CPU is the daemon's user and system time for one request, with all that it does meanwhile; elapsed is
from the client's side, on the same machine. %d cores, load average %s at the start, %s at the end.

| What | Unit | Figure | Wanted | Result |
|---|---|---|---|---|
`, marks.Begin, time.Now().Format("2 January 2006"), o.jobs, o.clients, runtime.NumCPU(), before, after)
	for _, f := range figures {
		_, _ = fmt.Fprintf(&t, "| %s | %s | %s | %s | %s |\n", f.name, f.unit, f.value, f.wanted,
			document.Result(f.demanded, f.met))
	}
	t.WriteString(marks.End + "\n")
	return t.String()
}
