package nbd

import (
	"os"
	"runtime"
	"strconv"
	"strings"
)

// busy says whether more threads want a processor than the machine has. If the kernel does not say, it returns false.
func busy() bool {
	text, err := os.ReadFile("/proc/loadavg") // 0.20 0.18 0.12 1/80 11206
	fields := strings.Fields(string(text))
	if err != nil || len(fields) < 4 {
		return false
	}
	running, _, _ := strings.Cut(fields[3], "/")
	n, err := strconv.Atoi(running)
	return err == nil && n-1 > runtime.NumCPU() // without the thread that reads
}
