package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"time"

	"github.com/vmferry/vmferry/job"
)

// asked is a read that a server of an export was asked for.
type asked struct {
	at time.Time
	job.Extent
}

// A line of nbdkit's log: 2026-11-30 03:54:48.309149 connection=1 Read id=2 offset=0x1000 count=0x2000 ...
var readLine = regexp.MustCompile(
	`^(\S+ \S+) connection=\d+ Read id=\d+ offset=(0x[0-9a-f]+) count=(0x[0-9a-f]+)`)

// readsOf returns all reads in the log of a server. Times are those when a read began.
func readsOf(path string) (all []asked, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	s := bufio.NewScanner(f)
	for s.Scan() {
		m := readLine.FindStringSubmatch(s.Text())
		if m == nil {
			continue
		}
		at, err := time.ParseInLocation("2006-01-02 15:04:05.000000", m[1], time.Local)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		off, err1 := strconv.ParseInt(m[2], 0, 64)
		n, err2 := strconv.ParseInt(m[3], 0, 64)
		if err := errors.Join(err1, err2); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		all = append(all, asked{at, job.Extent{Offset: off, Length: n}})
	}
	return all, s.Err()
}
