package nbd

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/zeebo/xxh3"
	"golang.org/x/sys/unix"

	"github.com/vmferry/vmferry/job"
)

// A checkpoint file holds the following. All numbers are uvarints unless noted:
//
//	8 bytes  magic
//	version, length of the identity, the identity, 8 bytes fingerprint of the plan, capacity,
//	transferred, skipped, sent, number of ranges, then for each: gap since the end of the one before, length;
//	from version 2 on: number of cells of the digests, 0 for none, then for each 16 bytes, big endian;
//	length of the BLAKE3 tree, 0 for none, the tree
//	from version 3 on: number of ranges that are in no digest, then each as above
//	8 bytes  xxh3 of everything before, big endian
const (
	checkpointMagic   = "VMFERRYc"
	checkpointVersion = 3        // with ranges that are in no digest; else 2 is written, which earlier programs read
	checkpointOldest  = 1        // the oldest version that can be read; it has no digests
	identityMost      = 64 << 10 // bytes
	toTarget          = " > "    // between source and target in an identity that no caller gives
)

// checkpoint is the content of a checkpoint file.
type checkpoint struct {
	identity string // of source and target, from the caller
	plan     uint64 // fingerprint of the ranges of the round
	capacity int64  // bytes
	progressSnapshot
}

func (c checkpoint) encode() []byte {
	b := []byte(checkpointMagic)
	version := uint64(checkpointVersion)
	if len(c.unhashed) == 0 {
		version = 2
	}
	b = binary.AppendUvarint(b, version)
	b = binary.AppendUvarint(b, uint64(len(c.identity)))
	b = append(b, c.identity...)
	b = binary.BigEndian.AppendUint64(b, c.plan)
	for _, n := range []int64{c.capacity, c.transferred, c.skipped, c.sent, int64(len(c.done))} {
		b = binary.AppendUvarint(b, uint64(n))
	}
	b = appendRanges(b, c.done)
	b = c.digests.encode(b)
	var tree []byte
	if c.tree != nil {
		tree = c.tree.encode()
	}
	b = append(binary.AppendUvarint(b, uint64(len(tree))), tree...)
	if version > 2 {
		b = appendRanges(binary.AppendUvarint(b, uint64(len(c.unhashed))), c.unhashed)
	}
	return binary.BigEndian.AppendUint64(b, xxh3.Hash(b))
}

func appendRanges(b []byte, x job.Extents) []byte {
	var at int64
	for _, e := range x {
		b = binary.AppendUvarint(b, uint64(e.Offset-at))
		b = binary.AppendUvarint(b, uint64(e.Length))
		at = e.End()
	}
	return b
}

// decode refuses what encode would not have written. The error is of kind Corrupt, or Conflict for a newer version.
func decode(b []byte) (checkpoint, error) {
	bad := func(why string) (checkpoint, error) {
		return checkpoint{}, job.Errorf("read checkpoint", job.Corrupt, "", "%s", why)
	}
	const sum = 8
	if len(b) < len(checkpointMagic)+sum || !bytes.HasPrefix(b, []byte(checkpointMagic)) {
		return bad("it is not a checkpoint, or cut short")
	}
	body := b[:len(b)-sum]
	if xxh3.Hash(body) != binary.BigEndian.Uint64(b[len(body):]) {
		return bad("its checksum does not fit")
	}
	r := reader{rest: body[len(checkpointMagic):]}
	version := r.number()
	if version < checkpointOldest || version > checkpointVersion {
		return checkpoint{}, job.Errorf("read checkpoint", job.Conflict, "",
			"it has version %d, this program reads version %d", version, checkpointVersion)
	}
	c := checkpoint{identity: string(r.bytes(r.number()))}
	if p := r.bytes(8); p != nil {
		c.plan = binary.BigEndian.Uint64(p)
	}
	c.capacity, c.transferred, c.skipped, c.sent = r.number(), r.number(), r.number(), r.number()
	c.done = r.ranges(r.number())
	if version >= 2 {
		c.digests = r.digests(c.capacity)
		c.tree = r.tree(c.capacity)
	}
	if version >= 3 {
		c.unhashed = r.ranges(r.number())
		r.failed = r.failed || len(c.unhashed) == 0
	}
	switch {
	case r.failed || len(r.rest) > 0:
		return bad("its fields cannot be read")
	case c.done.Check(c.capacity) != nil:
		return bad("its ranges end beyond the disk")
	case len(c.unhashed.Cut(c.done)) > 0, len(c.unhashed) > 0 && c.digests == nil:
		return bad("it names ranges without a digest that it does not have")
	case c.transferred > c.capacity || c.skipped > c.capacity || c.transferred+c.skipped > c.done.Sum() ||
		c.sent < c.transferred:
		return bad("its sums do not fit its ranges")
	}
	return c, nil
}

// reader parses a checkpoint. After the first error it sets failed and returns zero values only.
type reader struct {
	rest   []byte
	failed bool
}

func (r *reader) number() int64 {
	n, size := binary.Uvarint(r.rest)
	if r.failed || size <= 0 || n > 1<<62 {
		r.failed = true
		return 0
	}
	r.rest = r.rest[size:]
	return int64(n)
}

func (r *reader) bytes(n int64) []byte {
	if r.failed || n < 0 || n > int64(len(r.rest)) {
		r.failed = true
		return nil
	}
	b := r.rest[:n]
	r.rest = r.rest[n:]
	return b
}

// ranges reads n ranges. Each takes at least two bytes, which bounds the memory that a wrong n can make us allocate.
func (r *reader) ranges(n int64) job.Extents {
	if r.failed || n > int64(len(r.rest))/2 {
		r.failed = true
		return nil
	}
	x := make(job.Extents, 0, n)
	var at int64
	for i := range n {
		gap, length := r.number(), r.number()
		if r.failed || length == 0 || i > 0 && gap == 0 || gap > 1<<62-at || length > 1<<62-at-gap {
			r.failed = true
			return nil
		}
		x = append(x, job.Extent{Offset: at + gap, Length: length})
		at += gap + length
	}
	return x
}

// digests reads the digests of a disk of capacity bytes.
func (r *reader) digests(capacity int64) *Digests {
	n := r.number()
	if r.failed || n == 0 {
		return nil
	}
	d := newDigests(max(1, capacity))
	b := r.bytes(n * sumSize)
	if r.failed || n != int64(len(d.cells)) {
		r.failed = true
		return nil
	}
	for i := range d.cells {
		d.cells[i] = sum{binary.BigEndian.Uint64(b[i*sumSize:]), binary.BigEndian.Uint64(b[i*sumSize+8:])}
	}
	return d
}

func (r *reader) tree(capacity int64) *tree {
	n := r.number()
	b := r.bytes(n)
	if r.failed || n == 0 {
		return nil
	}
	t, err := decodeTree(capacity, b)
	r.failed = err != nil
	return t
}

// save makes the checkpoint durable, or leaves the old file as it was.
func (c checkpoint) save(path string) error {
	if err := WriteDurably(path, c.encode()); err != nil {
		return fmt.Errorf("write checkpoint: %w", err)
	}
	return nil
}

// WriteDurably replaces a file, with mode 0600 if there was none. After a crash at any point, the file has the old
// content or the new one. Two calls for the same path must not run at the same time.
func WriteDurably(path string, content []byte) (err error) {
	// The name is always the same, so that a process that is killed here leaves one file at most, until the next call.
	// Two writers at once spoil the file, which its checksum shows.
	tmp, err := os.OpenFile(temporary(path), os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(tmp.Name()))
		}
	}()
	_, err = tmp.Write(content)
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	if err = os.Rename(tmp.Name(), path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func temporary(path string) string { return path + ".tmp" }

// RemoveCheckpoint removes the checkpoint of a copy that is done. A missing file is no error. It must not be called
// while a copy uses the checkpoint.
func RemoveCheckpoint(path string) error {
	removed := false
	for _, name := range []string{temporary(path), path} {
		err := os.Remove(name)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fail("remove checkpoint", err)
		}
		removed = removed || err == nil
	}
	if !removed {
		return nil
	}
	return fail("remove checkpoint", syncDir(filepath.Dir(path)))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// load reads a checkpoint that must equal want in all but its progress. Without a file it returns want, which has no
// progress. A checkpoint that is damaged or does not fit is moved aside, and the error says why.
func load(path string, want checkpoint) (checkpoint, error) {
	b, err := readSmall(path)
	if errors.Is(err, fs.ErrNotExist) {
		return want, nil
	}
	if err != nil {
		return want, fmt.Errorf("read checkpoint: %w", err)
	}
	got, err := decode(b)
	if err == nil {
		err = got.fits(want)
	}
	if err == nil {
		return got, nil
	}
	return want, reject(path, err)
}

// RecordedDigests loads the digests of a copy that has ended and kept its checkpoint, for a verification that can be
// in another process. t is the task of the copy, with Checkpoint, Identity and Capacity; source and target are not
// used. The file is left as it is. Errors: NotFound if there is none, Corrupt if it is damaged, Conflict if it belongs
// to another copy, if not everything was copied or if the copy made no digests, Invalid for a task without those
// fields.
func RecordedDigests(t Task) (*Digests, error) {
	const op = "load digests of the copy"
	if t.Checkpoint == "" || t.Identity == "" || t.Capacity <= 0 {
		return nil, job.Errorf(op, job.Invalid, "", "checkpoint, identity and capacity must be given")
	}
	b, err := readSmall(t.Checkpoint)
	if err != nil {
		return nil, fail(op, err)
	}
	found, err := decode(b)
	if err == nil {
		err = found.fits(checkpoint{identity: t.Identity, plan: fingerprint(t), capacity: t.Capacity})
	}
	if err != nil {
		return nil, fail(op, err)
	}
	scope := job.Whole(t.Capacity)
	if t.restricted() {
		scope = t.Only.Merge(0)
	}
	switch {
	case len(scope.Cut(found.done)) > 0:
		return nil, job.Errorf(op, job.Conflict, "", "not everything was copied")
	case found.digests == nil:
		return nil, job.Errorf(op, job.Conflict, "", "the copy made none")
	case len(found.unhashed) > 0:
		return nil, job.Errorf(op, job.Conflict, "", "the copy began with a part of an earlier one")
	}
	found.digests.scope = found.done // a server of whole blocks only got more than was asked for
	return found.digests, nil
}

// reject moves a checkpoint aside that is damaged or does not fit, and returns the error that says why.
func reject(path string, why error) error {
	aside := path + ".rejected"
	if err := os.Rename(path, aside); err != nil {
		return errors.Join(why, err)
	}
	return &job.Error{
		Op: "go on from checkpoint " + path, Kind: job.KindOf(why), Err: why,
		Next: "Start again without it: the copy then begins anew. It was moved to " + aside,
	}
}

// fits returns an error of kind Conflict if c belongs to another copy than want.
func (c checkpoint) fits(want checkpoint) error {
	conflict := func(format string, args ...any) error {
		return job.Errorf("", job.Conflict, "", format, args...)
	}
	switch {
	case c.capacity != want.capacity:
		return conflict("it belongs to a disk of %d bytes, this one has %d", c.capacity, want.capacity)
	case c.identity != want.identity && withoutTimes(c.identity) == withoutTimes(want.identity):
		return conflict("the source was changed since: %s", shorten(want.identity))
	case strings.HasSuffix(c.identity, toTarget) && strings.HasPrefix(want.identity, c.identity):
		return conflict("it does not say which export it belongs to: an earlier version has written it")
	case c.identity != want.identity:
		return conflict("it belongs to another copy: %q, not %q", shorten(c.identity), shorten(want.identity))
	case c.plan != want.plan:
		return conflict("it belongs to a copy of other ranges")
	default:
		return nil
	}
}

// withoutTimes removes the times of change from an identity. The rest says which files they are.
func withoutTimes(identity string) string { return changedAt.ReplaceAllString(identity, "") }

var changedAt = regexp.MustCompile(` ` + changedMark + `\d+`)

func shorten(s string) string {
	const most = 120
	if len(s) <= most {
		return s
	}
	return s[:most] + "..."
}

// readSmall reads a regular file of a size that a checkpoint can have.
func readSmall(path string) (b []byte, err error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > checkpointMost {
		return nil, job.Errorf("read "+path, job.Invalid, "Name another file",
			"it is not a file that can hold a checkpoint")
	}
	return io.ReadAll(io.LimitReader(f, checkpointMost))
}

// fingerprint is a hash of the ranges of a round. It tells the plans of two rounds apart.
func fingerprint(t Task) uint64 {
	var b []byte
	add := func(x job.Extents, given bool) {
		b = binary.AppendUvarint(b, uint64(len(x)))
		if given {
			b = append(b, 1)
		}
		for _, e := range x {
			b = binary.AppendVarint(b, e.Offset)
			b = binary.AppendVarint(b, e.Length)
		}
	}
	add(t.Only.Merge(0), t.restricted())
	add(t.Allocated.Merge(0), t.Allocated != nil)
	return xxh3.Hash(b)
}
