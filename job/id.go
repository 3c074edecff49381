package job

import (
	"encoding/hex"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// ID names a job. NewID makes ids like job-20250925-134230.513-8034ee. ParseID accepts any id of 1 to 128 characters of
// [A-Za-z0-9._:-], except "." and "..".
type ID string

// longestID is the most characters of an id. It is not part of the pattern: a repetition of 1 to 128 is compiled into
// 128 copies, at the start of each program.
const longestID = 128

var idPattern = regexp.MustCompile(`^[A-Za-z0-9._:-]+$`)

// NewID makes an id from a time (shown in UTC, to the millisecond) and three random bytes.
func NewID(now time.Time, random [3]byte) ID {
	return ID(fmt.Sprintf("job-%s-%s", now.UTC().Format("20060102-150405.000"), hex.EncodeToString(random[:])))
}

// ParseID checks an id that a caller gave. The error is of kind Invalid.
func ParseID(s string) (ID, error) {
	if len(s) > longestID || !idPattern.MatchString(s) || s == "." || s == ".." {
		return "", Errorf("read job id", Invalid, "Use 1 to 128 characters of A-Z, a-z, 0-9 and . _ : -",
			"%q is not a job id", clip(s, 140))
	}
	return ID(s), nil
}

// DiskID names a disk of a VM: disk-<device key>, as in disk-2000. It is unique within the VM only.
type DiskID string

// NewDiskID makes the id of the disk with this vSphere device key.
func NewDiskID(key int32) DiskID { return DiskID("disk-" + strconv.Itoa(int(key))) }

// Key is the vSphere device key in the id; false if there is none.
func (d DiskID) Key() (int32, bool) {
	s, ok := strings.CutPrefix(string(d), "disk-")
	n, err := strconv.ParseInt(s, 10, 32)
	return int32(n), ok && err == nil
}

// clip shortens s to most bytes for an error text.
func clip(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return s[:most] + "..."
}
