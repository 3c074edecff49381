package vsphere_test

import (
	"context"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/vsphere/sim"
)

func TestAListingDescribesEachVMAsALookAtItDoes(t *testing.T) {
	v := vcenter(t, sim.Options{VMs: []sim.VM{
		web(t), {Name: "web", Folder: "old"}, {Name: "off", PoweredOff: true},
	}})
	c := connect(t, config(t, v))
	all, err := c.VMs(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var paths []string
	for _, vm := range all {
		paths = append(paths, vm.Path)
		if want := inspect(t, c, vm.Ref); !cmp.Equal(want, vm.VM) {
			t.Errorf("%s (-inspected +listed):\n%s", vm.Path, cmp.Diff(want, vm.VM))
		}
		if vm.Path != vm.Folder+"/"+vm.Name || vm.Template {
			t.Errorf("%+v", vm)
		}
	}
	want := []string{"/DC0/vm/off", "/DC0/vm/old/web", "/DC0/vm/web"}
	if diff := cmp.Diff(want, paths); diff != "" {
		t.Errorf("paths (-want +got):\n%s", diff)
	}
}

func TestAListingEndsWithItsContext(t *testing.T) {
	c := connect(t, config(t, vcenter(t, sim.Options{VMs: []sim.VM{web(t)}})))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := c.VMs(ctx)
	wantKind(t, err, job.Cancelled)
}
