package main

import "fmt"

// workload is one thing to copy.
type workload struct {
	name   string
	what   string // for the report; ends with a full stop
	memory int64  // bytes that its servers hold at full size
	build  func(r *rig) contest
}

// contest is a workload that is set up: its tools and its target.
type contest struct {
	ours   tool
	rivals []rival
	target target
	times  int // as many pairs as usual, for small differences; 0 means 1
}

// against is the same contest with an earlier vmferry as the only rival; path "" changes nothing.
func (c contest) against(path string) contest {
	if path == "" {
		return c
	}
	earlier := tool{name: "the earlier " + c.ours.name}
	for _, argv := range c.ours.commands {
		earlier.commands = append(earlier.commands, append([]string{path}, argv[1:]...))
	}
	c.rivals = []rival{against(earlier, timeAtMost(1.1))}
	return c
}

// tool is a way to copy.
type tool struct {
	name     string     // as in the report
	commands [][]string // started at the same moment; done when all are
}

// rival is a tool that ours is compared with.
type rival struct {
	tool
	demands []demand // none: for information
	ourself bool     // the rival is our tool, with other flags
	skip    string   // why there are no passes; "" if there are
}

// demand is a figure that ours has to reach.
type demand struct {
	of     quantity
	most   float64
	better float64 // a goal below most; 0 for none
}

// quantity is what a demand is about.
type quantity string

const (
	inTime   quantity = "time"   // ratio to the rival's
	inCPU    quantity = "CPU"    // of client and servers, ratio to the rival's
	inMemory quantity = "memory" // peak of the client, ratio to the rival's
	inMiB    quantity = "MiB"    // peak of our client
)

func (d demand) String() string {
	unit := ""
	if d.of == inMiB {
		unit = " MiB"
	}
	text := fmt.Sprintf("≤ %s%s", number(d.most, d.of), unit)
	if d.better > 0 {
		text += fmt.Sprintf(", better %s", number(d.better, d.of))
	}
	return text
}

func number(v float64, of quantity) string {
	if of == inMiB {
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// skippedError says why a workload cannot be run here. That is no failure.
type skippedError struct{ why string }

func (e skippedError) Error() string { return e.why }
