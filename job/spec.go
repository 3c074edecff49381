package job

import (
	"cmp"
	"net/url"
	"strings"
	"time"
)

// Spec is the order of a caller: what to move, where to, and how. After the job is accepted only its limits change.
type Spec struct {
	VM      string   `json:"vm"` // inventory path, UUID, moref or unique name
	Mode    Mode     `json:"mode"`
	Targets []Target `json:"targets"` // empty: one raw file per disk below the first allowed root
	Options Options  `json:"options"`
}

// Target says where one disk goes.
type Target struct {
	Disk DiskID `json:"disk"`
	URI  string `json:"uri"` // NBD URI, path of a regular file or block device, or a volume's name
}

// Options are the choices of a job.
type Options struct {
	Verify    VerifyMode `json:"verify"`
	Quiesce   bool       `json:"quiesce"`
	Bandwidth int64      `json:"bandwidth"` // bytes per second over all disks of the job; 0 for no limit
	Cutover   Cutover    `json:"cutover"`
	Disks     int        `json:"disks,omitempty"` // copied at the same time; 0 for no limit
	// take over targets that belong to another VM, or hold data of others
	Adopt bool `json:"adopt,omitempty"`
	// fail, where a disk would be copied in full because others have written to its target
	Strict bool `json:"strict,omitempty"`
	// how long the job waits for what is unavailable, and the same in a last round that follows a committed one. The
	// daemon puts its configured ones in place of 0; what then is 0 means StandardPatience, StandardLastRoundPatience
	Patience          time.Duration `json:"patience,omitempty"`
	LastRoundPatience time.Duration `json:"last_round_patience,omitempty"`
}

// VerifyMode is how much of each target is read back before a round is committed.
type VerifyMode string

// The verify modes.
const (
	VerifyNone   VerifyMode = "none"
	VerifySample VerifyMode = "sample" // the first and last MiB, and parts spread over what was moved
	VerifyFull   VerifyMode = "full"   // every byte that was moved
)

// Cutover says after which round a job completes.
type Cutover string

// The cut-over modes.
const (
	CutoverAuto   Cutover = "auto"   // after the first round
	CutoverManual Cutover = "manual" // waits after each round for sync (one more round) or cutover (the last round)
)

const maxDisks = 256 // of one VM: vSphere allows 4 controllers of 64 disks

// Normal checks the spec and fills in the defaults: mode auto, verify sample, cut-over auto. Errors are of kind Invalid
// and name the field.
func (s Spec) Normal() (Spec, error) {
	bad := func(next, format string, args ...any) (Spec, error) {
		return Spec{}, Errorf("check job", Invalid, next, format, args...)
	}
	s.VM = strings.TrimSpace(s.VM)
	if s.VM == "" || len(s.VM) > 1024 || strings.ContainsFunc(s.VM, func(r rune) bool { return r < ' ' }) {
		return bad("Give the VM's inventory path, UUID, moref or unique name", "vm is missing or not a name")
	}
	s.Mode = cmp.Or(s.Mode, Auto)
	if s.Mode != Auto && s.Mode != Full && s.Mode != Incremental {
		return bad("Use auto, full or incremental", "mode %q is not known", clip(string(s.Mode), 40))
	}
	s.Options.Verify = cmp.Or(s.Options.Verify, VerifySample)
	if v := s.Options.Verify; v != VerifyNone && v != VerifySample && v != VerifyFull {
		return bad("Use none, sample or full", "options.verify %q is not known", clip(string(v), 40))
	}
	s.Options.Cutover = cmp.Or(s.Options.Cutover, CutoverAuto)
	if c := s.Options.Cutover; c != CutoverAuto && c != CutoverManual {
		return bad("Use auto or manual", "options.cutover %q is not known", clip(string(c), 40))
	}
	if s.Options.Bandwidth < 0 {
		return bad("Use a rate such as 200MiB, or leave it out", "options.bandwidth is negative")
	}
	if n := s.Options.Disks; n < 0 || n > maxDisks {
		return bad("Use 1 to 256, or leave it out", "options.disks is %d", n)
	}
	if err := s.Options.checkPatience(); err != nil {
		return Spec{}, err
	}
	return s, s.checkTargets()
}

func (s Spec) checkTargets() error {
	const op = "check job"
	if len(s.Targets) > maxDisks {
		return Errorf(op, Invalid, "", "%d targets are more than a VM has disks (%d)", len(s.Targets), maxDisks)
	}
	disks, uris := map[DiskID]bool{}, map[string]DiskID{}
	for _, t := range s.Targets {
		if _, ok := t.Disk.Key(); !ok {
			return Errorf(op, Invalid, "Name disks by their device key, as in disk-2000", "%q is not a disk id",
				clip(string(t.Disk), 40))
		}
		if t.URI == "" || len(t.URI) > 4096 || strings.ContainsRune(t.URI, 0) {
			return Errorf(op, Invalid, "Give an NBD URI or the path of a file or block device",
				"the target of %s is missing or too long", t.Disk)
		}
		if u, err := url.Parse(t.URI); err == nil && u.User != nil {
			return Errorf(op, Invalid, "Leave user and password out, and use TLS with certificates",
				"the target of %s holds a user name", t.Disk)
		}
		if disks[t.Disk] {
			return Errorf(op, Invalid, "Give each disk one target", "%s has two targets", t.Disk)
		}
		if other, ok := uris[t.URI]; ok {
			return Errorf(op, Invalid, "Give each disk a target of its own", "%s and %s have the same target", other,
				t.Disk)
		}
		disks[t.Disk], uris[t.URI] = true, t.Disk
	}
	return nil
}
