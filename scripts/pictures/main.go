// Pictures draws docs/img/watch.svg: what vmferry watch shows on real terminals of several widths, after a terminal
// became narrow, while the daemon is gone, when it is back, and at the end. tmux is the terminal; the job, the daemon
// and the rehearsal vCenter are real.
//
//	go run ./scripts/pictures [-vmferry bin/vmferry] [-o docs/img/watch.svg]
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
)

func main() {
	program := flag.String("vmferry", "bin/vmferry", "the program")
	out := flag.String("o", "docs/img/watch.svg", "the picture")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt) //nolint:forbidigo // the root
	defer stop()
	path, err := filepath.Abs(*program)
	if err == nil {
		err = draw(ctx, path, *out, 400<<20)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "pictures:", err)
		os.Exit(1) //nolint:gocritic // nothing is left to undo
	}
}

// draw runs the session, and writes its frames as one picture. data is how many bytes each disk holds.
func draw(ctx context.Context, program, out string, data int64) error {
	frames, err := session(ctx, program, data)
	if err != nil {
		return err
	}
	return os.WriteFile(out, []byte(svg(frames)), 0o644) //nolint:gosec // a picture for everybody
}
