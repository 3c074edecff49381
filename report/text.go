package report

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// OneLine replaces all white space in a text by single spaces, and by U+FFFD what would command a terminal or turn the
// direction of its text: names and messages come from guests, servers and other tools.
func OneLine(t string) string { return strings.Map(Shown, strings.Join(strings.Fields(t), " ")) }

// Shown is the letter itself, or U+FFFD for one that would command a terminal or turn the direction of its text.
func Shown(r rune) rune {
	if unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) {
		return utf8.RuneError
	}
	return r
}

// Plural is a number of things: 1 disk, 2 disks.
func Plural(n int, one string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %ss", n, one)
}
