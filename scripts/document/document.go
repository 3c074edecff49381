// Package document is for the programs that measure: each has a section of its own in a document of the project, which
// it writes anew.
package document

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
)

// Marks are the lines between which a section stands. Each is a line of its own, without the line end.
type Marks struct{ Begin, End string }

// Insert puts a section, which begins and ends with the marks, into a document: in the place of an earlier one, else at
// the end.
func (m Marks) Insert(document, section string) string {
	before, rest, found := strings.Cut(document, m.Begin)
	_, after, ended := strings.Cut(rest, m.End+"\n")
	if !found || !ended {
		return strings.TrimRight(document, "\n") + "\n\n" + section
	}
	return before + section + after
}

// Write is Insert for a file. It does nothing for the path "".
func (m Marks) Write(path, section string) error {
	if path == "" {
		return nil
	}
	old, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	text := m.Insert(string(old), section)
	return os.WriteFile(path, []byte(text), 0o644) //nolint:gosec // a document for everybody
}

// Run is the main function of a program that measures. run is cancelled by an interrupt and by SIGTERM; if it fails,
// the process ends with 1 and the reason.
func Run(name string, run func(ctx context.Context, stdout io.Writer) error) {
	//nolint:forbidigo // the root of all
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Stdout)
	stop()
	if err != nil {
		_, _ = fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
		os.Exit(1)
	}
}

// Result says in a table whether a figure is as it was demanded; "" if nothing was.
func Result(demanded, met bool) string {
	switch {
	case !demanded:
		return ""
	case met:
		return "met"
	default:
		return "**missed**"
	}
}

// LoadAverage is that of the last minute, or "unknown".
func LoadAverage() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	first, _, _ := strings.Cut(string(text), " ")
	return first
}
