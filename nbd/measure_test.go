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

// mostWritten is the most bytes that were in flight to a server at once, by the log of nbdkit's log filter.
func mostWritten(tb testing.TB, log string) (most int64) {
	tb.Helper()
	write := regexp.MustCompile(`connection=(\d+) (\.\.\.)?Write id=(\d+) (?:.*count=0x([0-9a-f]+))?`)
	inFlight, sum := map[string]int64{}, int64(0)
	for line := range strings.Lines(string(content(tb, log))) {
		m := write.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		id := m[1] + " " + m[3]
		if m[2] != "" {
			sum -= inFlight[id]
			continue
		}
		n, err := strconv.ParseInt(m[4], 16, 64)
		check(tb, err)
		inFlight[id] = n
		sum += n
		most = max(most, sum)
	}
	return most
}
