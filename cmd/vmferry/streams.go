package main

import (
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// streams is what a command speaks with: data goes to out, progress and words to err.
type streams struct {
	in       io.Reader
	out, err io.Writer
	getenv   func(string) string
}

// say writes one line of words.
func (s streams) say(format string, args ...any) {
	fmt.Fprintf(s.err, format+"\n", args...)
}

// terminal says whether w is one, and its width in columns.
func terminal(w any) (columns int, ok bool) {
	f, isFile := w.(*os.File)
	if !isFile {
		return 0, false
	}
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return 0, false
	}
	if size.Col == 0 {
		return 80, true
	}
	return int(size.Col), true
}

// coloured says whether words on w may have colours: on a terminal that can, unless NO_COLOR is set.
func (s streams) coloured(w io.Writer) bool {
	if s.getenv("NO_COLOR") != "" {
		return false
	}
	if f := s.getenv("CLICOLOR_FORCE"); f != "" && f != "0" {
		return true
	}
	_, tty := terminal(w)
	return tty && s.getenv("TERM") != "dumb"
}

// paint gives words a colour on the error stream, or not.
type paint bool

func (p paint) with(code, text string) string {
	if !p || text == "" {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

func (p paint) bold(t string) string   { return p.with("1", t) }
func (p paint) dim(t string) string    { return p.with("2", t) }
func (p paint) red(t string) string    { return p.with("31", t) }
func (p paint) green(t string) string  { return p.with("32", t) }
func (p paint) yellow(t string) string { return p.with("33", t) }
func (p paint) blue(t string) string   { return p.with("34", t) }
