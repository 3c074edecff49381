package main

import (
	"fmt"
	"path/filepath"
)

func diskWorkloads() []workload {
	const image = "An ext4 file system of 10 GiB with 3 GiB of files in it, by nbdkit's file plugin"
	return []workload{
		{
			"block",
			"2 GiB of random bytes in an nbdkit's memory to a loop device on a file on disk, flushed.",
			denseSize, block,
		},
		{"ext4-null", image + ", to nowhere.", 0, ext4Null},
		{"ext4-file", image + ", to a new file on disk, flushed.", 0, ext4File},
	}
}

func block(r *rig) contest {
	disk := r.disk(denseSize)
	src := r.fill(r.serve("src", "memory", fmt.Sprint(disk.size)), disk)
	dev := r.loopDevice(disk.size)
	return contest{
		ours:   r.ours([]string{src, dev}),
		target: device{dev, disk.file, disk.size},
		rivals: []rival{
			against(nbdcopy(src, dev, "--flush"), timeAtMost(0.85)),
			against(qemu(src, dev, disk.size, "-t", "none", "-T", "none"), timeAtMost(1.05)),
		},
	}
}

func (r *rig) ext4() content {
	size, files := r.scaled(ext4Size), r.scaled(ext4Files)
	r.need("mkfs.ext4")
	path := r.file("ext4", func(p string) error { return writeExt4(r.ctx, p, size, files) })
	return content{file: path, size: size}
}

func ext4Null(r *rig) contest {
	disk := r.ext4()
	return r.simple(r.serve("src", "file", disk.file), null, disk.size, nowhere{}, timeAtMost(1.05))
}

func ext4File(r *rig) contest {
	disk := r.ext4()
	src, dst := r.serve("src", "file", disk.file), filepath.Join(r.dir, "new.raw")
	return contest{
		ours:   r.ours([]string{src, dst}),
		target: newFile{dst, disk.file},
		rivals: []rival{
			against(nbdcopy(src, dst, "--flush"), timeAtMost(0.95)),
			against(qemu(src, dst, disk.size, "-t", "none")),
		},
	}
}
