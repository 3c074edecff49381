package sim_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vmferry/vmferry/nbd/sim"
)

// run runs a program that must succeed, and returns its output.
func run(tb testing.TB, program string, args ...string) string {
	tb.Helper()
	out, err := exec.CommandContext(tb.Context(), program, args...).CombinedOutput()
	if err != nil {
		tb.Fatalf("%s %s: %v: %s", program, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// noViolations fails the test if the server has recorded a violation: with a real client that is likely our error.
func noViolations(tb testing.TB, s *sim.Server) {
	tb.Helper()
	if v := s.State().Violations; len(v) > 0 {
		tb.Errorf("violations: %q", v)
	}
}

// variants are servers that real clients must be able to use.
func variants() map[string]sim.Options {
	return map[string]sim.Options{
		"all capabilities":       {},
		"simple replies":         {Without: sim.CanStructured},
		"no extents":             {Without: sim.CanExtents},
		"no zeroes":              {Without: sim.CanZero},
		"no fast zero":           {Without: sim.CanFastZero},
		"no trim, fua and flush": {Without: sim.CanTrim | sim.CanFUA | sim.CanFlush},
		"no multi-conn":          {Without: sim.CanMultiConn},
		"an old server":          {Without: sim.CanGo | sim.CanNoZeroes | sim.CanStructured},
		"nothing at all":         {Without: 1<<16 - 1},
		"blocks":                 {BlockSizes: sim.BlockSizes{Min: 512, Preferred: 4096, Max: 256 << 10}},
		"one request at a time":  {Requests: 1},
		"another name":           {Export: "disk 1/a+b"},
		"answers out of order":   {Faults: []sim.Fault{{Kind: sim.FaultShuffle}}},
	}
}

func TestRealClientsReadAndWriteADisk(t *testing.T) {
	t.Parallel()
	need(t, "nbdcopy", "qemu-img")
	want := mixed(3*mib + 512)
	dir := t.TempDir()
	image := filepath.Join(dir, "image")
	must(t, os.WriteFile(image, want, 0o600))
	for name, opt := range variants() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			disk := sim.NewMemory(int64(len(want)))
			put(disk, 0, bytes.Repeat([]byte{0xAA}, len(want)))
			opt.Backend = disk
			s := start(t, opt)
			write := map[string][]string{
				"nbdcopy":  {image, s.URI()},
				"qemu-img": {"convert", "-n", "-f", "raw", "-O", "raw", image, s.URI()},
			}
			if opt.Without&sim.CanFlush == 0 {
				write["nbdcopy"] = append([]string{"--flush"}, write["nbdcopy"]...)
			}
			back := func(to string) map[string][]string {
				return map[string][]string{
					"nbdcopy":  {s.URI(), to},
					"qemu-img": {"convert", "-f", "raw", "-O", "raw", s.URI(), to},
				}
			}
			for _, program := range []string{"nbdcopy", "qemu-img"} {
				put(disk, 0, bytes.Repeat([]byte{0xAA}, len(want)))
				run(t, program, write[program]...)
				if !bytes.Equal(get(disk, 0, disk.Size()), want) {
					t.Errorf("%s wrote something else", program)
				}
				to := filepath.Join(t.TempDir(), "back")
				run(t, program, back(to)[program]...)
				got, err := os.ReadFile(to)
				must(t, err)
				if !bytes.Equal(got, want) {
					t.Errorf("%s read something else", program)
				}
			}
			noViolations(t, s)
			await(t, "all clients have left", func() bool { return s.State().Connections == 0 })
		})
	}
}

func TestNbdinfoReadsTheServer(t *testing.T) {
	need(t, "nbdinfo")
	disk := sim.NewMemory(4*mib - 512)
	put(disk, mib, make([]byte, 64*kib))
	s := start(t, sim.Options{
		Backend: disk, Without: sim.CanTrim, BlockSizes: sim.BlockSizes{Min: 512, Preferred: 64 << 10, Max: 2 << 20},
	})
	var info struct {
		Exports []map[string]any `json:"exports"`
	}
	must(t, json.Unmarshal([]byte(run(t, "nbdinfo", "--json", s.URI())), &info))
	for key, want := range map[string]string{
		"export-size": "4193792", "is_read_only": "false", "can_multi_conn": "true", "can_trim": "false",
		"can_fua": "true", "can_zero": "true", "can_fast_zero": "true", "can_flush": "true", "can_df": "true",
		"block_size_minimum": "512", "block_size_preferred": "65536", "block_size_maximum": "2097152",
		"contexts": "[base:allocation]",
	} {
		if got := info.Exports[0][key]; strings.TrimSuffix(fmt.Sprintf("%v", got), ".0") != want &&
			fmt.Sprintf("%.0f", got) != want {
			t.Errorf("%s is %v, want %s", key, got, want)
		}
	}
	var extents []struct{ Offset, Length, Type int }
	must(t, json.Unmarshal([]byte(run(t, "nbdinfo", "--map", "--json", s.URI())), &extents))
	if got, want := fmt.Sprint(extents), "[{0 1048576 3} {1048576 65536 0} {1114112 3079680 3}]"; got != want {
		t.Errorf("map is %s, want %s", got, want)
	}
	if list := run(t, "nbdinfo", "--list", s.URI()); !strings.Contains(list, "export=\"\"") {
		t.Errorf("the list is %s", list)
	}
	noViolations(t, s)
}

func TestAReadOnlyDiskTakesNothing(t *testing.T) {
	need(t, "nbdinfo", "nbdcopy")
	s := start(t, sim.Options{Backend: filled(mib), ReadOnly: true})
	run(t, "nbdinfo", "--is", "read-only", s.URI())
	image := filepath.Join(t.TempDir(), "image")
	must(t, os.WriteFile(image, make([]byte, mib), 0o600))
	if out, err := exec.CommandContext(t.Context(), "nbdcopy", image, s.URI()).CombinedOutput(); err == nil {
		t.Errorf("nbdcopy wrote to it: %s", out)
	}
	if get(s.Disk(), 0, 1)[0] != 0x55 {
		t.Error("it was changed")
	}
}

func TestAFileIsServedWithItsHoles(t *testing.T) {
	need(t, "nbdcopy", "nbdinfo")
	want := mixed(3*mib + 512)
	clear(want[mib : 2*mib])
	image := filepath.Join(t.TempDir(), "image")
	f, err := os.Create(image)
	must(t, err)
	_, err = f.Write(want[:mib])
	must(t, err)
	_, err = f.WriteAt(want[2*mib:], 2*mib)
	must(t, err)
	must(t, f.Close())
	disk, err := sim.OpenFile(image, false)
	must(t, err)
	t.Cleanup(func() { must(t, disk.Close()) })
	s := start(t, sim.Options{Backend: disk, Listen: "127.0.0.1:0", Export: "a"})
	to := filepath.Join(t.TempDir(), "back")
	run(t, "nbdcopy", s.URI(), to)
	got, err := os.ReadFile(to)
	must(t, err)
	if !bytes.Equal(got, want) {
		t.Error("it reads as something else")
	}
	if m := run(t, "nbdinfo", "--map", "--totals", s.URI()); !strings.Contains(m, "hole,zero") {
		t.Errorf("no holes in %s", m)
	}
	other := mixed(len(want) - 512)
	from := filepath.Join(t.TempDir(), "other")
	must(t, os.WriteFile(from, other, 0o600))
	run(t, "nbdcopy", "--flush", from, s.URI())
	got, err = os.ReadFile(image)
	must(t, err)
	if !bytes.Equal(got[:len(other)], other) || !bytes.Equal(got[len(other):], want[len(other):]) {
		t.Error("the image holds something else than was written")
	}
	noViolations(t, s)
}
