package rest

import (
	"context"
	"net/http"
)

// CBTStatus is what a daemon's vCenter says of a VM.
type CBTStatus struct {
	Enabled    bool   `json:"enabled"`
	VMName     string `json:"vm_name"`
	PowerState string `json:"power_state"`
	VMPath     string `json:"vm_path"`
}

// CBTStatus asks for a VM, by its path, UUID, moref or unique name. Errors are as those of KnowsVM.
func (c *Client) CBTStatus(ctx context.Context, vm string) (s CBTStatus, err error) {
	_, err = c.do(ctx, http.MethodGet, "/api/v1/vms/"+escapeVM(vm)+"/cbt-status", nil, nil, &s)
	return s, err
}

// KnowsVM says whether the daemon's vCenter has a VM, by its path, UUID, moref or unique name: nil if it has. Errors
// are those of the daemon: NotFound, Conflict if the name leads to several, Unavailable without a vCenter.
func (c *Client) KnowsVM(ctx context.Context, vm string) error {
	_, err := c.CBTStatus(ctx, vm)
	return err
}
