// Package copytest makes copies by the names of their targets, as the command line does. It is for tests.
package copytest

import (
	"context"

	"github.com/vmferry/vmferry/nbd"
	"github.com/vmferry/vmferry/volumes"
)

// Onto names a target that is there.
func Onto(name string) *volumes.Lazy { return volumes.NewLazy(name, false, nbd.TLS{}) }

// Made names a target that is made if it is not there.
func Made(name string) *volumes.Lazy { return volumes.NewLazy(name, true, nbd.TLS{}) }

// Copy is nbd.Copy. A target that Onto or Made named is closed when it returns.
func Copy(ctx context.Context, t nbd.Task, m *nbd.Meter) (nbd.Result, error) {
	r, err := nbd.Copy(ctx, t, m)
	return r, ended(t.Target, r.Threads > 0, err)
}

// Verify is nbd.Verify, likewise.
func Verify(ctx context.Context, t nbd.VerifyTask, m *nbd.Meter) (nbd.VerifyResult, error) {
	r, err := nbd.Verify(ctx, t, m)
	return r, ended(t.Target, true, err)
}

func ended(o nbd.Opener, begun bool, err error) error {
	l, ok := o.(*volumes.Lazy)
	if !ok {
		return err
	}
	if cerr := l.End(begun); err == nil {
		err = cerr
	}
	return err
}
