package main

import (
	"fmt"

	"github.com/vmferry/vmferry/job"
)

const tooSlowForQemu = "not run: it asks for each range alone and takes minutes on such a map"

func scatteredWorkloads() []workload {
	const sparse = "A disk of 16 GiB with 26,214 scattered ranges of 64 KiB of data"
	const changed = " ranges of 64 KiB of a list of changed ranges, from a file in the page cache to an nbdkit's memory"
	return []workload{
		{
			"sparse-null",
			sparse + " at any multiple of 4 KiB, as file systems allocate them, from an nbdkit's memory to nowhere.",
			2 * gib, sparseNull(fsBlock),
		},
		{"sparse-memory", "The same to another nbdkit's memory.", 4 * gib, sparseMemory(fsBlock)},
		{
			"sparse-aligned-null",
			sparse + " at multiples of 64 KiB, so that requests of that size fit, from an nbdkit's memory to nowhere.",
			2 * gib, sparseNull(rangeSize),
		},
		{"sparse-aligned-memory", "The same to another nbdkit's memory.", 4 * gib, sparseMemory(rangeSize)},
		{
			"changed", "100,000" + changed + "; against a loop that reads a range, writes it, and takes the next.",
			10 * gib, changed0ms,
		},
		{"changed-2ms", "10,000" + changed + ", where each read takes 2 ms longer.", 2 * gib, changed2ms},
	}
}

// sparse is a disk of scattered ranges, which begin at multiples of step.
func (r *rig) sparse(step int64) content {
	size := r.scaled(sparseSize)
	extents := scatter(int(size/sparseStride), sparseStride, step)
	path := r.file(fmt.Sprintf("sparse-%d", step), func(p string) error {
		return writeExtents(r.ctx, p, size, extents, 2)
	})
	return content{file: path, size: size}
}

func sparseNull(step int64) func(*rig) contest {
	return func(r *rig) contest {
		disk := r.sparse(step)
		src := r.fill(r.serve("src", "memory", fmt.Sprint(disk.size)), disk)
		return r.versusScattered(src, null, nowhere{})
	}
}

func sparseMemory(step int64) func(*rig) contest {
	return func(r *rig) contest {
		disk := r.sparse(step)
		src := r.fill(r.serve("src", "memory", fmt.Sprint(disk.size)), disk)
		dst := r.serve("dst", "memory", fmt.Sprint(disk.size))
		return r.versusScattered(src, dst, memory{dst, disk, evenly(disk.size)})
	}
}

func (r *rig) versusScattered(src, dst string, t target) contest {
	return contest{
		ours:   r.ours([]string{src, dst}),
		target: t,
		rivals: []rival{
			against(nbdcopy(src, dst), timeAtMost(0.60)),
			against(nbdcopy(src, dst, "--request-size=65536"), timeAtMost(0.80)),
			{tool: tool{name: qemuImg}, skip: tooSlowForQemu},
		},
	}
}

func changed0ms(r *rig) contest { return r.changed(changedCount, 0.45) }

func changed2ms(r *rig) contest {
	return r.changed(changedFewer, 0.06, "--filter=delay", "rdelay=2ms")
}

// changed is a disk with data in the ranges of a list, and with some data between them that must not be copied.
func (r *rig) changed(count int, most float64, filter ...string) contest {
	count = max(100, int(float64(count)*r.b.scale))
	size := int64(count) * changedStride
	extents := scatter(count, changedStride, rangeSize)
	all := append(extents[:count:count], litter(count, changedStride)...)
	path := r.file(fmt.Sprintf("changed-%d", count), func(p string) error {
		return writeExtents(r.ctx, p, size, all, 3)
	})
	args := []string{"file", path}
	if len(filter) > 0 {
		args = append(append([]string{filter[0]}, args...), filter[1:]...)
	}
	src, dst, list := r.serve("src", args...), r.serve("dst", "memory", fmt.Sprint(size)), r.list(extents)
	return contest{
		ours:   r.ours([]string{src, dst}, "--changed", list),
		target: memory{dst, content{path, size, extents}, someOf(extents)},
		rivals: []rival{against(r.blocking(src, dst, list), timeAtMost(most))},
	}
}

// someOf picks offsets of ranges to spoil; a spot is as large as a range.
func someOf(extents job.Extents) []int64 {
	var out []int64
	for i := 0; i < len(extents); i += max(1, len(extents)/spots) {
		out = append(out, extents[i].Offset)
	}
	return out
}
