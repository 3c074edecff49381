// Command words checks the texts of this repository. It reads each file that git tracks:
//
//	words    no coined word where the field has a word: in names, comments, strings and documents (list.go)
//	width    no line of Go, or of the page's sources, beyond 120 columns
//	next     the next step of an error begins with a capital letter or a command, and ends without a full stop
//	records  a decision in docs/adr begins with its number and its title
//
// It prints one line for each finding, `file:line: what`, and exits with 1 if there is any. Run it from the root.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
)

const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

func main() {
	if len(os.Args) > 1 {
		fmt.Fprintln(os.Stderr, "words: no arguments")
		os.Exit(exitUsage)
	}
	//nolint:forbidigo // the root of all
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, ".", os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run checks the tracked files of the repository at dir.
func run(ctx context.Context, dir string, out, problems io.Writer) int {
	names, err := tracked(ctx, dir)
	if err != nil {
		fmt.Fprintln(problems, "words:", err)
		return exitFailed
	}
	code := exitOK
	check := newChecker()
	for _, name := range names {
		src, err := os.ReadFile(filepath.Join(dir, name))
		switch {
		case errors.Is(err, fs.ErrNotExist): // removed, and not yet from the index
			continue
		case err != nil:
			fmt.Fprintln(problems, "words:", err)
			return exitFailed
		}
		for _, f := range check.file(name, src) {
			fmt.Fprintln(out, f)
			code = exitFailed
		}
	}
	return code
}

// tracked lists the files of the index, with slashes.
func tracked(ctx context.Context, dir string) ([]string, error) {
	cmd := exec.CommandContext(ctx, "git", "ls-files", "-z")
	cmd.Dir = dir
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("git ls-files: %w: %s", err, strings.TrimSpace(stderr.String()))
	}
	return strings.FieldsFunc(string(out), func(r rune) bool { return r == 0 }), nil
}
