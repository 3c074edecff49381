package main

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"slices"
	"testing"

	"github.com/vmferry/vmferry/job"
)

// The judge believes what an act records: the bytes that it wrote are those, and it has changed no others.
func TestAnActRecordsWhatItWrote(t *testing.T) {
	for _, d := range deeds() {
		if !slices.Contains(d.kinds, onFile) {
			continue
		}
		t.Run(string(d.name), func(t *testing.T) {
			target, err := makeTarget(t.Context(), t.TempDir(), bench{
				size: 256 << 10, kind: onFile, before: "garbage", named: "link",
			}, 7)
			if err != nil {
				t.Fatal(err)
			}
			target.stash = bytes.Repeat([]byte{1}, int(target.size))
			before, _, err := target.read(t.Context(), target.path, target.size)
			if err != nil {
				t.Fatal(err)
			}
			r := rand.New(rand.NewPCG(1, 1))
			done, ok := target.do(t.Context(), d.name, r)
			if d.name == "make immutable" && !ok {
				t.Skip("not on this file system, or not by this user")
			}
			if !ok || done.act != d.name || done.begin.IsZero() || done.end.Before(done.begin) {
				t.Fatalf("%+v", done)
			}
			if len(target.all()) != 1 {
				t.Error("the touch is not recorded")
			}
			checkTouch(t, target, before, done)
			target.repair()
			if d.name == "move away" {
				done.whole = false
				checkTouch(t, target, before, done)
			}
		})
	}
}

func checkTouch(t *testing.T, target *target, before []byte, done touch) {
	t.Helper()
	name := target.path
	if done.act == "link elsewhere" {
		name = target.names[1]
	}
	is, length, err := target.read(context.Background(), name, target.size)
	if done.whole {
		if err == nil && length == target.size && bytes.Equal(before, is) {
			t.Error("it is as before")
		}
		return
	}
	if err != nil || length != target.size {
		t.Fatal(length, err)
	}
	for i := range is {
		want := before[i]
		if b, ok := done.at(int64(i)); ok {
			want = b
		}
		if is[i] != want {
			t.Fatalf("byte %d is %d, want %d", i, is[i], want)
		}
	}
	if done.hit == bytes.Equal(before, is) {
		t.Errorf("hit is %v", done.hit)
	}
}

func TestTheOtherNameLeadsToTheSameBytes(t *testing.T) {
	for _, named := range []string{"link", "hardlink", "dots"} {
		target, err := makeTarget(t.Context(), t.TempDir(), bench{
			size: 64 << 10, kind: onFile, before: "garbage", named: named,
		}, 7)
		if err != nil {
			t.Fatal(err)
		}
		one, err1 := os.Stat(target.names[0])
		two, err2 := os.Stat(target.names[1])
		if err := errors.Join(err1, err2); err != nil || !os.SameFile(one, two) || target.names[0] == target.names[1] {
			t.Error(named, target.names, err)
		}
	}
}

// A job that knows the target by a hard link does not notice when the other name leads elsewhere.
func TestARenameIsAboutOneOfTwoHardLinks(t *testing.T) {
	for named, all := range map[string]bool{"link": true, "hardlink": false, "dots": true} {
		target, err := makeTarget(t.Context(), t.TempDir(), bench{
			size: 64 << 10, kind: onFile, before: "garbage", named: named,
		}, 7)
		if err != nil {
			t.Fatal(err)
		}
		done, ok := target.do(t.Context(), "swap", rand.New(rand.NewPCG(1, 1)))
		if !ok || (done.only == "") != all || !all && done.only != target.names[0] {
			t.Errorf("%s: %v %q", named, ok, done.only)
		}
	}
}

func TestATouchKnowsItsBytes(t *testing.T) {
	x := touch{where: job.Extents{{Offset: 2, Length: 2}, {Offset: 10, Length: 1}}, data: []byte("abc")}
	got := ""
	for off := range int64(12) {
		if b, ok := x.at(off); ok {
			got += string(b)
		} else {
			got += "."
		}
	}
	if got != "..ab......c." {
		t.Error(got)
	}
}
