package nbd_test

import (
	"os"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// blocks is how much of the disk a file uses, in bytes.
func blocks(tb testing.TB, path string) int64 {
	tb.Helper()
	info, err := os.Stat(path)
	check(tb, err)
	return info.Sys().(*syscall.Stat_t).Blocks * 512
}

// readBytes adds up the reads in a log of nbdkit's log filter.
func readBytes(tb testing.TB, log string) (sum int64) {
	tb.Helper()
	count := regexp.MustCompile(` Read id=.* count=0x([0-9a-f]+)`)
	for line := range strings.Lines(string(content(tb, log))) {
		if m := count.FindStringSubmatch(line); m != nil {
			n, err := strconv.ParseInt(m[1], 16, 64)
			check(tb, err)
			sum += n
		}
	}
	return sum
}
