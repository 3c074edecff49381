package rest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
)

// JobRequest is the body of POST /api/v1/jobs and of POST /api/v1/preflight. The texts for its fields, and for those of
// the types below, are in package http, which writes the API's description.
type JobRequest struct {
	ID      job.ID          `json:"job_id,omitempty" maxLength:"128"`
	VM      string          `json:"vm" minLength:"1" maxLength:"1024" example:"/DC0/vm/web"`
	Mode    job.Mode        `json:"mode,omitempty" enum:"auto,full,incremental" default:"auto"`
	Targets []TargetRequest `json:"targets,omitempty" nullable:"false" maxItems:"256"`
	Options OptionsRequest  `json:"options,omitzero"`
	Node    string          `json:"node,omitempty" maxLength:"64"`
}

// TargetRequest says where one disk goes.
type TargetRequest struct {
	Disk job.DiskID `json:"disk" pattern:"^disk-[0-9]{1,10}$" example:"disk-2000"`
	URI  string     `json:"uri" minLength:"1" maxLength:"4096"`
}

// OptionsRequest are the options of a job.
type OptionsRequest struct {
	Verify    job.VerifyMode `json:"verify,omitempty" enum:"none,sample,full" default:"sample"`
	Quiesce   *bool          `json:"quiesce,omitempty" default:"true"`
	Bandwidth Rate           `json:"bandwidth,omitzero"`
	Disks     int            `json:"disks,omitempty" minimum:"0" maximum:"256"`
	Cutover   job.Cutover    `json:"cutover,omitempty" enum:"auto,manual" default:"auto"`
	Adopt     bool           `json:"adopt,omitempty"`
	Strict    bool           `json:"strict,omitempty"`

	Patience          Duration `json:"patience,omitzero"`
	LastRoundPatience Duration `json:"last_round_patience,omitzero"`
}

// PatchRequest is the body of PATCH /api/v1/jobs/{id}.
type PatchRequest struct {
	Bandwidth *Rate `json:"bandwidth,omitempty"`
	Disks     *int  `json:"disks,omitempty" minimum:"0" maximum:"256"`

	Patience          *Duration `json:"patience,omitempty"`
	LastRoundPatience *Duration `json:"last_round_patience,omitempty"`
}

// MostBulk is the most jobs that one BulkRequest may be for.
const MostBulk = 1000

// BulkRequest is the body of POST /api/v1/jobs/bulk. It has either IDs or Filter.
type BulkRequest struct {
	Verb   job.Verb    `json:"verb" enum:"pause,resume,cancel,retry,sync,cutover,delete"`
	IDs    []string    `json:"ids,omitempty" nullable:"false" maxItems:"1000" doc:"A repeated one counts once"`
	Filter *BulkFilter `json:"filter,omitempty" nullable:"false" doc:"Which jobs; all that is given must fit"`
	Purge  bool        `json:"purge,omitempty" doc:"With cancel: also remove the target files that the jobs made"`
	Fresh  bool        `json:"fresh,omitempty" doc:"With retry: copy everything again"`
}

// BulkFilter chooses jobs as the list of jobs does. At least one field is set.
type BulkFilter struct {
	Status []job.Status    `json:"status,omitempty" nullable:"false" maxItems:"20" doc:"In one of these statuses"`
	Health []report.Health `json:"health,omitempty" nullable:"false" maxItems:"20" doc:"With one of these flags"`
	VM     string          `json:"vm,omitempty" maxLength:"1024" doc:"Part of the VM's name or path, UUID or ref"`
	Node   string          `json:"node,omitempty" maxLength:"64" doc:"At an OMA: of this node"`
}

// BulkReport is the answer to a BulkRequest.
type BulkReport struct {
	Verb     job.Verb     `json:"verb"`
	Accepted int          `json:"accepted" doc:"Jobs that took the command"`
	Refused  int          `json:"refused" doc:"Jobs that did not"`
	Results  []BulkResult `json:"results" nullable:"false" doc:"One for each job"`
}

// BulkResult is what one job answered.
type BulkResult struct {
	JobID    string   `json:"job_id" doc:"As the request had it"`
	Accepted bool     `json:"accepted" doc:"The command is durable; the job's reports show when it is done"`
	Problem  *Problem `json:"problem" doc:"Why it was refused; null if it was not"`
}

// Limited is the change that the request asks for.
func (p PatchRequest) Limited() job.Limited {
	return job.Limited{
		Bandwidth: (*int64)(p.Bandwidth), Disks: p.Disks, Patience: (*time.Duration)(p.Patience),
		LastRoundPatience: (*time.Duration)(p.LastRoundPatience),
	}
}

// NewPatchRequest writes a change as a request.
func NewPatchRequest(l job.Limited) PatchRequest {
	return PatchRequest{
		Bandwidth: (*Rate)(l.Bandwidth), Disks: l.Disks, Patience: (*Duration)(l.Patience),
		LastRoundPatience: (*Duration)(l.LastRoundPatience),
	}
}

// NewJobRequest writes a specification as a request.
func NewJobRequest(spec job.Spec, id job.ID) JobRequest {
	r := JobRequest{ID: id, VM: spec.VM, Mode: spec.Mode, Options: OptionsRequest{
		Verify: spec.Options.Verify, Quiesce: &spec.Options.Quiesce, Bandwidth: Rate(spec.Options.Bandwidth),
		Disks: spec.Options.Disks, Cutover: spec.Options.Cutover, Adopt: spec.Options.Adopt,
		Strict: spec.Options.Strict, Patience: Duration(spec.Options.Patience),
		LastRoundPatience: Duration(spec.Options.LastRoundPatience),
	}}
	for _, t := range spec.Targets {
		r.Targets = append(r.Targets, TargetRequest(t))
	}
	return r
}

// Spec makes a specification of the request. Errors are of kind Invalid.
func (r JobRequest) Spec() (job.Spec, error) {
	s := job.Spec{VM: r.VM, Mode: r.Mode, Targets: make([]job.Target, 0, len(r.Targets)), Options: job.Options{
		Verify: r.Options.Verify, Quiesce: r.Options.Quiesce == nil || *r.Options.Quiesce,
		Bandwidth: int64(r.Options.Bandwidth), Cutover: r.Options.Cutover, Disks: r.Options.Disks,
		Adopt: r.Options.Adopt, Strict: r.Options.Strict, Patience: time.Duration(r.Options.Patience),
		LastRoundPatience: time.Duration(r.Options.LastRoundPatience),
	}}
	for _, t := range r.Targets {
		s.Targets = append(s.Targets, job.Target(t))
	}
	return s.Normal()
}

// Rate is a bandwidth in bytes per second, 0 for no limit. It is read from an integer or from a text such as "200MiB".
type Rate int64

// UnmarshalJSON reads both forms.
func (r *Rate) UnmarshalJSON(b []byte) error {
	if bytes.HasPrefix(b, []byte{'"'}) {
		var s string
		if err := json.Unmarshal(b, &s); err != nil {
			return fmt.Errorf("read bandwidth: %w", err)
		}
		n, err := job.ParseSize(s)
		*r = Rate(n)
		return err
	}
	var n int64
	if err := json.Unmarshal(b, &n); err != nil {
		return fmt.Errorf("read bandwidth: %w", err)
	}
	*r = Rate(n)
	return nil
}

// Duration is a time, 0 for none. It is read from an integer of seconds or from a text such as "4h", and written as
// such a text.
type Duration time.Duration

// UnmarshalJSON reads both forms.
func (d *Duration) UnmarshalJSON(b []byte) error {
	if bytes.HasPrefix(b, []byte{'"'}) {
		var s string
		if err := json.Unmarshal(b, &s); err != nil {
			return fmt.Errorf("read duration: %w", err)
		}
		n, err := job.ParsePatience(s)
		*d = Duration(n)
		return err
	}
	const most = int64(1<<63-1) / int64(time.Second)
	var n int64
	if err := json.Unmarshal(b, &n); err != nil || n > most || n < -most {
		return job.Errorf("read duration", job.Invalid, "Use a number of seconds, or a text such as 4h",
			"%.40s is not a time", b)
	}
	*d = Duration(time.Duration(n) * time.Second)
	return nil
}

// MarshalJSON writes a text.
func (d Duration) MarshalJSON() ([]byte, error) { return json.Marshal(time.Duration(d).String()) }
