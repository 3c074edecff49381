package volumes

import (
	"context"
	"errors"

	"github.com/vmferry/vmferry/nbd"
)

// Lazy is a target that is opened, or made, when a copy asks for it: only then the size of the disk is known. It serves
// one copy and the verification after it; End gives the target back. It belongs to one goroutine at a time.
type Lazy struct {
	name   string
	create bool
	tls    nbd.TLS
	volume *Volume
}

// NewLazy names a target. create makes a sparse file of the disk's size if there is nothing at the path; tls is
// for an export.
func NewLazy(name string, create bool, tls nbd.TLS) *Lazy {
	return &Lazy{name: name, create: create, tls: tls}
}

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
