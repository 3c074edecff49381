package main

import (
	"fmt"
	"slices"
	"strings"
)

const intro = `# How fast a copy is

%s, measured on %s. This file is written by %s; run it to see the figures of your machine.

- Machine: %s.
- Programs: %s.

Every tool copies from the same servers (nbdkit with its defaults) to the same target. Our tool and a rival take turns,
and which is first alternates. A figure is the median of the pairs' ratios of ours to the rival's: **below 1 is faster,
or less**. The least and the greatest ratio and the number of pairs are in brackets. Our tool hashes all that it reads
and looks for zeros, unless said otherwise. The target is compared with the source after each pass (disks beyond 4 GiB
in a server's memory once for each tool); a target that keeps nothing cannot be compared.

- *Time* is from the start of a process to its end. *CPU* is that of the client and of all servers together. *Memory* is
  the client's peak, ours in MiB.
- *met*: all demands are met. *missed*: not all are. *lost*: missed, and slower than the rival.
`

// report is the document with all figures.
func report(b *bench, m machine, outcomes []outcome) string {
	var t strings.Builder
	_, _ = fmt.Fprintf(&t, intro, "`vmferry copy` against nbdcopy, qemu-img and a blocking loop", m.day, "`make bench`",
		m.hardware, m.programs)
	if b.scale < 1 {
		_, _ = fmt.Fprintf(&t,
			"\n**All sizes are %g of the usual ones: these figures only show that the bench works.**\n", b.scale)
	}
	t.WriteString("\n## Workloads\n\n")
	for _, u := range outcomes {
		_, _ = fmt.Fprintf(&t, "- **%s**: %s\n", u.name, u.what)
	}
	t.WriteString("\n## Ratios\n\n" +
		"| Workload | Compared with | Time | wanted | CPU | wanted | Memory | wanted | Result |\n" +
		"|---|---|---|---|---|---|---|---|---|\n")
	for _, u := range outcomes {
		u.writeRatios(&t)
	}
	t.WriteString("\n## Absolute figures\n\nMedians of all passes.\n\n" +
		"| Workload | Tool | Passes | Seconds | CPU seconds, client | CPU seconds, servers | Peak memory, MiB |\n" +
		"|---|---|---|---|---|---|---|\n")
	for _, u := range outcomes {
		u.writeFigures(&t)
	}
	return strings.ReplaceAll(t.String(), b.dir+"/", "")
}

func (u outcome) writeRatios(t *strings.Builder) {
	if u.err != nil {
		_, _ = fmt.Fprintf(t, "| %s | - | | | | | | | %s |\n", u.name, why(u.failed(), u.err))
	}
	for _, d := range u.duels {
		_, _ = fmt.Fprintf(t, "| %s | %s |", u.name, d.name)
		switch {
		case d.skip != "":
			_, _ = fmt.Fprintf(t, " | | | | | | %s |\n", d.skip)
		case d.err != nil:
			_, _ = fmt.Fprintf(t, " | | | | | | %s |\n", why(true, d.err))
		default:
			_, _ = fmt.Fprintf(t, " %s | %s | %.2f | %s | %.2f (%.0f MiB) | %s | %s |\n", d.timeText(),
				d.wanted(inTime),
				d.value(inCPU), d.wanted(inCPU), d.value(inMemory), d.value(inMiB), d.wanted(inMemory, inMiB),
				d.result())
		}
	}
}

// why is an error as the text of one cell.
func why(failed bool, err error) string {
	text := strings.NewReplacer("\n", " ", "|", "/").Replace(err.Error())
	if failed {
		return "**failed**: " + text
	}
	return "not run: " + text
}

func (d duel) timeText() string {
	x := d.ratios(wall)
	return fmt.Sprintf("**%.2f** (%.2f-%.2f, %d)", d.value(inTime), slices.Min(x), slices.Max(x), len(x))
}

// wanted are the demands on some quantities.
func (d duel) wanted(of ...quantity) string {
	var out []string
	for _, m := range d.demands {
		for _, q := range of {
			if m.of == q {
				out = append(out, m.String())
			}
		}
	}
	return strings.Join(out, "; ")
}

func (u outcome) writeFigures(t *strings.Builder) {
	var ours []sample
	for _, d := range u.duels {
		ours = append(ours, d.ours...)
	}
	writeFigures(t, u.name, u.ours, ours)
	for _, d := range u.duels {
		writeFigures(t, u.name, d.name, d.theirs)
	}
}

func writeFigures(t *strings.Builder, workload, tool string, s []sample) {
	if len(s) > 0 {
		_, _ = fmt.Fprintf(t, "| %s | %s | %d | %.2f | %.2f | %.2f | %.0f |\n", workload, tool, len(s),
			medianOf(s, wall), medianOf(s, client), medianOf(s, served), medianOf(s, peak))
	}
}
