package volumes

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/vmferry/vmferry/nbd"
)

// file is an identity as a file of this boot has it.
func file(change func(*identity)) identity {
	i := identity{kind: nbd.File, inode: "12", born: "1700", fs: "fa57", mark: "m1", dev: "8:1", boot: "b1"}
	if change != nil {
		change(&i)
	}
	return i
}

func device(change func(*identity)) identity {
	i := identity{kind: nbd.Block, dev: "8:16", boot: "b1", seq: "7"}
	if change != nil {
		change(&i)
	}
	return i
}

func TestWhichVolumesAreTheSame(t *testing.T) {
	reboot := func(i *identity) { i.boot = "b2" }
	for name, tc := range map[string]struct {
		before, now identity
		want        bool
	}{
		"a file":                           {file(nil), file(nil), true},
		"another inode":                    {file(nil), file(func(i *identity) { i.inode = "13" }), false},
		"a number that was given again":    {file(nil), file(func(i *identity) { i.born = "1800" }), false},
		"another file system":              {file(nil), file(func(i *identity) { i.fs = "0bad" }), false},
		"another file system of this boot": {file(nil), file(func(i *identity) { i.dev = "8:2" }), false},
		"the same after a reboot":          {file(nil), file(reboot), true},
		"after a reboot, by another number": {
			file(nil), file(func(i *identity) { i.boot, i.dev = "b2", "0:40" }), true,
		},
		"another file system after a reboot": {
			file(nil), file(func(i *identity) { i.boot, i.fs = "b2", "0bad" }), false,
		},
		"another mark":                          {file(nil), file(func(i *identity) { i.mark = "m2" }), false},
		"marked since":                          {file(func(i *identity) { i.mark = "" }), file(nil), true},
		"its time of birth is not known":        {file(func(i *identity) { i.born = "" }), file(nil), true},
		"a file and a device":                   {file(nil), device(nil), false},
		"nothing and a file":                    {identity{}, file(nil), false},
		"a device":                              {device(nil), device(nil), true},
		"a device that was attached anew":       {device(nil), device(func(i *identity) { i.seq = "8" }), false},
		"a device without a name, after reboot": {device(nil), device(reboot), false},
		"a LUN after a reboot": {
			device(func(i *identity) { i.wwid = "naa.1" }),
			device(func(i *identity) { i.wwid, i.boot, i.dev, i.seq = "naa.1", "b2", "8:32", "2" }), true,
		},
		"another LUN under its name": {
			device(func(i *identity) { i.wwid = "naa.1" }), device(func(i *identity) { i.wwid = "naa.2" }), false,
		},
		"a logical volume after a reboot": {
			device(func(i *identity) { i.dm = "LVM-x" }),
			device(func(i *identity) { i.dm, i.boot, i.dev = "LVM-x", "b2", "254:9" }), true,
		},
		"a loop device, attached anew to its file": {
			device(func(i *identity) { i.loop = file(nil).String() }),
			device(func(i *identity) { i.loop, i.dev, i.seq = file(nil).String(), "7:9", "9" }), true,
		},
		"a loop device on another part of its file": {
			device(func(i *identity) { i.loop, i.window = file(nil).String(), "0+0" }),
			device(func(i *identity) { i.loop, i.window = file(nil).String(), "4096+0" }), false,
		},
		"an export": {
			identity{kind: nbd.NBD, uri: "nbd://h/a", size: "1"},
			identity{kind: nbd.NBD, uri: "nbd://h/a", size: "1"},
			true,
		},
		"another export of the server": {
			identity{kind: nbd.NBD, uri: "nbd://h/a", size: "1"},
			identity{kind: nbd.NBD, uri: "nbd://h/b", size: "1"},
			false,
		},
		"an export of another size": {
			identity{kind: nbd.NBD, uri: "nbd://h/a", size: "1"},
			identity{kind: nbd.NBD, uri: "nbd://h/a", size: "2"},
			false,
		},
		"of an earlier version": {parseIdentity("/t/a dev=801 inode=12"), file(nil), true},
		"of an earlier version, in a file system of another number": {
			parseIdentity("/t/a dev=28 inode=12"), file(nil), true,
		},
		"of an earlier version, another inode": {parseIdentity("/t/a dev=801 inode=13"), file(nil), false},
		"of an earlier version, moved":         {parseIdentity("/t/b dev=801 inode=12"), file(nil), true},
		"of an earlier version, elsewhere":     {parseIdentity("/t/b dev=28 inode=12"), file(nil), false},
		"an export of an earlier version": {
			parseIdentity("nbd://h/a size=5"),
			identity{kind: nbd.NBD, uri: canonical("nbd://h:10809/a"), size: "5"},
			true,
		},
	} {
		if got := tc.before.same(tc.now, "/t/a"); got != tc.want {
			t.Errorf("%s: %v", name, got)
		}
		if tc.before.path == "" && tc.before.kind != "" && parseIdentity(tc.before.String()) != tc.before {
			t.Errorf("%s: stored as %q, read as %+v", name, tc.before, parseIdentity(tc.before.String()))
		}
	}
}

func TestWhatTwoStampsTell(t *testing.T) {
	const dev = "writes=80,0,0 seq=7 boot=b1"
	for name, tc := range map[string]struct {
		before, now string
		want        comparison
	}{
		"a file as it was":                     {"size=1 mtime=2 ctime=3", "size=1 mtime=2 ctime=3", unchanged},
		"its time was set back":                {"size=1 mtime=2 ctime=3", "size=1 mtime=2 ctime=4", changed},
		"another size":                         {"size=1 mtime=2 ctime=3", "size=2 mtime=2 ctime=3", changed},
		"nothing is known":                     {"", "size=2 mtime=2 ctime=3", unknown},
		"of an earlier version":                {"changed=2", "size=1 mtime=2 ctime=9", unchanged},
		"of an earlier version, written since": {"changed=2", "size=1 mtime=3 ctime=9", changed},
		"a device as it was":                   {dev, dev, unchanged},
		"a device that was written":            {dev, "writes=88,0,0 seq=7 boot=b1", changed},
		"a device that lost blocks":            {dev, "writes=80,1,8 seq=7 boot=b1", changed},
		"after a reboot":                       {dev, "writes=0,0,0 seq=3 boot=b2", unknown},
		"attached anew":                        {dev, "writes=80,0,0 seq=8 boot=b1", unknown},
		"a loop device with its file":          {dev + " backing=x", "writes=0,0,0 seq=8 boot=b2 backing=x", unchanged},
		"a loop device, its file was written":  {dev + " backing=x", "writes=80,0,0 seq=7 boot=b1 backing=y", changed},
		"a loop device, written, not synced":   {dev + " backing=x", "writes=88,0,0 seq=7 boot=b1 backing=x", changed},
	} {
		if got := compareStamps(tc.before, tc.now); got != tc.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// TestAWriteRightAfterTheStampShows: the clock of files moves in steps, and a write within one step must not hide.
func TestAWriteRightAfterTheStampShows(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk")
	if err := Create(path, 1<<20); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for range 50 {
		if _, err := f.WriteAt([]byte("ours"), 0); err != nil {
			t.Fatal(err)
		}
		before, err := settled(t.Context(), f, nbd.File)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt([]byte("theirs"), 0); err != nil {
			t.Fatal(err)
		}
		after, err := settled(t.Context(), f, nbd.File)
		if err != nil || compareStamps(before, after) != changed {
			t.Fatalf("%s, %s, %v", before, after, err)
		}
	}
}
