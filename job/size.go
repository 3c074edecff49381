package job

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// ParseSize reads a number of bytes as people write it: "1048576", "200MiB", "1.5GiB", "10M". K, M, G and T, alone or
// followed by i or iB, mean powers of 1024; KB, MB, GB and TB mean powers of 1000. A "/s" at the end is ignored. The
// error is of kind Invalid.
func ParseSize(s string) (int64, error) {
	text := strings.TrimSpace(s)
	i := strings.IndexFunc(text, func(r rune) bool { return (r < '0' || r > '9') && r != '.' })
	if i < 0 {
		i = len(text)
	}
	n, err := strconv.ParseFloat(text[:i], 64)
	unit, ok := sizeUnit(strings.ToLower(strings.TrimSpace(text[i:])))
	if err != nil || !ok || n*unit >= math.MaxInt64 {
		return 0, Errorf("read size", Invalid, "Write it as in 1048576, 64KiB, 200MiB or 1.5GiB",
			"%q is not a number of bytes", clip(s, 40))
	}
	return int64(n * unit), nil
}

// ParseRate reads a bandwidth in bytes per second, as ParseSize reads a size; 0 is no limit. A rate so low that no disk
// could be moved at it is refused: most often its unit was left out. The error is of kind Invalid.
func ParseRate(s string) (int64, error) {
	n, err := ParseSize(s)
	if err != nil || n == 0 || n >= leastBandwidth {
		return n, err
	}
	text, next := strings.TrimSpace(s), "Use a rate of at least 64KiB, such as 200MiB, or 0 for no limit"
	if strings.Trim(text, "0123456789.") == "" {
		next = "Write a unit, as in " + text + "MiB; the least is 64KiB"
	}
	return 0, Errorf("read rate", Invalid, next, "%s is %d bytes a second", clip(text, 40), n)
}

// sizeUnit is the bytes of a unit in lower case; false if there is no such unit.
func sizeUnit(u string) (float64, bool) {
	u = strings.TrimSuffix(u, "/s")
	if u == "" || u == "b" {
		return 1, true
	}
	power := strings.IndexByte("kmgt", u[0]) + 1
	if power == 0 {
		return 0, false
	}
	switch u[1:] {
	case "", "i", "ib":
		return math.Pow(1024, float64(power)), true
	case "b":
		return math.Pow(1000, float64(power)), true
	default:
		return 0, false
	}
}

// FormatSize writes a number of bytes in binary units with at most one decimal: 64 KiB, 1.5 GiB.
func FormatSize(n int64) string {
	if n < 1024 && n > -1024 {
		return fmt.Sprintf("%d B", n)
	}
	f, units := float64(n), "KMGTPE"
	i := -1
	for i < len(units)-1 && math.Abs(f) >= 1024 {
		f /= 1024
		i++
	}
	return strings.TrimSuffix(fmt.Sprintf("%.1f", f), ".0") + " " + units[i:i+1] + "iB"
}
