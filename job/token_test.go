package job_test

import (
	"strings"
	"testing"
	"time"

	"github.com/vmferry/vmferry/job"
)

func TestARoleMayDoWhatTheRolesBeforeItMay(t *testing.T) {
	for i, has := range job.Roles() {
		for j, least := range job.Roles() {
			if has.May(least) != (i >= j) {
				t.Errorf("%s, where %s is needed: %t", has, least, has.May(least))
			}
		}
		if has.May("") || has.May("root") || job.Role("").May(has) || job.Role("root").May(has) {
			t.Errorf("an unknown role is compared with %s", has)
		}
		if r, err := job.ParseRole(string(has)); r != has || err != nil {
			t.Errorf("%s is read as %s, %v", has, r, err)
		}
	}
	for _, text := range []string{"", "Admin", "root", " viewer", strings.Repeat("x", 10_000)} {
		if _, err := job.ParseRole(text); job.KindOf(err) != job.Invalid || len(err.Error()) > 200 {
			t.Errorf("%.20q: %v", text, err)
		}
	}
}

func TestATokenEndsAtItsTime(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	tok := job.Token{ExpiresAt: at}
	if tok.Expired(at.Add(-time.Nanosecond)) || !tok.Expired(at) || (job.Token{}).Expired(at) {
		t.Error("a token ends too early or too late")
	}
}

func TestANameThatCannotBeShownIsNoNameOfAToken(t *testing.T) {
	for _, name := range []string{"grafana", "Übersicht 2", "数据", strings.Repeat("ü", 80)} {
		if err := job.CheckTokenName(name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
	for _, name := range []string{
		"", " a", "a\n", "a\x1b[2J", "a\u202eb", "a\u200bb", "a\x00", "\xff", strings.Repeat("x", 81),
	} {
		if err := job.CheckTokenName(name); job.KindOf(err) != job.Invalid || job.NextOf(err) == "" {
			t.Errorf("%q: %v", name, err)
		}
	}
}
