package nbd_test

import (
	"context"

	"github.com/vmferry/vmferry/nbd"
	"github.com/vmferry/vmferry/volumes"
)

// onto names a target that is there.
func onto(name string) *volumes.Lazy { return volumes.NewLazy(name, false, true) }

// made names a target that is made if it is not there.
func made(name string) *volumes.Lazy { return volumes.NewLazy(name, true, true) }

// copyDisk is one copy to a target that onto or made names; the target is closed when it returns.
func copyDisk(ctx context.Context, t nbd.Task, m *nbd.Meter) (nbd.Result, error) {
	r, err := nbd.Copy(ctx, t, m)
	return r, ended(t.Target, r.Threads > 0, err)
}

// verifyDisk is the same for a verification.
func verifyDisk(ctx context.Context, t nbd.VerifyTask, m *nbd.Meter) (nbd.VerifyResult, error) {
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
