package main

import (
	"fmt"
	"html"
	"regexp"
	"strconv"
	"strings"
)

// Sizes in pixels.
const (
	cell   = 7.22
	row    = 16
	margin = 16
	bar    = 28 // above each frame
)

// svg draws the frames below each other, each as a window of its width.
func svg(frames []frame) string {
	var body strings.Builder
	y, most := margin, 0
	for _, f := range frames {
		lines := strings.Split(strings.TrimRight(f.text, "\n "), "\n")
		w, h := int(float64(f.columns)*cell)+2*margin, bar+row*len(lines)+margin
		most = max(most, w)
		fmt.Fprintf(&body, `<text x="%d" y="%d" fill="#8a94a6">%s</text>`+"\n", margin, y+8,
			html.EscapeString(f.title))
		fmt.Fprintf(&body, `<rect x="%d" y="%d" width="%d" height="%d" rx="6" fill="#14181f"/>`+"\n", margin, y+16,
			w, h-16)
		for i, line := range lines {
			fmt.Fprintf(&body, `<text x="%d" y="%d">%s</text>`+"\n", 2*margin, y+bar+row*(i+1)-4, spans(line))
		}
		y += h + margin
	}
	return fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" width="%[1]d" height="%[2]d" viewBox="0 0 %[1]d %[2]d"
 role="img" aria-label="vmferry watch in terminals of 200, 80, 40 and 100 columns">
<rect width="100%%" height="100%%" fill="#ffffff"/>
<g font-family="ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace" font-size="12" fill="#d5dae3"
 xml:space="preserve">
%[3]s</g>
</svg>
`, most+2*margin, y, body.String())
}

var sequence = regexp.MustCompile(`\x1b\[([0-9;]*)m`)

// spans turns the colour sequences of a line into spans.
func spans(line string) string {
	var out strings.Builder
	style := map[string]string{}
	at := 0
	write := func(text string) {
		if text == "" {
			return
		}
		out.WriteString("<tspan")
		for _, k := range []string{"fill", "font-weight", "opacity"} {
			if v := style[k]; v != "" {
				fmt.Fprintf(&out, ` %s="%s"`, k, v)
			}
		}
		out.WriteString(">" + html.EscapeString(text) + "</tspan>")
	}
	for _, m := range sequence.FindAllStringSubmatchIndex(line, -1) {
		write(line[at:m[0]])
		at = m[1]
		for code := range strings.SplitSeq(line[m[2]:m[3]], ";") {
			apply(style, code)
		}
	}
	write(line[at:])
	return out.String()
}

// apply changes the style as a code of a terminal says.
func apply(style map[string]string, code string) {
	palette := map[int]string{31: "#ff7b72", 32: "#8bd49c", 33: "#e3b341", 34: "#79b8ff"}
	switch n, _ := strconv.Atoi(code); {
	case n == 0:
		clear(style)
	case n == 1:
		style["font-weight"] = "bold"
	case n == 2:
		style["opacity"] = ".6"
	case n == 22:
		delete(style, "font-weight")
		delete(style, "opacity")
	case n == 39:
		delete(style, "fill")
	case palette[n] != "":
		style["fill"] = palette[n]
	}
}
