package nbd

import "bytes"

// isZero says whether all bytes of b are zero.
func isZero(b []byte) bool {
	const word = 16
	if len(b) < word {
		for _, c := range b {
			if c != 0 {
				return false
			}
		}
		return true
	}
	if b[0] != 0 || b[len(b)-1] != 0 { // true for most data
		return false
	}
	for _, c := range b[:word] {
		if c != 0 {
			return false
		}
	}
	// each byte equals the one a word before it, and the first word is zero
	return bytes.Equal(b[word:], b[:len(b)-word])
}

// run is a part of a buffer, in bytes from its start.
type run struct {
	at, n int
	zero  bool
}

// zeroRuns cuts b, which lies at offset off of the disk, into runs of zeros of at least shortest bytes, and runs of
// everything else. It calls each for all runs in order. It looks for zeros in whole units of the disk; the first and
// the last unit of b may be parts of a unit. A buffer of zeros only is one run of zeros, however short.
func zeroRuns(b []byte, off int64, unit, shortest int, each func(run) error) error {
	start, at := 0, 0
	for at < len(b) {
		end := zerosFrom(b, at, off, unit)
		whole := at == 0 && end == len(b)
		if end-at < shortest && !whole {
			at = min(len(b), max(end, at)+unitAt(max(end, at), off, unit))
			continue
		}
		if start < at {
			if err := each(run{start, at - start, false}); err != nil {
				return err
			}
		}
		if err := each(run{at, end - at, true}); err != nil {
			return err
		}
		start, at = end, end
	}
	if start < len(b) {
		return each(run{start, len(b) - start, false})
	}
	return nil
}

// zerosFrom returns where the units of zeros end that begin at at.
func zerosFrom(b []byte, at int, off int64, unit int) int {
	for at < len(b) {
		n := min(unitAt(at, off, unit), len(b)-at)
		if !isZero(b[at : at+n]) {
			return at
		}
		at += n
	}
	return at
}

// unitAt is the number of bytes from at to the end of its unit on the disk.
func unitAt(at int, off int64, unit int) int {
	return unit - int((off+int64(at))%int64(unit))
}
