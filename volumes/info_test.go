package volumes_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/nbd"
	"github.com/vmferry/vmferry/volumes"
)

func TestInspectTellsWhatATargetIsAndChangesNothing(t *testing.T) {
	dir := t.TempDir()
	export := readOnlyExport(t)
	allow := volumes.Allow{Roots: []string{dir}, URIs: []string{"nbd+unix:///?socket=/"}}
	inspect := func(target string) volumes.Info {
		t.Helper()
		info, err := allow.Inspect(t.Context(), target)
		check(t, err)
		return info
	}
	path := filepath.Join(dir, "disk")
	if got := inspect(path); got.Exists || got.Kind != nbd.File {
		t.Errorf("nothing there: %+v", got)
	}
	if _, err := os.Stat(path); err == nil {
		t.Fatal("inspecting made a file")
	}
	check(t, volumes.Create(path, 5*mib))
	first := inspect(path)
	if !first.Exists || first.Kind != nbd.File || first.Size != 5*mib || first.ReadOnly || first.Identity == "" ||
		strings.Contains(first.Identity, path) {
		t.Errorf("a file: %+v", first)
	}
	check(t, os.Rename(path, path+".old"))
	check(t, volumes.Create(path, 5*mib))
	if inspect(path).Identity == first.Identity || inspect(path+".old").Identity != first.Identity {
		t.Error("the identity went by the name")
	}
	if got := inspect(export); got.Kind != nbd.NBD || got.Size != 3*mib || !got.ReadOnly || got.Identity == "" {
		t.Errorf("an export: %+v", got)
	}
	for _, target := range []string{dir, "ssh://host/", "null:", "-", ""} {
		_, err := allow.Inspect(t.Context(), target)
		wantKind(t, err, job.Invalid)
	}
}

func TestATargetIsNotCreatedOverAnything(t *testing.T) {
	path := dirty(t, mib)
	wantKind(t, volumes.Create(path, mib), job.Conflict)
	wantKind(t, volumes.Create(filepath.Join(t.TempDir(), "x"), 0), job.Invalid)
	wantKind(t, volumes.Create(filepath.Join(t.TempDir(), "no", "x"), 1), job.NotFound)
	link := filepath.Join(t.TempDir(), "link")
	check(t, os.Symlink(filepath.Join(t.TempDir(), "elsewhere"), link))
	wantKind(t, volumes.Create(link, mib), job.Conflict)
}

func TestOnlyAllowedTargetsAreAllowed(t *testing.T) {
	root := t.TempDir()
	outside := t.TempDir()
	in := func(names ...string) string { return filepath.Join(append([]string{root}, names...)...) }
	check(t, os.Mkdir(in("sub"), 0o700))
	check(t, os.Mkdir(root+"-evil", 0o700))
	t.Cleanup(func() { os.RemoveAll(root + "-evil") })
	check(t, os.Symlink(outside, in("way-out")))
	check(t, os.Symlink(filepath.Join(outside, "new"), in("link-to-nothing")))
	check(t, os.Symlink("sub", in("inner")))
	allow := volumes.Allow{
		Roots: []string{root},
		URIs:  []string{"nbds://storage.example", "nbd://10.0.0.1:10810", "nbd+unix:///?socket=" + root, "nbd+unix://"},
		TLS:   nbd.TLS{Unverified: true},
	}
	tests := []struct {
		target string
		want   job.Kind
	}{
		{in("disk"), ""},
		{in("sub", "disk"), ""},
		{in("inner", "disk"), ""},
		{root + "/sub/../disk", ""},
		{root + "/../" + filepath.Base(root) + "/disk", ""},
		{root + "-evil/disk", job.Permission},
		{root + "/../" + filepath.Base(outside) + "/disk", job.Permission},
		{in("way-out", "disk"), job.Permission},
		{root + "/way-out/../disk", job.Permission},
		{in("link-to-nothing"), job.NotFound},
		{in("no", "disk"), ""},
		{root + "/sub/..", ""},
		{"/etc/passwd", job.Permission},
		{"relative", job.Permission},
		{"", job.Invalid},
		{"null:", job.Invalid},
		{"nbds://storage.example/volume", ""},
		{"nbds://STORAGE.example/volume", ""},
		{"nbd://storage.example/volume", job.Permission},
		{"nbds://storage.example.evil/volume", job.Permission},
		{"nbds://storage.example:1/volume", job.Permission},
		{"nbds://user@storage.example/volume", job.Permission},
		{"nbds://storage.example/?tls-psk-file=/etc/shadow", job.Permission},
		{"nbd://10.0.0.1:10810", ""},
		{"nbd://10.0.0.1", job.Permission},
		{"nbd://169.254.169.254/", job.Permission},
		{"nbd+unix:///x?socket=" + root + "/s", ""},
		{"nbd+unix:///x?socket=" + root + "/../s", job.Permission},
		{"nbd+unix:///x?socket=" + root + "-evil/s", job.Permission},
		{"nbd+unix:///x?socket=" + root + "/way-out/s", job.Permission},
		{"nbd+unix:///x?socket=" + root + "/s&socket=/run/docker.sock", job.Invalid},
		{"nbd+unix:///x?socket=" + root + "/s;socket=/run/docker.sock", job.Invalid},
		{"nbd+unix:///x?socket=" + root + "/s&SOCKET=/run/docker.sock", job.Invalid},
		{"nbd:storage.example:10809", job.Invalid},
		{"nbd+unix:///x?socket=/run/docker.sock", job.Permission},
		{"nbd+unix:///x", job.Invalid},
		{"nbd+ssh://storage.example/", job.Invalid},
		{"file:///etc/shadow", job.Invalid},
	}
	for _, tc := range tests {
		err := allow.Check(tc.target)
		if got := job.KindOf(err); got != tc.want {
			t.Errorf("%s: kind %q, want %q (%v)", tc.target, got, tc.want, err)
		}
		if tc.want == job.Permission && job.NextOf(err) == "" {
			t.Errorf("%s: no next step", tc.target)
		}
	}
	if err := (volumes.Allow{}).Check(in("disk")); job.KindOf(err) != job.Permission {
		t.Errorf("nothing allowed: %v", err)
	}
}
