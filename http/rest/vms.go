package rest

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
)

// VMsPath is the address of the VMs of the vCenter.
const VMsPath = "/api/v1/vms"

// VMList is the body of GET /api/v1/vms: one page of the VMs of the vCenter.
type VMList struct {
	VCenter    string    `json:"vcenter" doc:"Host name of the vCenter; at an OMA of several, with commas between them"`
	ReadAt     time.Time `json:"read_at" doc:"When the vCenter was asked"`
	AgeSeconds float64   `json:"age_seconds" doc:"How long ago that was"`
	Total      int       `json:"total" doc:"How many fit, over all pages"`
	Missing    []string  `json:"missing" nullable:"false" doc:"At an OMA: nodes that could not say which VMs they have"`
	VMs        []VM      `json:"vms" nullable:"false" doc:"In the order of their paths"`
}

// VM is a VM of the vCenter.
type VM struct {
	Ref           string   `json:"ref" doc:"Managed object id" example:"vm-29"`
	UUID          string   `json:"uuid" doc:"Instance UUID; empty if the vCenter has no configuration of the VM"`
	Name          string   `json:"name"`
	Path          string   `json:"path" doc:"Inventory path" example:"/DC0/vm/prod/web"`
	Folder        string   `json:"folder" doc:"The path without the name"`
	PowerState    string   `json:"power_state" doc:"poweredOn, poweredOff or suspended"`
	Host          string   `json:"host" doc:"The ESXi host that runs it"`
	CBTEnabled    bool     `json:"cbt_enabled" doc:"Changed blocks are tracked"`
	Template      bool     `json:"template" doc:"It is a template, which cannot be moved"`
	BytesCapacity int64    `json:"bytes_capacity" doc:"Sum over the disks"`
	Disks         []VMDisk `json:"disks" nullable:"false"`
	JobID         *job.ID  `json:"job_id" doc:"The job that moves it and has not ended; null for none"`
	LastJobID     *job.ID  `json:"last_job_id" doc:"The job that was made for it last; null for none"`
}

// VMDisk is one disk of a VM.
type VMDisk struct {
	DiskID   job.DiskID `json:"disk_id" example:"disk-2000"`
	Label    string     `json:"label" example:"Hard disk 1"`
	File     string     `json:"file" example:"[ds] web/web.vmdk"`
	Capacity int64      `json:"capacity" doc:"Bytes"`
	Unfit    string     `json:"unfit" doc:"Why it cannot be moved; empty if it can"`
}

// VMs returns the VMs of the vCenter whose name or path has a text in it, or whose UUID or moref it is; "" for all.
// They come from all pages.
func (c *Client) VMs(ctx context.Context, q string) (list VMList, err error) {
	for next := VMsPath + "?" + (url.Values{"q": {q}, "limit": {strconv.Itoa(500)}}).Encode(); next != ""; {
		page := VMList{}
		if next, err = c.page(ctx, next, &page); err != nil {
			return VMList{}, err
		}
		page.VMs = append(list.VMs, page.VMs...)
		list = page
	}
	return list, nil
}

// ReportForm is a form of the report of a job.
type ReportForm string

// The forms of a report.
const (
	ReportHTML ReportForm = "html" // one page, without scripts and without files from elsewhere
	ReportCSV  ReportForm = "csv"
	ReportJSON ReportForm = "json"
)

// Report returns the report of a job as a file.
func (c *Client) Report(ctx context.Context, id job.ID, form ReportForm) (file []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	resp, err := c.send(ctx, http.MethodGet, jobAddress(id)+"/report?format="+url.QueryEscape(string(form)), nil, nil)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }() // it was read to its end, or reading has failed
	return readFile(resp)
}

// JobReport is the report of a job as JSON: what all forms of it are made of.
type JobReport struct {
	MadeAt time.Time      `json:"made_at"`
	Report report.Report  `json:"report" doc:"As GET /api/v1/jobs/{id} has it"`
	Events []JournalEntry `json:"events" nullable:"false" doc:"As GET /api/v1/jobs/{id}/events has them"`
}
