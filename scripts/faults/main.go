// Command faults runs the tests of the fault table and prints the table. A fault names its tests, or the reason why it
// cannot be tried here.
//
//	for each package: go test -json -run '^(the tests of its faults)$'
//	print the table; write it as a document with -out
//
// The exit code is 1 if a test fails, is missing, or was skipped.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"text/tabwriter"
)

func main() {
	out := flag.String("out", "", "write the table as a document to this file, and run nothing")
	flag.Parse()
	if flag.NArg() > 0 {
		fmt.Fprintln(os.Stderr, "faults: flags only")
		os.Exit(2)
	}
	if *out != "" {
		//nolint:gosec // a document, to be read by all
		if err := os.WriteFile(*out, []byte(document()), 0o644); err != nil {
			fmt.Fprintln(os.Stderr, "faults:", err)
			os.Exit(1)
		}
		return
	}
	//nolint:forbidigo // the root of all
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Stdout)
	stop()
	os.Exit(code)
}

func run(ctx context.Context, w io.Writer) int {
	results, err := tryAll(ctx, table())
	if err != nil {
		fmt.Fprintln(os.Stderr, "faults:", err)
		return 1
	}
	bad := 0
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, f := range table() {
		verdict := f.verdict(results)
		if verdict != passed && verdict != notHere {
			bad++
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", f.number, verdict, f.title, f.where())
	}
	if err := t.Flush(); err != nil {
		return 1
	}
	fmt.Fprintf(w, "%d faults, %d did not pass\n", len(table()), bad)
	if bad > 0 {
		return 1
	}
	return 0
}

// document is the table as docs/faults.md.
func document() string {
	var b strings.Builder
	b.WriteString(
		"# What was broken on purpose\n\n`make faults` runs this table. After each fault the job is complete with " +
			"equal bytes, was refused, or has failed and names\nthe disk; no process, file or snapshot is left over. " +
			"The numbers are only names. `scripts/faults -out` writes this file.\n\n" +
			"| fault | how it is made | tried by |\n|---|---|---|\n")
	for _, f := range table() {
		fmt.Fprintf(&b, "| %s %s | %s | %s |\n", f.number, f.title, f.how, f.where())
	}
	return b.String()
}
