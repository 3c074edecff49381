package main

import (
	"path"
	"strings"
)

// entry is one coined word in all its forms, and what to write instead.
type entry struct{ forms, write string }

// coined are the words that are not used. A form is found as a whole word and as a part of a name: aForm, a_form.
func coined() []entry {
	return []entry{
		{"lane lanes", "thread"},
		{"piece pieces", "chunk for what is copied, part otherwise"},
		{"keeper keepers", "checkpointer"},
		{"behind", "writeback as a noun; else after, past, below, served by, in front of"},
		{"linger lingers lingered lingering", "poll again, wait, stay"},
		{"sweep sweeps sweeping sweeper sweepers swept", "bulk zero"},
		{"standing standings", "progress snapshot"},
		{"doubt doubts doubted doubting doubtful doubtless", "unverified, uncertain"},
		{"unsure", "unverified, unknown"},
		{"outlet outlets", "sink writer"},
		{"tidier tidiers", "snapshot reaper"},
		{"mover movers", "transfer"},
		{"fell", "failed"},
		{"happened", "occurred, was, deliver"},
		{"manieth", "nth"},
		{"oftener", "more often"},
		{"nobody", "who it is: no caller, no process, no thread, none"},
		{"somebody", "who it is: the caller, another process, the operator, a thread"},
	}
}

// stored are names that are in journals and on the wire: types of events. They can't be changed.
func stored() []string {
	return []string{"disk_fell", "step_fell", "turn_came", "asked"}
}

// readTags are the keys of struct tags whose values are texts for people. All other values are names on the wire.
func readTags() []string { return []string{"doc", "example"} }

// exemption names files whose words are not checked, by a pattern of package path, and gives the reason.
type exemption struct{ pattern, reason string }

func exemptions() []exemption {
	return []exemption{
		{"go.sum", "written by go"},
		{"*/go.sum", "written by go"},
		{"web/dist/assets/*.js", "built from web/src and from libraries"},
		{"web/package-lock.json", "written by npm"},
		{"web/browser/testdata/axe*", "axe-core and its licence, as its authors wrote them"},
		{"store/testdata/journals/*.gz", "journals as earlier versions wrote them"},
		{"scripts/words/list.go", "the list itself"},
		{"scripts/words/words_internal_test.go", "the list's own test"},
	}
}

func exempt(name string) bool {
	for _, e := range exemptions() {
		if ok, err := path.Match(e.pattern, name); ok && err == nil {
			return true
		}
	}
	return false
}

// The past of the changelog is not rewritten. It begins with the newest release, or with the first entry that is older
// than this list.
const (
	changelog     = "CHANGELOG.md"
	unreleased    = "## Unreleased"
	beforeTheList = "- ext4 reserved the blocks of a target file page by page"
)

// isPast says whether the past of the changelog begins with this line.
func isPast(line string) bool {
	return strings.HasPrefix(line, beforeTheList) || strings.HasPrefix(line, "## ") && line != unreleased
}
