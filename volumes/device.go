package volumes

import (
	"context"
	"errors"
	"os"
)

// openDevice opens a block device for reading and writing, and locks it. O_EXCL makes the kernel refuse a device that
// is mounted, or that another process has open in this way.
func openDevice(ctx context.Context, where spot) (*os.File, error) {
	var f *os.File
	err := patiently(ctx, func() (err error) {
		f, err = where.open(os.O_RDWR|os.O_EXCL, 0)
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := patiently(ctx, func() error { return lock(f) }); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}
