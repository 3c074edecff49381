package job

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// diskChanges is how the disks of a VM differ from those that a job moves.
type diskChanges struct {
	said    []string // in words, one for each change
	added   []Disk   // can be copied
	removed []DiskState
	anew    []DiskID // has another size or backing
	unfit   []DiskID // cannot be copied, or not any more
}

// frozen compares the disks of the snapshot with those of the job. A disk that was added gets a state without a target
// and a note, or fails the job if the spec names the targets. Any other change fails the job: a person decides what
// becomes of that target.
func (m *machine) frozen(disks []Disk) *Failure {
	c := m.diskChanges(disks)
	named := len(m.Spec.Targets) > 0
	if len(c.said) == 0 && (len(c.added) == 0 || !named) {
		for _, d := range c.added {
			m.Disks = append(m.Disks, DiskState{Disk: d, Mode: Auto, Phase: DiskPending})
			m.Notes = append(m.Notes, fmt.Sprintf("%s was added to the VM; it is copied in full", d.ID))
		}
		slices.SortFunc(m.Disks, func(a, b DiskState) int { return cmp.Compare(a.Disk.Key, b.Disk.Key) })
		return nil
	}
	if named {
		for _, d := range c.added {
			c.said = append(c.said, fmt.Sprintf("%s was added and has no target", nameOf(d)))
		}
	}
	f := &Failure{Phase: Snapshot, Kind: Conflict, Message: strings.Join(c.said, "; "), At: m.now}
	f.Message = "the disks of VM " + m.VM.Name + " have changed: " + f.Message
	if len(c.unfit) > 0 {
		f.Kind = Unsupported
	}
	f.Next = c.next(m.ID, named)
	return f
}

// diskChanges finds what is different. A disk that the job does not move although preflight saw it was left out on
// purpose.
func (m *machine) diskChanges(disks []Disk) (c diskChanges) {
	say := func(format string, args ...any) { c.said = append(c.said, fmt.Sprintf(format, args...)) }
	for _, d := range m.Disks {
		was := d.Disk
		i := slices.IndexFunc(disks, func(f Disk) bool { return f.ID == was.ID })
		if i < 0 {
			say("%s was removed", nameOf(was))
			c.removed = append(c.removed, d)
			continue
		}
		now := disks[i]
		switch {
		case now.Unfit != "":
			say("%s can't be copied any more: %s", nameOf(now), now.Unfit)
			c.unfit = append(c.unfit, now.ID)
		case was.BackingID != "" && now.BackingID != "" && was.BackingID != now.BackingID:
			say("%s is another disk under the same key", nameOf(now))
			c.anew = append(c.anew, now.ID)
		case was.Capacity != now.Capacity:
			word := "grew"
			if now.Capacity < was.Capacity {
				word = "shrank"
			}
			say("%s %s from %d to %d bytes", nameOf(now), word, was.Capacity, now.Capacity)
			c.anew = append(c.anew, now.ID)
		}
	}
	for _, d := range disks {
		known := slices.ContainsFunc(m.VM.Disks, func(v Disk) bool { return v.ID == d.ID })
		switch _, moved := m.DiskState(d.ID); {
		case moved || known:
		case d.Unfit != "":
			say("%s was added and can't be copied: %s", nameOf(d), d.Unfit)
			c.unfit = append(c.unfit, d.ID)
		default:
			c.added = append(c.added, d)
		}
	}
	return c
}

// nameOf is a disk's id, with its label where it has one.
func nameOf(d Disk) string {
	if d.Label == "" {
		return string(d.ID)
	}
	return fmt.Sprintf("%s (%s)", d.ID, d.Label)
}

// next is what a person can do about the changes. named says that the spec names the targets.
func (c diskChanges) next(id ID, named bool) string {
	var left []string
	for _, d := range c.removed {
		left = append(left, fmt.Sprintf("the target of %s (%s) is left alone", d.Disk.ID, d.Target))
	}
	switch {
	case len(c.unfit) > 0:
		return fmt.Sprintf("Take %s off the VM or make it a dependent disk, then run vmferry retry %s", ids(c.unfit),
			id)
	case named && len(c.added) > 0:
		var added []DiskID
		for _, d := range c.added {
			added = append(added, d.ID)
		}
		return sentence(fmt.Sprintf("Run another job that names a target for %s as well", ids(added)), left)
	case named && len(c.removed) > 0:
		return sentence("Run another job that names targets for the disks that are left", left)
	}
	if len(c.anew) > 0 {
		left = append(left, ids(c.anew)+" is copied in full, to a target that it fits on")
	}
	return sentence(fmt.Sprintf("Run vmferry retry %s, which takes the disks as they are now", id), left)
}

// sentence is what to do, and what that means.
func sentence(do string, means []string) string {
	if len(means) == 0 {
		return do
	}
	return do + ": " + strings.Join(means, "; ")
}

func ids(disks []DiskID) string {
	var out []string
	for _, d := range disks {
		out = append(out, string(d))
	}
	return strings.Join(out, ", ")
}
