package job

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strings"
	"unicode/utf8"
)

// Assign gives each disk of the VM its target: the targets of the spec or, if the spec names none, the target that the
// disk had last (known, by disk) or else a raw file below root: <root>/<VM's name>_<VM's instance UUID>/<disk id>.raw.
// root may be "" if the spec names targets. A disk that can't be copied, a disk without a target and a target without a
// disk are errors that name the disk.
func Assign(spec Spec, vm VM, root string, known map[DiskID]string) ([]Target, error) {
	const op = "assign targets"
	if len(vm.Disks) == 0 {
		return nil, Errorf(op, Invalid, "", "VM %s has no disks", vm.Name)
	}
	for _, d := range vm.Disks {
		if d.Unfit != "" {
			return nil, Errorf(op, Unsupported, "Take the disk off the VM or make it a dependent one",
				"%s (%s) can't be copied: %s", d.ID, d.Label, d.Unfit)
		}
	}
	for _, t := range spec.Targets {
		if !slices.ContainsFunc(vm.Disks, func(d Disk) bool { return d.ID == t.Disk }) {
			return nil, Errorf(op, Invalid, "Name one of its disks: "+diskNames(vm), "VM %s has no disk %s", vm.Name,
				t.Disk)
		}
	}
	out := make([]Target, 0, len(vm.Disks))
	for _, d := range vm.Disks {
		i := slices.IndexFunc(spec.Targets, func(t Target) bool { return t.Disk == d.ID })
		switch {
		case i >= 0:
			out = append(out, spec.Targets[i])
		case len(spec.Targets) > 0:
			return nil, Errorf(op, Invalid, fmt.Sprintf("Add a target for %s (%s, %s)", d.ID, d.Label,
				FormatSize(d.Capacity)), "%s has no target", d.ID)
		case known[d.ID] != "":
			out = append(out, Target{d.ID, known[d.ID]})
		case root == "":
			return nil, Errorf(op, Invalid, "Name a target for each disk, or configure targets.roots",
				"%s has no target, and no folder for targets is configured", d.ID)
		default:
			out = append(out, Target{d.ID, DefaultTarget(vm, root, d.ID)})
		}
	}
	return out, nil
}

// DefaultTarget is the path of a disk's first target, if the request names none. The UUID keeps VMs of one name apart;
// the name is for people.
func DefaultTarget(vm VM, root string, disk DiskID) string {
	return path.Join(root, fileName(vm.Name)+"_"+strings.ToLower(fileName(vm.UUID)), string(disk)+".raw")
}

func diskNames(vm VM) string {
	var names []string
	for _, d := range vm.Disks {
		names = append(names, string(d.ID))
	}
	return strings.Join(names, ", ")
}

// fileName makes a part of a file's name from a VM's name, at most 180 bytes long.
func fileName(name string) string {
	const most = 180
	s := strings.Map(func(r rune) rune {
		if r < ' ' || strings.ContainsRune(`/\:`, r) {
			return '_'
		}
		return r
	}, strings.ToValidUTF8(name, "_"))
	for len(s) > most {
		_, size := utf8.DecodeLastRuneInString(s)
		s = s[:len(s)-size]
	}
	if strings.Trim(s, ".") == "" {
		return "vm"
	}
	return s
}

// ModeFor decides whether a round moves all of a disk or only what changed, and gives the reason of a full copy ("" for
// a disk that was never copied). disk is as the snapshot froze it. target names its target, and now says how that was
// found under the lock. base is the set that the round may start from; nil for none.
func ModeFor(asked Mode, disk Disk, target string, now TargetInfo, base *CheckpointSet) (Mode, string) {
	was, ok := base.Disk(disk.ID)
	switch {
	case asked == Full:
		return Full, "a full round was asked for"
	case !ok:
		return Full, "" // the first time
	case !now.Exists:
		return Full, "the target does not exist"
	case now.Foreign != "":
		return Full, now.Foreign
	case was.Volume != "" && was.Volume != now.Volume, was.Volume == "" && (was.Target != target || now.Renewed):
		return Full, "it has another target than before"
	case was.Writers != (Writers{}) && now.ChangeID != "" && !was.Writers.Has(now.ChangeID):
		return Full, "another round has written to the target since"
	case was.Capacity != disk.Capacity:
		return Full, fmt.Sprintf("its size changed from %d to %d bytes", was.Capacity, disk.Capacity)
	case was.BackingID != "" && disk.BackingID != "" && was.BackingID != disk.BackingID:
		return Full, "it is another disk under the same key"
	case disk.ChangeID == "":
		return Full, "changed blocks are not tracked on it"
	case was.ChangeID == "":
		return Full, "changed blocks were not tracked on it before"
	}
	// A round that was not committed wrote bytes of its snapshot, too. If the VM was reverted to before that snapshot,
	// the changes since the base do not hold them.
	for _, since := range []string{was.ChangeID, cmp.Or(now.ChangeID, was.ChangeID)} {
		if reason := untracked(since, disk.ChangeID); reason != "" {
			return Full, reason
		}
	}
	return Incremental, ""
}

// NeverIncremental says why a disk's first round can't be incremental, as far as that is certain before the snapshot;
// "" if it may be. vm and disk are as they are now, target names the disk's target, now says how it looks by its name,
// and base is the set that the round would start from; nil for none.
func NeverIncremental(vm VM, disk Disk, target string, now TargetInfo, base *CheckpointSet) string {
	was, ok := base.Disk(disk.ID)
	switch {
	case !ok:
		return "it was never copied"
	case !now.Exists:
		return "the target does not exist"
	case now.Foreign != "":
		return now.Foreign
	case was.Volume == "" && was.Target != target, was.Volume != "" && now.Volume != "" && was.Volume != now.Volume:
		return "it has another target than before"
	case was.Capacity != disk.Capacity:
		return fmt.Sprintf("its size changed from %d to %d bytes", was.Capacity, disk.Capacity)
	case was.ChangeID == "":
		return "changed blocks were not tracked on it before"
	case !vm.CBTEnabled:
		return "changed blocks are not tracked on it"
	default:
		return ""
	}
}

// untracked says why changes since one change ID can't be told at the other one; "" if they can. The half before the
// slash stays the same until tracking is reset. The other half is a number that grows with each snapshot: a revert of
// the VM takes it back, and then the same numbers come again for other bytes. Where the halves are no numbers, only the
// first ones are compared. To all other code a change ID is opaque and passed on unchanged.
func untracked(since, now string) string {
	epoch, before, _ := strings.Cut(since, "/")
	epochNow, after, _ := strings.Cut(now, "/")
	switch newer, ok := newerNumber(after, before); {
	case epoch != epochNow:
		return "change tracking was reset since"
	case ok && !newer:
		return fmt.Sprintf("its change ID went back from %s to %s, as after a revert of the VM", before, after)
	default:
		return ""
	}
}

// newerNumber compares decimal numbers of any length. ok is false if one is no number.
func newerNumber(a, b string) (newer, ok bool) {
	for _, s := range []string{a, b} {
		if s == "" || strings.Trim(s, "0123456789") != "" {
			return false, false
		}
	}
	a, b = strings.TrimLeft(a, "0"), strings.TrimLeft(b, "0")
	return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b)) > 0, true
}
