package main

import (
	"errors"
	"os"

	"github.com/vmferry/vmferry/job"
)

// writeAt writes the bytes of data that where names to the same places of a file.
func writeAt(path string, data []byte, where job.Extents) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	for _, e := range where {
		if _, err := f.WriteAt(data[e.Offset:e.End()], e.Offset); err != nil {
			return err
		}
	}
	return nil
}
