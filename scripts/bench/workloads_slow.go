package main

import (
	"fmt"

	"github.com/vmferry/vmferry/job"
)

func slowWorkloads() []workload {
	return []workload{
		{
			"latency-50ms",
			"1 GiB of random bytes, where each read takes 50 ms longer, to nowhere; also against the fastest of " +
				"three tuned nbdcopy.",
			latencySize, latency,
		},
		{
			"per-connection-limit",
			"512 MiB of random bytes from a server that lets each connection have 400 Mbit a second, after 100 MB at " +
				"once, to nowhere.",
			0, limited,
		},
		{
			"eight-disks",
			"8 disks of 256 MiB in 8 nbdkits' memory, all at once, to nowhere: one vmferry against 8 nbdcopy side by " +
				"side.",
			severalDisks * severalSize, eightDisks,
		},
		{
			"allocated-zeros",
			"4 GiB of zeros with 16 MiB of data in between, which the source does not tell apart, to an nbdkit's " +
				"memory that is known to be zero.",
			0, allocatedZeros,
		},
	}
}

func latency(r *rig) contest {
	disk := r.disk(latencySize)
	src := r.fill(r.serve("src", "--filter=delay", "memory", fmt.Sprint(disk.size), "rdelay=50ms"), disk)
	const large = "--request-size=1048576"
	tuned := r.fastest(
		nbdcopy(src, null, "-C", "8", "-T", "8", large, "--queue-size=67108864"),
		nbdcopy(src, null, "-C", "4", "-T", "4", large, "--queue-size=67108864"),
		nbdcopy(src, null, "-C", "8", "-T", "8", "--request-size=2097152", "--queue-size=134217728"),
	)
	return contest{
		ours:   r.ours([]string{src, null}),
		target: nowhere{},
		rivals: []rival{
			against(nbdcopy(src, null), timeAtMost(0.20)),
			against(tuned, timeAtMost(0.80), demand{of: inMemory, most: 0.20}),
		},
	}
}

func limited(r *rig) contest {
	disk := r.disk(limitedSize)
	src := r.serve("src", "--filter=rate", "file", disk.file, "connection-rate=400M")
	return contest{
		ours:   r.ours([]string{src, null}, "--connections", "4"),
		target: nowhere{},
		rivals: []rival{against(nbdcopy(src, null), timeAtMost(0.30))},
	}
}

func eightDisks(r *rig) contest {
	disk := r.disk(severalSize)
	var pairs []string
	side := tool{name: "8 × nbdcopy"}
	for i := range severalDisks {
		src := r.fill(r.serve(fmt.Sprint("src", i), "memory", fmt.Sprint(disk.size)), disk)
		pairs = append(pairs, src, null)
		side.commands = append(side.commands, nbdcopy(src, null).commands...)
	}
	return contest{
		ours:   r.ours(pairs),
		target: nowhere{},
		rivals: []rival{against(side, timeAtMost(0.85), demand{of: inMiB, most: 100})},
	}
}

func allocatedZeros(r *rig) contest {
	size := r.scaled(zerosSize)
	var some job.Extents
	for _, off := range evenly(size) {
		some = append(some, job.Extent{Offset: off, Length: spotSize})
	}
	zeros := content{size: size, file: r.file("zeros", func(p string) error {
		return writeExtents(r.ctx, p, size, some, 4)
	})}
	src := r.fill(r.serve("src", "--filter=noextents", "memory", fmt.Sprint(size)), zeros)
	dst := r.serve("dst", "memory", fmt.Sprint(size))
	return contest{
		ours:   r.ours([]string{src, dst}, "--target-is-zero"),
		target: memory{dst, zeros, nil},
		rivals: []rival{against(nbdcopy(src, dst, "--destination-is-zero"), timeAtMost(0.95))},
	}
}
