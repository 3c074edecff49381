package volumes

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vmferry/vmferry/nbd"
)

// A stamp is text that differs after any write to a volume: key=value for each fact. Of a file these are its size and
// both times of change: mtime can be set back, ctime can't. Of a device they are the kernel's counts of writes and
// discards, which hold for one boot, and of a loop device also the stamp of its backing file. An export has none.

const oldStamp = "changed=" // stamps of earlier versions: mtime in ns

// stampOf takes the stamp of an open volume. All that was written before must be durable, so that no late write of the
// kernel changes it; settled sees to that.
func stampOf(f *os.File, kind nbd.Kind) (string, error) {
	if kind == nbd.Block {
		return stampDevice(f)
	}
	return stampFile(f)
}

func stampFile(f *os.File) (string, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return "", err
	}
	return fmt.Sprintf("size=%d mtime=%d ctime=%d", st.Size, st.Mtim.Nano(), st.Ctim.Nano()), nil
}

func stampDevice(f *os.File) (string, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return "", err
	}
	d := sysDevice(st.Rdev)
	var facts []string
	// Documentation/block/stat.rst: field 7 are sectors written, 12 and 14 discards. Field 5, write requests, also
	// counts flushes, our own as well.
	if n := strings.Fields(d.read("stat")); len(n) >= 14 && d.read("queue/iostats") != "0" {
		facts = append(facts, fmt.Sprintf("writes=%s,%s,%s seq=%s boot=%s", n[6], n[11], n[13], d.read("diskseq"),
			bootID()))
	}
	if file, ok := d.backingFile(); ok && file.stamp != "" {
		facts = append(facts, "backing="+url.QueryEscape(file.stamp))
	}
	return strings.Join(facts, " "), nil
}

// settled makes all that was written durable and takes the stamp. It returns when a later write gets another stamp:
// the kernel's clock for files moves in steps of some milliseconds.
func settled(ctx context.Context, f *os.File, kind nbd.Kind) (string, error) {
	if err := f.Sync(); err != nil {
		return "", err
	}
	if kind == nbd.File {
		if err := clockMovedOn(ctx, f); err != nil {
			return "", err
		}
	}
	return stampOf(f, kind)
}

// clockMovedOn waits until the kernel's coarse clock has left the time at which the file was changed last.
func clockMovedOn(ctx context.Context, f *os.File) error {
	for range 100 {
		var st unix.Stat_t
		if err := unix.Fstat(int(f.Fd()), &st); err != nil {
			return err
		}
		var now unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_REALTIME_COARSE, &now); err != nil {
			return err
		}
		if now.Nano() > st.Ctim.Nano() {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(time.Millisecond):
		}
	}
	return nil // a clock that went back: the next change may not be seen
}

func parseStamp(stamp string) map[string]string {
	facts := map[string]string{}
	for word := range strings.FieldsSeq(stamp) {
		key, value, _ := strings.Cut(word, "=")
		facts[key] = value
	}
	return facts
}

// sizeIn is the size of a file that a stamp holds; 0 if it holds none.
func sizeIn(stamp string) int64 {
	n, err := strconv.ParseInt(parseStamp(stamp)["size"], 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// comparison is what two stamps tell.
type comparison int

const (
	unchanged comparison = iota
	changed
	unknown // they can't be compared
)

// compareStamps says whether there was a write between two stamps.
func compareStamps(before, now string) comparison {
	if before == "" || now == "" {
		return unknown
	}
	was, is := parseStamp(before), parseStamp(now)
	if strings.HasPrefix(before, oldStamp) {
		return whether(was["changed"] == is["mtime"])
	}
	if was["mtime"] != "" {
		return whether(before == now)
	}
	backing := unknown
	if was["backing"] != "" && is["backing"] != "" {
		backing = whether(was["backing"] == is["backing"])
	}
	if backing == changed || was["boot"] != is["boot"] || was["boot"] == "" || was["seq"] != is["seq"] {
		return backing // counts of another boot, or of a device that was attached anew, tell nothing
	}
	return whether(was["writes"] == is["writes"])
}

func whether(equal bool) comparison {
	if equal {
		return unchanged
	}
	return changed
}
