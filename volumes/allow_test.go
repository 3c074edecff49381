package volumes_test

import (
	"net/url"
	"strings"
	"testing"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/nbd"
	"github.com/vmferry/vmferry/volumes"
)

func TestAnAllowedURIIsForTheExportsThatItNames(t *testing.T) {
	dir := t.TempDir()
	tests := []struct {
		pattern string
		allowed []string
		refused []string
	}{
		{"nbd://h:1/vol-a", []string{"nbd://h:1/vol-a", "nbd://H:01/vol%2Da", "nbd://h.:1/vol-a"}, []string{
			"nbd://h:1/vol-b", "nbd://h:1/vol-a/", "nbd://h:1/vol-ab", "nbd://h:1//vol-a", "nbd://h:1/", "nbd://h:1",
			"nbd://h:1/VOL-A", "nbd://h:1/vol-a/../vol-b", "nbd://h:2/vol-a", "nbd://i:1/vol-a", "nbds://h:1/vol-a",
			"nbd://u@h:1/vol-a", "nbd://h:1/vol-a?socket=/s",
		}},
		{"nbd://h/web/", []string{"nbd://h/web/a", "nbd://h:10809/web/a/b", "nbd://h/web/a..b"}, []string{
			"nbd://h/web", "nbd://h/webs/a", "nbd://h/web/../db", "nbd://h/web/%2e%2e/db", "nbd://h/web%2f..%2fdb",
		}},
		{"nbd://h/vol-*", []string{"nbd://h/vol-", "nbd://h/vol-a"}, []string{"nbd://h/vol", "nbd://h/vol-/../x"}},
		{"nbd://h/vol%2A", []string{"nbd://h/vol*"}, []string{"nbd://h/vola"}},
		{"nbd://h/a%20b", []string{"nbd://h/a%20b"}, []string{"nbd://h/a+b"}},
		{"nbd://h", []string{"nbd://h", "nbd://h/", "nbd://h:10809/x", "nbd://h/x/../y"}, []string{"nbd://h:10810/x"}},
		{"nbd://h:10809/*", []string{"nbd://h/x", "nbd://h"}, []string{"nbd://g/x"}},
		{"nbd://127.0.0.1/x", []string{"nbd://127.0.0.1/x"}, []string{"nbd://localhost/x", "nbd://[::1]/x"}},
		{"nbd://[2001:DB8::1]/x", []string{"nbd://[2001:db8:0::1]:10809/x"}, []string{"nbd://[2001:db8::2]/x"}},
		{"nbd+vsock:///x", []string{"nbd+vsock://2:10809/x"}, []string{"nbd+vsock://3/x", "nbd+vsock:///y"}},
		{"nbd+unix:///exp?socket=" + dir, []string{"nbd+unix:///exp?socket=" + dir + "/s"}, []string{
			"nbd+unix:///other?socket=" + dir + "/s", "nbd+unix:///exp?socket=" + dir + "/../s",
			"nbd+unix:///?socket=" + dir + "/s",
		}},
	}
	for _, tc := range tests {
		allow := volumes.Allow{URIs: []string{tc.pattern}}
		for _, uri := range tc.allowed {
			if err := allow.Check(uri); err != nil {
				t.Errorf("%s does not allow %s: %v", tc.pattern, uri, err)
			}
		}
		for _, uri := range tc.refused {
			if err := allow.Check(uri); job.KindOf(err) != job.Permission {
				t.Errorf("%s and %s: %v", tc.pattern, uri, err)
			}
		}
	}
	if err := (volumes.Allow{URIs: []string{"nbd://h/"}}).Check("nbd://h/a%00b"); job.KindOf(err) != job.Invalid {
		t.Errorf("a name with a null byte, which ends it in C: %v", err)
	}
}

func TestATargetOfTLSIsRefusedIfNothingVerifiesItsServer(t *testing.T) {
	allow := volumes.Allow{URIs: []string{"nbds://h/"}}
	if err := allow.Check("nbds://h/x"); job.KindOf(err) != job.Invalid ||
		!strings.Contains(job.NextOf(err), "targets.tls_certificates") {
		t.Errorf("next step %q: %v", job.NextOf(err), err)
	}
	err := allow.Check("nbds://h/x?tls-certificates=/tmp")
	if job.KindOf(err) != job.Permission || !strings.Contains(job.NextOf(err), "targets.tls_certificates") {
		t.Errorf("next step %q: %v", job.NextOf(err), err)
	}
	allow.TLS.Unverified = true
	check(t, allow.Check("nbds://h/x"))
}

func TestPatternsThatAllowLessThanBeforeAreTold(t *testing.T) {
	allow := volumes.Allow{URIs: []string{"nbd://h", "nbd://h/vol-a", "nbds://h/"}}
	notes, err := allow.CheckURIs()
	check(t, err)
	if len(notes) != 2 || !strings.Contains(notes[0], "vol-a") || !strings.Contains(notes[1], "tls_certificates") {
		t.Errorf("notes %q", notes)
	}
	for _, bad := range []string{"http://h/", "nbd+unix:///x", "nbd://h:99999/"} {
		if _, err := (volumes.Allow{URIs: []string{bad}}).CheckURIs(); job.KindOf(err) != job.Invalid {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

// What a pattern with an export allows is that export, or has its beginning, on the same server.
func FuzzAllowedURIs(f *testing.F) {
	f.Add("nbd://h:1/vol-a", "nbd://h:1/vol-b")
	f.Add("nbd://h/web/", "nbd://h/web/%2e%2e/db")
	f.Add("nbd://h/vol-*", "nbd://H:10809/vol-1#x")
	f.Add("nbd+vsock:///x", "nbd+vsock://2/x")
	f.Fuzz(func(t *testing.T, pattern, uri string) {
		allow := volumes.Allow{URIs: []string{pattern}, TLS: nbd.TLS{Unverified: true}}
		if strings.Contains(pattern, "unix") || allow.Check(uri) != nil || !nbd.IsURI(uri) {
			return
		}
		p, errP := url.Parse(pattern)
		u, errU := url.Parse(uri)
		if errP != nil || errU != nil {
			t.Fatalf("%q allows %q, which can't be read", pattern, uri)
		}
		same := func(of *url.URL) string {
			text, err := nbd.CanonicalURI((&url.URL{Scheme: of.Scheme, Host: of.Host, Path: "/"}).String())
			if err != nil {
				t.Fatal(err)
			}
			return of.Scheme + text
		}
		if same(p) != same(u) || u.User != nil || u.RawQuery != "" {
			t.Errorf("%q allows %q on another server", pattern, uri)
		}
		name, begins := strings.TrimPrefix(p.Path, "/"), strings.TrimPrefix(u.Path, "/")
		if !strings.HasPrefix(begins, strings.TrimSuffix(name, "*")) {
			t.Errorf("%q allows %q", pattern, uri)
		}
	})
}
