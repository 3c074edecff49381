package nbd_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/nbd"
)

func TestAllWaysToWriteOneExportAreOneText(t *testing.T) {
	dir, err := filepath.EvalSymlinks(shortDir(t))
	check(t, err)
	check(t, os.Mkdir(filepath.Join(dir, "a"), 0o700))
	check(t, os.WriteFile(filepath.Join(dir, "a", "s"), nil, 0o600))
	check(t, os.Symlink("a", filepath.Join(dir, "link")))
	check(t, os.Symlink("a/s", filepath.Join(dir, "other name")))
	t.Chdir(filepath.Join(dir, "a"))
	for want, uris := range map[string][]string{
		"nbd://storage.example:10809/web": {
			"nbd://storage.example/web", "nbd://STORAGE.example:10809/web", "nbd://storage.example.:010809/%77eb",
			"nbds://user:password@storage.example/web", "nbds://storage.example/web?tls-certificates=/etc/pki",
			"NBD://storage.example:/web#part",
		},
		"nbd://storage.example:10809/":       {"nbd://storage.example", "nbds://storage.example/"},
		"nbd://storage.example:10809//web":   {"nbd://storage.example//web"},
		"nbd://storage.example:10810/web":    {"nbd://storage.example:10810/web"},
		"nbd://storage.example:10809/a%20b+": {"nbd://storage.example/a%20b+", "nbd://storage.example/a%20b%2B"},
		"nbd://localhost:10809/":             {"nbd://127.0.0.1", "nbd://[::1]:10809/", "nbd://LocalHost", "nbd:///"},
		"nbd://[2001:db8::1]:10809/":         {"nbd://[2001:DB8:0::1]"},
		"nbd://10.0.0.1:10809/":              {"nbd://10.0.0.1/", "nbd://[::ffff:10.0.0.1]/"},
		"nbd+vsock://2:10809/x":              {"nbd+vsock:///x", "nbds+vsock://2/x"},
		"nbd+unix:///web?socket=" + escaped(dir+"/a/s"): {
			"nbd+unix:///web?socket=" + dir + "/a/s", "nbds+unix:///web?socket=" + dir + "/link/s",
			"nbd+unix:///web?socket=" + dir + "/link/../a/./s", "nbd+unix:///web?socket=" + escaped(dir+"/other name"),
			"nbd+unix:///web?socket=s", "nbd+unix:///w%65b?socket=../link/s",
		},
		"nbd+unix:///?socket=" + escaped(dir+"/a/gone/too"): {"nbd+unix:///?socket=" + dir + "/link/gone/too"},
	} {
		for _, uri := range uris {
			got, err := nbd.CanonicalURI(uri)
			check(t, err)
			if got != want {
				t.Errorf("%s is %s, want %s", uri, got, want)
			}
			if again, err := nbd.CanonicalURI(got); err != nil || again != got {
				t.Errorf("of %s it makes %s: %v", got, again, err)
			}
		}
	}
	for _, bad := range []string{"", "/dev/sda", "http://host/", "nbd+unix:///web", "nbd://host:port/"} {
		if got, err := nbd.CanonicalURI(bad); job.KindOf(err) != job.Invalid {
			t.Errorf("%q is %q: %v", bad, got, err)
		}
	}
}

// escaped is a path as it is in our URIs.
func escaped(path string) string { return nbd.SocketURI(path)[len("nbd+unix:///?socket="):] }
