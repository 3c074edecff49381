package vsphere_test

import (
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/vsphere"
	"github.com/vmferry/vmferry/vsphere/sim"
)

// shown is an export as text, with its secrets hidden.
func shown(e job.Export) []string {
	out := []string{e.Transport, e.Plugin, e.URI, strings.Join(e.Filters, ",")}
	for _, p := range e.Params {
		v := p.Value
		if !p.Secret.Empty() {
			v = p.Secret.String()
		}
		out = append(out, p.Key+"="+v)
	}
	return out
}

func TestExportsSayHowToReadTheFrozenDisk(t *testing.T) {
	v := vcenter(t, sim.Options{VMs: []sim.VM{{Name: "web & co", Disks: []string{image(t, mib)}}}})
	address, err := url.Parse(v.URL())
	must(t, err)
	host, port, err := net.SplitHostPort(address.Host)
	must(t, err)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	must(t, os.WriteFile(ca, v.Certificate(), 0o600))
	curl := []string{
		"curl", "curl", "", "retry",
		"url=https://" + address.Host + "/folder/web%20&%20co/web%20&%20co-flat.vmdk?dcPath=DC0&dsName=LocalDS_0",
		"cookie=***", "protocols=https", "followlocation=false", "timeout=120", "cainfo=" + ca,
	}
	vddk := func(vm, snap string) []string {
		return []string{
			"vddk", "/opt/plugin.so", "", "cacheextents,blocksize,retry", "libdir=/opt/vddk", "config=/etc/vddk.conf",
			"server=" + host, "port=" + port, "user=administrator@vsphere.local", "password=***",
			"thumbprint=" + v.ThumbprintSHA1(), "vm=moref=" + vm, "snapshot=" + snap, "transports=nbdssl:nbd",
			"compression=fastlz", "maxdata=2M", "minblock=512", "file=[LocalDS_0] web & co/web & co.vmdk",
		}
	}
	library := vsphere.Transport{VDDKLibDir: "/opt/vddk", VDDKPlugin: "/opt/plugin.so", VDDKConfig: "/etc/vddk.conf"}
	for _, tc := range []struct {
		kind   string
		source vsphere.Transport
		want   func(vm, snap string) []string
	}{
		{"curl", vsphere.Transport{}, func(_, _ string) []string { return curl }},
		{"auto", vsphere.Transport{}, func(_, _ string) []string { return curl }},
		{"", vsphere.Transport{}, func(_, _ string) []string { return curl }},
		{"vddk", library, vddk},
		{"auto", library, vddk},
		{
			"nbd",
			vsphere.Transport{NBDURI: "nbd+unix:///{vm}?socket=/run/{disk}-{snapshot}"},
			func(_, snap string) []string {
				return []string{"nbd", "", "nbd+unix:///web%20%26%20co?socket=/run/disk-2000-" + snap, ""}
			},
		},
	} {
		t.Run(tc.kind+" with "+tc.source.VDDKLibDir, func(t *testing.T) {
			cfg := config(t, v)
			cfg.Thumbprint, cfg.CAFile = "", ca
			cfg.Source = tc.source
			cfg.Source.Kind = tc.kind
			c := connect(t, cfg)
			vm := inspect(t, c, "web & co")
			s := snapshot(t, c, vm, "vmferry-job-1")
			e, err := c.Export(t.Context(), vm, s, "disk-2000")
			must(t, err)
			if diff := cmp.Diff(tc.want(vm.Ref, s.Ref), shown(e)); diff != "" {
				t.Errorf("export (-want +got):\n%s", diff)
			}
		})
	}
}

func TestAPinnedCertificateBecomesCurlsOnlyAuthority(t *testing.T) {
	v := vcenter(t, sim.Options{})
	cfg := config(t, v)
	c, err := vsphere.Connect(t.Context(), cfg)
	must(t, err)
	vm := inspect(t, c, "web")
	s := snapshot(t, c, vm, "vmferry-job-1")
	e, err := c.Export(t.Context(), vm, s, "disk-2000")
	must(t, err)
	file := param(t, e, "cainfo").Value
	got, err := os.ReadFile(file)
	must(t, err)
	if string(got) != string(v.Certificate()) {
		t.Error("the file holds another certificate")
	}
	must(t, c.Close(t.Context()))
	if _, err := os.Stat(file); !os.IsNotExist(err) {
		t.Errorf("the file outlives the client: %v", err)
	}
}

func TestCurlIsRefusedWhereAFileIsNotTheDisk(t *testing.T) {
	m := web(t)
	m.Snapshots = []string{"before the update"}
	v := vcenter(t, sim.Options{VMs: []sim.VM{m}, CBT: true})
	c := connect(t, config(t, v))
	vm := inspect(t, c, "web")
	s := snapshot(t, c, vm, "vmferry-job-1")
	_, err := c.Export(t.Context(), vm, s, "disk-2000")
	wantKind(t, err, job.Unsupported, `"before the update"`, "source.vddk_libdir")

	v = vcenter(t, sim.Options{})
	c = connect(t, config(t, v))
	vm = inspect(t, c, "web")
	s = snapshot(t, c, vm, "vmferry-job-1")
	must(t, c.RemoveSnapshot(t.Context(), vm, held(s)))
	_, err = c.Export(t.Context(), vm, s, "disk-2000")
	wantKind(t, err, job.NotFound, s.Ref)
	_, err = c.Export(t.Context(), vm, s, "disk-7")
	wantKind(t, err, job.NotFound)
}

func TestAnAnswerOfTheDatastoreBecomesAnErrorOfItsKind(t *testing.T) {
	v := vcenter(t, sim.Options{})
	c := connect(t, config(t, v))
	vm := inspect(t, c, "web")
	s := snapshot(t, c, vm, "vmferry-job-1")
	for status, kind := range map[int]job.Kind{
		http.StatusForbidden:          job.Permission,
		http.StatusNotFound:           job.Unsupported,
		http.StatusServiceUnavailable: job.Unavailable,
		http.StatusTooManyRequests:    job.Unavailable,
		http.StatusTeapot:             job.Unsupported,
	} {
		must(t, v.Inject(sim.Fault{Kind: sim.FaultFolder, Status: status}))
		_, err := c.Export(t.Context(), vm, s, "disk-2000")
		wantKind(t, err, kind, "find a way to read disk-2000 of web")
	}
	must(t, v.Inject(sim.Fault{Kind: sim.FaultFolder, Status: http.StatusUnauthorized}))
	if _, err := c.Export(t.Context(), vm, s, "disk-2000"); err != nil {
		t.Errorf("a read refused once for its session is tried again, but: %v", err)
	}
}

func TestACertificateThatIsCleanedAwayIsWrittenAgain(t *testing.T) {
	for _, dir := range []string{"", filepath.Join(t.TempDir(), "run")} {
		temporary := t.TempDir()
		t.Setenv("TMPDIR", temporary)
		v := vcenter(t, sim.Options{})
		cfg := config(t, v)
		cfg.RunDir = dir
		c := connect(t, cfg)
		vm := inspect(t, c, "web")
		s := snapshot(t, c, vm, "vmferry-job-1")
		p := make([]byte, 4096)
		for range 2 {
			e, err := c.Export(t.Context(), vm, s, "disk-2000")
			must(t, err)
			must(t, https(t, e)(p, mib))
			for _, where := range []string{filepath.Join(temporary, "vmferry-vcenter-*"), dir} {
				found, err := filepath.Glob(where)
				must(t, err)
				for _, f := range found {
					must(t, os.RemoveAll(f))
				}
			}
		}
	}
}
