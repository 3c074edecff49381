package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vmferry/vmferry/job"
)

// actName names what is done to a target.
type actName string

// touch is what an act changed, and when.
type touch struct {
	act        actName
	begin, end time.Time
	where      job.Extents // normal: these bytes were written
	data       []byte      // what was written there, one extent after the other
	whole      bool        // the name leads to another thing than before, or to one of another size
	only       string      // of the target's names: the one that leads to another thing; "" for all
	hit        bool        // bytes changed
}

// replaces says whether the touch put another thing in the target's place, so that earlier writes are gone.
func (t touch) replaces() bool { return t.whole && t.hit && len(t.where) == 0 }

// at returns the byte that the touch wrote at an offset; false if it wrote none there.
func (t touch) at(off int64) (byte, bool) {
	before := int64(0)
	for _, e := range t.where {
		if off >= e.Offset && off < e.End() {
			return t.data[before+off-e.Offset], true
		}
		before += e.Length
	}
	return 0, false
}

// errNothing means that an act does not apply to the target as it is.
var errNothing = errors.New("the act does not apply here")

// deed is one act: what it does to which kinds of targets. do runs under the target's lock; it returns what it wrote in
// place, or whole, or neither if no byte has changed.
type deed struct {
	name  actName
	often int
	kinds []kind
	do    func(ctx context.Context, t *target, r *rand.Rand) (touch, error)
}

func deeds() []deed {
	files, all := []kind{onFile}, kinds()
	return []deed{
		{"write", 8, all, write},
		{"write and set the times back", 2, files, writeQuietly},
		{"write through another link", 2, files, writeByLink},
		{"write to the backing file", 3, []kind{onDevice}, writeBacking},
		{"truncate and grow again", 2, all, cutAndGrow},
		{"restore in place", 3, all, restore},
		{"truncate", 1, files, cut},
		{"grow", 1, files, grow},
		{"swap", 2, files, swap},
		{"restore by renaming", 1, files, restoreByName},
		{"move away", 2, files, moveAway},
		{"move away and back", 1, files, moveAndBack},
		{"move and link", 1, files, moveAndLink},
		{"link elsewhere", 2, []kind{onFile, onDevice}, relink},
		{"make read-only", 1, []kind{onFile, onDevice}, makeReadOnly},
		{"make immutable", 1, files, makeImmutable},
		{"attach elsewhere", 4, []kind{onDevice}, reattach},
		{"serve another file", 3, []kind{onExport}, serveOther},
		{"start the server again", 1, []kind{onExport}, serveAgain},
	}
}

// chooseAct picks an act for a kind of target, by weight.
func chooseAct(r *rand.Rand, k kind) actName {
	var all []actName
	for _, d := range deeds() {
		if slices.Contains(d.kinds, k) {
			all = append(all, slices.Repeat([]actName{d.name}, d.often)...)
		}
	}
	return all[r.IntN(len(all))]
}

// do carries out an act and records what it touched. It is false if nothing was done.
func (t *target) do(ctx context.Context, name actName, r *rand.Rand) (touch, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	i := slices.IndexFunc(deeds(), func(d deed) bool { return d.name == name })
	if t.path == "" || i < 0 {
		return touch{}, false
	}
	d := deeds()[i]
	begin := time.Now()
	done, err := d.do(ctx, t, r)
	if err != nil {
		if !errors.Is(err, errNothing) {
			say("%s: %s: not done: %v", filepath.Base(t.dir), d.name, err)
		}
		if !done.whole {
			return touch{}, false
		}
	}
	done.act, done.begin, done.end = d.name, begin, time.Now()
	t.touches = append(t.touches, done)
	return done, true
}

// all returns what was touched until now.
func (t *target) all() []touch {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.touches)
}

func write(_ context.Context, t *target, r *rand.Rand) (touch, error) {
	path := t.path
	if t.kind == onDevice {
		path = t.device
	}
	return t.writeTo(path, r)
}

func writeBacking(_ context.Context, t *target, r *rand.Rand) (touch, error) {
	return t.writeTo(t.path, r)
}

// writeTo writes a few bytes into the target, by one of its names.
func (t *target) writeTo(path string, r *rand.Rand) (done touch, err error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return touch{}, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	e := t.place(r)
	old, text := make([]byte, e.Length), make([]byte, e.Length)
	if _, err := f.ReadAt(old, e.Offset); err != nil {
		return touch{}, err
	}
	if r.IntN(8) > 0 { // else zeros
		for i := range text {
			text[i] = byte(r.Uint32())
		}
	}
	if _, err := f.WriteAt(text, e.Offset); err != nil {
		return touch{}, err
	}
	return touch{where: job.Extents{e}, data: text, hit: !slices.Equal(old, text)}, f.Sync()
}

func writeQuietly(ctx context.Context, t *target, r *rand.Rand) (touch, error) {
	st, err := os.Stat(t.path)
	if err != nil {
		return touch{}, err
	}
	done, err := write(ctx, t, r)
	if err != nil {
		return done, err
	}
	return done, os.Chtimes(t.path, st.ModTime(), st.ModTime())
}

func writeByLink(_ context.Context, t *target, r *rand.Rand) (touch, error) {
	link := t.beside()
	if err := os.Link(t.path, link); err != nil {
		return touch{}, err
	}
	return t.writeTo(link, r)
}

// beside is the path of a new file in the target's folder.
func (t *target) beside() string {
	t.others++
	return filepath.Join(t.dir, fmt.Sprint("beside", t.others))
}

// stranger makes a file with bytes of its own, as long as the target.
func (t *target) stranger(r *rand.Rand) (path string, data []byte, err error) {
	path = t.beside()
	data, _ = content(r.Uint64(), t.size)
	return path, data, os.WriteFile(path, data, 0o600)
}

// zeros is a touch that leaves zeros from an offset on.
func (t *target) zeros(from int64) touch {
	return touch{
		where: job.Extents{{Offset: from, Length: t.size - from}}, data: make([]byte, t.size-from), hit: true,
	}
}

func cutAndGrow(_ context.Context, t *target, r *rand.Rand) (touch, error) {
	from := r.Int64N(t.size)
	return t.zeros(from), errors.Join(os.Truncate(t.path, from), os.Truncate(t.path, t.size))
}

func cut(_ context.Context, t *target, r *rand.Rand) (touch, error) {
	from := r.Int64N(t.size)
	done := t.zeros(from)
	done.whole = true
	return done, os.Truncate(t.path, from)
}

func grow(_ context.Context, t *target, r *rand.Rand) (touch, error) {
	return touch{whole: true}, os.Truncate(t.path, t.size+1+r.Int64N(mib))
}

// restore writes older bytes of the target over it, as who restores a backup does.
func restore(_ context.Context, t *target, _ *rand.Rand) (done touch, err error) {
	if t.stash == nil {
		return touch{}, errNothing
	}
	f, err := os.OpenFile(t.path, os.O_RDWR, 0)
	if err != nil {
		return touch{}, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	old := make([]byte, t.size)
	if _, err := f.ReadAt(old, 0); err != nil {
		return touch{}, err
	}
	if _, err := f.WriteAt(t.stash, 0); err != nil {
		return touch{}, err
	}
	return touch{where: job.Whole(t.size), data: t.stash, hit: !slices.Equal(old, t.stash)}, f.Sync()
}

func restoreByName(_ context.Context, t *target, _ *rand.Rand) (touch, error) {
	if t.stash == nil {
		return touch{}, errNothing
	}
	path := t.beside()
	if err := os.WriteFile(path, t.stash, 0o600); err != nil {
		return touch{}, err
	}
	return touch{whole: true, hit: true, only: t.ownName()}, os.Rename(path, t.path)
}

// ownName is the name that a rename at the target's path is about: "" for all, for another name that is a link to it or
// another way to write it is about the same path. A hard link is not.
func (t *target) ownName() string {
	if st, err := os.Lstat(t.names[1]); t.named == "hardlink" && err == nil && st.Mode().IsRegular() {
		return t.names[0]
	}
	return ""
}

func swap(_ context.Context, t *target, r *rand.Rand) (touch, error) {
	path, _, err := t.stranger(r)
	if err != nil {
		return touch{}, err
	}
	return touch{whole: true, hit: true, only: t.ownName()}, os.Rename(path, t.path)
}

func moveAway(_ context.Context, t *target, _ *rand.Rand) (touch, error) {
	to := t.beside()
	if err := os.Rename(t.path, to); err != nil {
		return touch{}, err
	}
	t.away = to
	return touch{whole: true, only: t.ownName()}, nil
}

func moveAndBack(_ context.Context, t *target, _ *rand.Rand) (touch, error) {
	to := t.beside()
	if err := os.Rename(t.path, to); err != nil {
		return touch{}, err
	}
	return touch{}, os.Rename(to, t.path)
}

func moveAndLink(_ context.Context, t *target, _ *rand.Rand) (touch, error) {
	to := t.beside()
	if err := os.Rename(t.path, to); err != nil {
		return touch{}, err
	}
	return touch{}, os.Symlink(to, t.path)
}

// relink lets the other name, if it is a link, lead to another file.
func relink(_ context.Context, t *target, r *rand.Rand) (touch, error) {
	name := t.names[1]
	if _, err := os.Readlink(name); err != nil {
		return touch{}, errNothing
	}
	path, _, err := t.stranger(r)
	if err != nil {
		return touch{}, err
	}
	link := t.beside()
	if err := os.Symlink(path, link); err != nil {
		return touch{}, err
	}
	return touch{whole: true, hit: true, only: name}, os.Rename(link, name)
}

func makeReadOnly(_ context.Context, t *target, _ *rand.Rand) (touch, error) {
	t.locked = t.path
	if t.kind == onDevice {
		return touch{}, setReadOnly(t.device, 1)
	}
	return touch{}, os.Chmod(t.path, 0o400)
}

func makeImmutable(_ context.Context, t *target, _ *rand.Rand) (touch, error) {
	t.locked = t.path
	err := setImmutable(t.path, true)
	if errors.Is(err, unix.ENOTTY) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPERM) {
		return touch{}, errNothing // not on this file system
	}
	return touch{}, err
}

// reattach attaches the loop device to another file.
func reattach(_ context.Context, t *target, r *rand.Rand) (touch, error) {
	path, _, err := t.stranger(r)
	if err != nil {
		return touch{}, err
	}
	if err := reattachLoop(t.device, path); err != nil {
		return touch{}, err
	}
	t.path = path
	return touch{whole: true, hit: true}, nil
}

// serveOther starts the server of the export again, with another file. For a client that is a write to all of it.
func serveOther(ctx context.Context, t *target, r *rand.Rand) (touch, error) {
	path, data, err := t.stranger(r)
	if err != nil {
		return touch{}, err
	}
	t.path = path
	endBy(t.server, syscall.SIGKILL)
	return touch{where: job.Whole(t.size), data: data, hit: true}, t.serve(ctx)
}

func serveAgain(ctx context.Context, t *target, _ *rand.Rand) (touch, error) {
	endBy(t.server, syscall.SIGKILL)
	return touch{}, t.serve(ctx)
}
