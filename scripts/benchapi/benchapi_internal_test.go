package main

import (
	"strings"
	"testing"
	"time"
)

func TestTheFiguresTakeThePlaceOfEarlierOnesAndNothingElse(t *testing.T) {
	one := section(options{jobs: 1}, "0.1", "0.2", []figure{
		inTime("POST", "CPU", time.Millisecond, 2*time.Millisecond),
	})
	two := section(options{jobs: 2}, "0.1", "0.2", []figure{inMiB("memory", 301, 300)})
	with := marks.Insert("# Title\n\ntext\n", one)
	if !strings.HasPrefix(with, "# Title\n\ntext\n\n"+marks.Begin) ||
		!strings.Contains(with, "| 1 ms | ≤ 2 ms | met |") {
		t.Errorf("at the end:\n%s", with)
	}
	if got := marks.Insert(with+"\nmore\n", two); got != strings.Replace(with+"\nmore\n", one, two, 1) ||
		!strings.Contains(got, "**missed**") {
		t.Errorf("in the place of the earlier ones:\n%s", got)
	}
}

func TestTheCPUTimeOfAProgramIsReadWhateverItsName(t *testing.T) {
	got, err := cpuOf([]byte("7 (a) b (c) S 1 1 1 0 -1 4194560 100 0 0 0 150 50 0 0 20 0"))
	if err != nil || got != 2*time.Second {
		t.Errorf("%v %v", got, err)
	}
	if _, err := cpuOf([]byte("7 (a) S")); err == nil {
		t.Error("too few fields were read")
	}
}

func TestAnEventTellsWhenItsUpdateWasPosted(t *testing.T) {
	got, ok := postedAt([]byte(`data: {"job_id":"a","bytes_transferred":1500,"disks":[{"bytes_transferred":7}]}`))
	if !ok || got != 1500*time.Microsecond {
		t.Errorf("%v %v", got, ok)
	}
	if _, ok := postedAt([]byte(`data: {"jobs":[{"job_id":"a","bytes_transferred":1500}]}`)); ok {
		t.Error("a snapshot was taken for an event")
	}
}
