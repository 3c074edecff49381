package main

import (
	"fmt"
	"slices"
)

// Sizes of the workloads at full scale.
const (
	denseSize     = 2 * gib
	latencySize   = 1 * gib
	limitedSize   = 512 * mib
	sparseSize    = 16 * gib
	sparseStride  = 640 << 10
	changedCount  = 100_000
	changedFewer  = 10_000 // where the blocking loop would take minutes
	changedStride = 192 << 10
	severalDisks  = 8
	severalSize   = 256 * mib
	zerosSize     = 4 * gib
	ext4Size      = 10 * gib
	ext4Files     = 3 * gib
)

// moreTimes is how many times the usual pairs a difference of some percent needs.
const moreTimes = 3

// workloads are all workloads, in the order of the report.
func workloads() []workload {
	return slices.Concat(denseWorkloads(), scatteredWorkloads(), slowWorkloads(), diskWorkloads(), ownWorkloads())
}

func against(t tool, demands ...demand) rival { return rival{tool: t, demands: demands} }
func timeAtMost(most float64) demand          { return demand{of: inTime, most: most} }

// asDense are the demands where the machine itself is the limit.
func asDense() []demand {
	return []demand{{of: inTime, most: 1.00, better: 0.92}, {of: inCPU, most: 0.95}, {of: inMemory, most: 0.60}}
}

func denseWorkloads() []workload {
	const tcp = "The same over TCP on the loopback interface"
	return []workload{
		{
			"dense-null", "2 GiB of random bytes in an nbdkit's memory, over a unix socket, to nowhere (`null:`).",
			denseSize, denseNull,
		},
		{"dense-memory", "The same to another nbdkit's memory, over a unix socket.", 2 * denseSize, denseMemory},
		{"dense-tcp-null", tcp + ", to nowhere.", denseSize, denseTCPNull},
		{"dense-tcp-memory", tcp + " on both sides, to another nbdkit's memory.", 2 * denseSize, denseTCPMemory},
	}
}

func denseNull(r *rig) contest {
	disk := r.disk(denseSize)
	src := r.fill(r.serve("src", "memory", fmt.Sprint(disk.size)), disk)
	return r.simple(src, null, disk.size, nowhere{}, asDense()...)
}

func denseMemory(r *rig) contest {
	disk := r.disk(denseSize)
	src := r.fill(r.serve("src", "memory", fmt.Sprint(disk.size)), disk)
	dst := r.serve("dst", "memory", fmt.Sprint(disk.size))
	return r.simple(src, dst, disk.size, memory{dst, disk, evenly(disk.size)}, asDense()...)
}

func denseTCPNull(r *rig) contest {
	disk := r.disk(denseSize)
	src := r.fill(r.serveTCP("src", "memory", fmt.Sprint(disk.size)), disk)
	return r.simple(src, null, disk.size, nowhere{}, timeAtMost(0.90))
}

func denseTCPMemory(r *rig) contest {
	disk := r.disk(denseSize)
	src := r.fill(r.serveTCP("src", "memory", fmt.Sprint(disk.size)), disk)
	dst := r.serveTCP("dst", "memory", fmt.Sprint(disk.size))
	return r.simple(src, dst, disk.size, memory{dst, disk, evenly(disk.size)}, timeAtMost(0.90))
}

// simple is our tool against nbdcopy, both with their defaults, and qemu-img for information.
func (r *rig) simple(src, dst string, size int64, t target, demands ...demand) contest {
	return contest{
		ours:   r.ours([]string{src, dst}),
		target: t,
		rivals: []rival{against(nbdcopy(src, dst), demands...), against(qemu(src, dst, size))},
	}
}

// ownWorkloads compare our tool with itself, with other flags.
func ownWorkloads() []workload {
	return []workload{
		{"xxh3", "As dense-null, with and without a digest of what is read.", denseSize, digests},
		{"progress", "As dense-null, with and without lines about progress.", denseSize, progress},
	}
}

func digests(r *rig) contest {
	return r.oneFlag("--digest", "xxh3", "none", timeAtMost(1.05))
}

func progress(r *rig) contest {
	return r.oneFlag("--progress", "plain", "quiet", timeAtMost(1.01))
}

// oneFlag compares our tool with itself, with another value of one flag.
func (r *rig) oneFlag(flag, with, without string, d demand) contest {
	disk := r.disk(denseSize)
	src := r.fill(r.serve("src", "memory", fmt.Sprint(disk.size)), disk)
	plain := against(r.ours([]string{src, null}, flag, without), d)
	plain.ourself = true
	return contest{
		ours: r.ours([]string{src, null}, flag, with), target: nowhere{}, rivals: []rival{plain},
		times: moreTimes,
	}
}
