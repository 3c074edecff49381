package volumes

import (
	"context"
	"errors"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/nbd"
)

// Lazy is a target that is opened, or made, when a copy asks for it: only then the size of the disk is known. It serves
// one copy and the verification after it; End gives the target back. It belongs to one goroutine at a time.
type Lazy struct {
	name   string
	create bool
	tls    nbd.TLS
	keep   bool // what the target holds
	volume *Volume
}

// NewLazy names a target. create makes a sparse file of the disk's size if there is nothing at the path; tls is
// for an export.
func NewLazy(name string, create bool, tls nbd.TLS) *Lazy {
	return &Lazy{name: name, create: create, tls: tls}
}

// KeepData makes Open refuse, with an error of kind Conflict, a file that exists, and a device or export that holds
// anything but zeros as far as a look at some places tells. It is called before Open.
func (l *Lazy) KeepData() { l.keep = true }

// Name names the target for people, without secrets.
func (l *Lazy) Name() string { return nbd.Redact(l.name) }

// Open opens the target the first time, and returns the same one after that.
func (l *Lazy) Open(ctx context.Context, size int64) (*nbd.Target, error) {
	if l.volume != nil {
		return l.volume.Target(), nil
	}
	o := Options{TLS: l.tls}
	if l.create && !nbd.IsURI(l.name) {
		o.Create, o.Size = true, size
	}
	v, err := Open(ctx, l.name, o)
	if err != nil {
		return nil, err
	}
	if l.keep {
		if err := v.holdsNothing(ctx); err != nil {
			return nil, errors.Join(err, v.Close())
		}
	}
	if v.made {
		v.target.Fresh()
	}
	l.volume = v
	return v.Target(), nil
}

// End closes the target. A file that was made is removed if the copy has not begun: it holds nothing.
func (l *Lazy) End(begun bool) error {
	if l.volume == nil {
		return nil
	}
	err := l.volume.Close()
	if l.volume.made && !begun {
		err = errors.Join(err, l.volume.Remove())
	}
	l.volume = nil
	return err
}

// holdsNothing refuses a file that was there before, and a device or export that holds data.
func (v *Volume) holdsNothing(ctx context.Context) (err error) {
	const op, next = "open target", "Name another target, or leave --no-clobber out: then it is overwritten"
	t, data := v.target, false
	switch t.Kind() {
	case nbd.Null:
		return nil
	case nbd.File:
		if v.made {
			return nil
		}
		return job.Errorf(op, job.Conflict, next, "%s exists", t.Name())
	case nbd.NBD:
		var size int64
		if size, _, err = t.Look(ctx); err == nil {
			data, err = exportHoldsData(ctx, t, size)
		}
	default:
		var size int64
		if size, _, err = t.Look(ctx); err == nil {
			data, err = holdsData(v.file, t.Kind(), size)
		}
	}
	if err != nil || !data {
		return nbd.Ended(ctx, op, err)
	}
	return job.Errorf(op, job.Conflict, next, "%s holds data", t.Name())
}
