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
	Begin: "<!-- benchpage: written by make bench-page -->", End: "<!-- benchpage: end -->",
}

// figure is one measured number.
type figure struct {
	name, value, wanted string
	met                 bool
}

// most is a number that must not be greater than another.
func most(name string, value, wanted float64, unit string) figure {
	return figure{
		name: name, value: number(value) + " " + unit, wanted: "≤ " + number(wanted) + " " + unit,
		met: value <= wanted,
	}
}

func number(v float64) string {
	if v >= 100 {
		return strconv.Itoa(int(math.Round(v)))
	}
	return strconv.FormatFloat(math.Round(v*10)/10, 'f', -1, 64)
}

// section is the part of the document with all figures.
func section(o options, before, after string, figures []figure) string {
	var t strings.Builder
	_, _ = fmt.Fprintf(&t, `%s
## Page

What the page costs a browser, measured on %s by `+"`make bench-page`"+` in Chromium, on a daemon with %d jobs of
other copy tools, %d of which run and change four times a second. Browser, daemon and the tools share the machine:
%d cores, load average %s at the start, %s at the end.

| What | Figure | Wanted | Result |
|---|---|---|---|
`, marks.Begin, time.Now().Format("2 January 2006"), o.listed, o.running, runtime.NumCPU(), before, after)
	for _, f := range figures {
		_, _ = fmt.Fprintf(&t, "| %s | %s | %s | %s |\n", f.name, f.value, f.wanted,
			document.Result(f.wanted != "", f.met))
	}
	t.WriteString(marks.End + "\n")
	return t.String()
}
