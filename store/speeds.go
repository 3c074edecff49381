package store

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io/fs"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
)

// step is one resolution of speeds.
type step struct {
	width uint32 // seconds
	slots int
	gap   int // so many slots without a sample are a gap: a slow report is none
}

// steps are all resolutions, the finest first.
var steps = [...]step{{1, 900, 3}, {10, 1440, 1}, {300, 2016, 1}} //nolint:gochecknoglobals // a constant table

func (s step) duration() time.Duration { return time.Duration(s.width) * time.Second }
func (s step) reach() time.Duration    { return s.duration() * time.Duration(s.slots) }

// slot is what is kept of one width of time. The zero value is none.
type slot struct {
	at          uint32 // begin, in seconds since 1970
	round       uint16 // of all jobs together: how many copied
	count       uint16 // samples of which speed and load are the mean, in the coarse steps
	transferred int64
	speed       float32  // bytes per second; noSpeed for none
	load        [3]uint8 // source, target and throttle, in 255ths
}

const noSpeed = -1

// speeds are the slots of one job, or of all. The slot of a time is at (time / width) mod slots of its step, so that an
// old one is overwritten by a new one. A slot is believed only if its time is the one that is looked for.
type speeds struct {
	slots   [len(steps)][]slot
	written int64 // up to this second the slots are in the file
}

func newSpeeds() *speeds { return &speeds{} }

// add takes a sample into the finest steps, so many of them.
func (s *speeds) add(at time.Time, v slot, into int) {
	second := uint32(at.Unix())
	fresh := false
	for i, st := range steps[:into] {
		if s.slots[i] == nil {
			s.slots[i] = make([]slot, st.slots)
		}
		v.at = second - second%st.width
		have := &s.slots[i][int(second/st.width)%st.slots]
		switch {
		case i == 0:
			fresh = have.at != v.at
			v.count = 1
			*have = v
		case have.at != v.at:
			v.count, v.speed = 1, max(0, v.speed)
			*have = v
		case fresh: // each second counts once
			have.mean(v)
		}
	}
}

// mean takes one more sample of the same time.
func (v *slot) mean(one slot) {
	n := float64(v.count)
	mix := func(old, one float64) float64 { return (old*n + one) / (n + 1) }
	v.speed = float32(mix(float64(v.speed), float64(max(0, one.speed))))
	for i := range v.load {
		v.load[i] = uint8(math.Round(mix(float64(v.load[i]), float64(one.load[i]))))
	}
	v.round, v.transferred = one.round, one.transferred
	v.count++
}

// packed is a load in 255ths.
func packed(l report.Load) (out [3]uint8) {
	for i, share := range []float64{l.Source, l.Target, l.Throttle} {
		out[i] = uint8(math.Round(255 * min(1, max(0, share)))) // NaN is 0
	}
	return out
}

// share is a share of a load, with two decimals.
func share(b uint8) float64 { return math.Round(float64(b)/2.55) / 100 }

func clip16(n int) uint16 { return uint16(min(n, math.MaxUint16)) }

// series are the samples of the last time. want is the width of the step; 0 for the finest that reaches back so far.
func (s *speeds) series(now time.Time, window, want time.Duration) report.Series {
	at := len(steps) - 1
	for i, st := range steps {
		if st.duration() == want || want == 0 && window <= st.reach() {
			at = i
			break
		}
	}
	for want == 0 && at > 0 && s.slots[at] == nil {
		at-- // of a job of another tool
	}
	st := steps[at]
	out := report.Series{Step: st.duration(), Samples: []report.Sample{}}
	end := now.Unix()
	begin := max(0, end-int64(min(window, st.reach())/time.Second)+1)
	missing, width := 0, int64(st.width)
	for second := begin - begin%width; second <= end; second += width {
		v := s.slot(at, uint32(second))
		if v != nil {
			out.Samples = append(out.Samples, v.sample())
			missing = 0
			continue
		}
		if missing++; missing == st.gap && len(out.Samples) > 0 && second < end {
			first := second - width*int64(st.gap-1)
			out.Samples = append(out.Samples, report.Sample{At: time.Unix(first, 0).UTC()})
		}
	}
	return out
}

// slot is that of a time; nil if there is none.
func (s *speeds) slot(step int, second uint32) *slot {
	if s.slots[step] == nil {
		return nil
	}
	v := &s.slots[step][int(second/steps[step].width)%steps[step].slots]
	if v.at != second {
		return nil
	}
	return v
}

func (v *slot) sample() report.Sample {
	out := report.Sample{
		At: time.Unix(int64(v.at), 0).UTC(), Round: int(v.round), BytesTransferred: v.transferred,
		Load: &report.Load{Source: share(v.load[0]), Target: share(v.load[1]), Throttle: share(v.load[2])},
	}
	if v.speed >= 0 {
		out.BytesPerSecond = report.SpeedOf(float64(v.speed))
	}
	return out
}

// A file of speeds has a head (a mark of the format, and when the job was created, in ns since 1970) and then the slots
// of all steps, each with a checksum. A slot that was never written is a hole.
const (
	speedMark = "vmspeed1"
	headSize  = len(speedMark) + 8
	slotSize  = 28
	fileLimit = 256 << 10 // no file of ours is longer
)

func (v *slot) encode(b []byte) []byte {
	from := len(b)
	b = binary.LittleEndian.AppendUint32(b, v.at)
	b = binary.LittleEndian.AppendUint16(b, v.round)
	b = binary.LittleEndian.AppendUint16(b, v.count)
	b = binary.LittleEndian.AppendUint64(b, uint64(v.transferred))
	b = binary.LittleEndian.AppendUint32(b, math.Float32bits(v.speed))
	b = append(append(b, v.load[:]...), 0)
	return binary.LittleEndian.AppendUint32(b, crc32.ChecksumIEEE(b[from:]))
}

// decode reads a slot; false if it is not as it was written.
func (v *slot) decode(b []byte) bool {
	const sum = slotSize - 4
	if crc32.ChecksumIEEE(b[:sum]) != binary.LittleEndian.Uint32(b[sum:]) {
		return false
	}
	*v = slot{
		at: binary.LittleEndian.Uint32(b), round: binary.LittleEndian.Uint16(b[4:]),
		count:       binary.LittleEndian.Uint16(b[6:]),
		transferred: int64(binary.LittleEndian.Uint64(b[8:])),
		speed:       math.Float32frombits(binary.LittleEndian.Uint32(b[16:])), load: [3]uint8(b[20:23]),
	}
	return v.at != 0 && v.speed >= noSpeed && !math.IsInf(float64(v.speed), 0)
}

// speedFiles are the files of a folder: one for each job, and one for all jobs together, whose id is "". A nil pointer
// keeps nothing. It is not safe for concurrent use.
type speedFiles struct {
	dir    string
	log    *slog.Logger
	jobs   map[job.ID]time.Time // when the file of a job was written last
	failed bool                 // the last write has failed, and was logged
}

const speedSuffix = ".speeds"

func openSpeedFiles(dir string, log *slog.Logger) *speedFiles {
	f := &speedFiles{dir: dir, log: log, jobs: map[job.ID]time.Time{}}
	if err := os.MkdirAll(filepath.Join(dir, "jobs"), 0o700); err != nil {
		f.fails(err)
		return f
	}
	entries, err := os.ReadDir(filepath.Join(dir, "jobs"))
	if err != nil {
		f.fails(err)
	}
	for _, e := range entries {
		id, ours := strings.CutSuffix(e.Name(), speedSuffix)
		if info, err := e.Info(); err == nil && ours && info.Mode().IsRegular() {
			f.jobs[job.ID(id)] = info.ModTime()
		}
	}
	return f
}

func (f *speedFiles) path(id job.ID) string {
	if id == "" {
		return filepath.Join(f.dir, "all"+speedSuffix)
	}
	return filepath.Join(f.dir, "jobs", string(id)+speedSuffix) // an id has no slash
}

// read reads a file. What is missing, damaged or of another job of the same id is left out.
func (f *speedFiles) read(id job.ID, created time.Time) *speeds {
	s := newSpeeds()
	if f == nil {
		return s
	}
	path := f.path(id)
	if info, err := os.Lstat(path); err != nil || !info.Mode().IsRegular() || info.Size() > fileLimit {
		return s
	}
	b, err := os.ReadFile(path)
	if err != nil || len(b) < headSize || string(b[:headSize]) != speedHead(created) {
		return s
	}
	b = b[headSize:]
	for i, st := range steps {
		for at := range st.slots {
			if len(b) < slotSize {
				return s
			}
			var v slot
			if v.decode(b) && int(v.at/st.width)%st.slots == at && v.at%st.width == 0 {
				if s.slots[i] == nil {
					s.slots[i] = make([]slot, st.slots)
				}
				s.slots[i][at] = v
				s.written = max(s.written, int64(v.at))
			}
			b = b[slotSize:]
		}
	}
	return s
}

func speedHead(created time.Time) string {
	ns := int64(0)
	if !created.IsZero() {
		ns = created.UnixNano()
	}
	return string(binary.LittleEndian.AppendUint64([]byte(speedMark), uint64(ns)))
}

// write writes the slots that are new since the last write. An error is logged, once until a write succeeds.
func (f *speedFiles) write(id job.ID, created time.Time, s *speeds) {
	if f == nil || s.slots[0] == nil {
		return
	}
	newest := int64(0)
	for _, v := range s.slots[0] {
		newest = max(newest, int64(v.at))
	}
	if newest <= s.written && s.written != 0 {
		return
	}
	if id != "" {
		f.keepFew(id)
	}
	if err := f.save(f.path(id), created, s); err != nil {
		f.fails(err)
		return
	}
	f.failed, s.written = false, newest
	if id != "" {
		f.jobs[id] = time.Now()
	}
}

func (f *speedFiles) save(path string, created time.Time, s *speeds) error {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	head, had := speedHead(created), make([]byte, headSize)
	if _, err = file.ReadAt(had, 0); err != nil || string(had) != head {
		if err = file.Truncate(0); err == nil { // of another job, or new
			s.written = 0
			_, err = file.WriteAt([]byte(head), 0)
		}
	}
	offset := int64(headSize)
	for i, st := range steps {
		for at := 0; at < st.slots && err == nil && s.slots[i] != nil; at++ {
			first := at
			var run []byte // of slots that are next to each other
			for ; at < st.slots; at++ {
				v := &s.slots[i][at]
				if v.at == 0 || int64(v.at)+int64(st.width) <= s.written {
					break
				}
				run = v.encode(run)
			}
			if len(run) > 0 {
				_, err = file.WriteAt(run, offset+int64(first*slotSize))
			}
		}
		offset += int64(st.slots * slotSize)
	}
	return errors.Join(err, file.Close())
}

// keepFew removes the oldest files, so that there is room for that of a job.
func (f *speedFiles) keepFew(id job.ID) {
	if _, has := f.jobs[id]; has {
		return
	}
	for len(f.jobs) >= maxFiles {
		var oldest job.ID
		for other, at := range f.jobs {
			if oldest == "" || at.Before(f.jobs[oldest]) {
				oldest = other
			}
		}
		f.remove(oldest)
	}
}

// remove removes the file of a job.
func (f *speedFiles) remove(id job.ID) {
	if f == nil {
		return
	}
	if _, has := f.jobs[id]; !has {
		return
	}
	delete(f.jobs, id)
	if err := os.Remove(f.path(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		f.fails(err)
	}
}

func (f *speedFiles) fails(err error) {
	if !f.failed {
		f.log.Warn("the speeds of jobs are not kept for the time after a restart", "err", err)
	}
	f.failed = true
}
