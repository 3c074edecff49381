package cli

import (
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// Streams is what a command reads from and writes to: data goes to Out, progress and words to Err.
type Streams struct {
	In       io.Reader
	Out, Err io.Writer
	Getenv   func(string) string
}

// Say writes one line of words to Err.
func (s Streams) Say(format string, args ...any) {
	fmt.Fprintf(s.Err, format+"\n", args...)
}

// Terminal says whether w is a terminal, and its width in columns.
func Terminal(w any) (columns int, ok bool) {
	columns, _, ok = TerminalSize(w)
	return columns, ok
}

// TerminalSize says whether w is a terminal, and its size now. rows is 0 if the terminal does not tell.
func TerminalSize(w any) (columns, rows int, ok bool) {
	f, isFile := w.(*os.File)
	if !isFile {
		return 0, 0, false
	}
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return 0, 0, false
	}
	if size.Col == 0 {
		return 80, 0, true
	}
	return int(size.Col), int(size.Row), true
}

// Coloured says whether words on w may have colours: on a terminal, unless NO_COLOR is set or TERM is dumb; always with
// CLICOLOR_FORCE.
func (s Streams) Coloured(w io.Writer) bool {
	if s.Getenv("NO_COLOR") != "" {
		return false
	}
	if f := s.Getenv("CLICOLOR_FORCE"); f != "" && f != "0" {
		return true
	}
	_, tty := Terminal(w)
	return tty && s.Getenv("TERM") != "dumb"
}

// Paint colours words if true.
type Paint bool

func (p Paint) with(code, text string) string {
	if !p || text == "" {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

// Bold is for headings.
func (p Paint) Bold(t string) string { return p.with("1", t) }

// Yellow is for trouble.
func (p Paint) Yellow(t string) string { return p.with("33", t) }

func (p Paint) dim(t string) string   { return p.with("2", t) }
func (p Paint) red(t string) string   { return p.with("31", t) }
func (p Paint) green(t string) string { return p.with("32", t) }
func (p Paint) blue(t string) string  { return p.with("34", t) }
