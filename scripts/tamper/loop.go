package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// loops guards the numbers of loop devices: one that is detached to be attached elsewhere must not be taken meanwhile.
var loops sync.Mutex //nolint:gochecknoglobals // so are the numbers

// loopDevices says whether loop devices can be made here: nil, or why not.
func loopDevices() error {
	f, err := os.CreateTemp("", "vftamper-loop")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }() // in a temporary folder
	if err := errors.Join(f.Truncate(mib), f.Close()); err != nil {
		return err
	}
	device, err := attachLoop(f.Name())
	if err != nil {
		return err
	}
	return detachLoop(device)
}

// attachLoop makes a loop device for a file.
func attachLoop(path string) (device string, err error) {
	loops.Lock()
	defer loops.Unlock()
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, control.Close()) }()
	// A number that is free may be taken by another program before it is used.
	for range 10 {
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return "", err
		}
		device = fmt.Sprint("/dev/loop", n)
		if err = attachAs(device, path); !errors.Is(err, unix.EBUSY) {
			return device, err
		}
	}
	return "", fmt.Errorf("no loop device is free for %s", path)
}

func attachAs(device, path string) (err error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	d, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	return unix.IoctlSetInt(int(d.Fd()), unix.LOOP_SET_FD, int(f.Fd()))
}

// detachLoop detaches a loop device, at once or when the last process has closed it.
func detachLoop(device string) (err error) {
	d, err := os.OpenFile(device, os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	return unix.IoctlSetInt(int(d.Fd()), unix.LOOP_CLR_FD, 0)
}

// reattachLoop attaches a loop device to another file. A device that another process has open stays as it is, which is
// an error.
func reattachLoop(device, path string) error {
	loops.Lock()
	defer loops.Unlock()
	if err := detachLoop(device); err != nil {
		return err
	}
	d, err := os.OpenFile(device, os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	info, err := unix.IoctlLoopGetStatus64(int(d.Fd()))
	if err == nil { // it waits for the other process
		info.Flags &^= unix.LO_FLAGS_AUTOCLEAR
		err = unix.IoctlLoopSetStatus64(int(d.Fd()), info)
		return errors.Join(fmt.Errorf("%s is in use", device), err, d.Close())
	}
	if err := d.Close(); err != nil {
		return err
	}
	return attachAs(device, path)
}

// setReadOnly makes a device read-only (1), or not (0).
func setReadOnly(device string, how int) (err error) {
	d, err := os.OpenFile(device, os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	return unix.IoctlSetPointerInt(int(d.Fd()), unix.BLKROSET, how)
}

// setImmutable sets or clears the flag that keeps all from changing a file.
func setImmutable(path string, on bool) (err error) {
	const immutable = 0x10
	f, err := os.Open(filepath.Clean(path))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	flags, err := unix.IoctlGetInt(int(f.Fd()), unix.FS_IOC_GETFLAGS)
	if err != nil {
		return err
	}
	if on {
		flags |= immutable
	} else {
		flags &^= immutable
	}
	return unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, flags)
}
