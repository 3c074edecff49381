package store_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/store"
)

func token(id string) job.Token {
	return job.Token{
		ID: id, Name: "name of " + id, Role: job.Operator, Hash: strings.Repeat("0f", 32), CreatedAt: noon(),
		CreatedBy: "root from uid 0", ExpiresAt: noon().Add(time.Hour),
	}
}

func tokensOf(t *testing.T, j *store.Journal) []job.Token {
	t.Helper()
	all, err := j.Tokens(t.Context())
	must(t, err)
	slices.SortFunc(all, func(a, b job.Token) int { return strings.Compare(a.ID, b.ID) })
	return all
}

func TestTokensAreThereAfterARestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	j, err := store.OpenJournal(t.Context(), dir)
	must(t, err)
	if all := tokensOf(t, j); len(all) != 0 {
		t.Errorf("a new journal has %v", all)
	}
	used := token("a")
	must(t, j.ChangeTokens(t.Context(), []job.Token{used, token("b"), token("c")}, nil))
	used.LastUsedAt = noon().Add(time.Minute)
	never := job.Token{ID: "d", Name: "d", Role: job.Admin, Hash: "00", Parent: "a", CreatedAt: noon()}
	must(t, j.ChangeTokens(t.Context(), []job.Token{used, never}, []string{"b", "none"}))
	must(t, j.Close())
	if diff := cmp.Diff([]job.Token{used, token("c"), never}, tokensOf(t, openJournal(t, dir))); diff != "" {
		t.Error(diff)
	}
}

func TestAChangeOfTokensIsWholeOrNotAtAll(t *testing.T) {
	t.Parallel()
	j := openJournal(t, t.TempDir())
	must(t, j.ChangeTokens(t.Context(), []job.Token{token("a")}, nil))
	for _, bad := range []job.Token{{ID: "x"}, {Hash: "00"}} {
		wantKind(t, j.ChangeTokens(t.Context(), []job.Token{token("b"), bad}, []string{"a"}), job.Internal)
	}
	if diff := cmp.Diff([]job.Token{token("a")}, tokensOf(t, j)); diff != "" {
		t.Error(diff)
	}
}

func TestTokensOfARecordedJournalAreRead(t *testing.T) {
	t.Parallel()
	dir, _ := recorded(t, "4-tokens")
	all := tokensOf(t, openJournal(t, dir))
	if len(all) != 3 || all[0].Name != "ops" || all[1].Role != job.Viewer || all[1].LastUsedAt.IsZero() ||
		!all[2].Session() || all[2].Parent != all[0].ID {
		t.Errorf("%+v", all)
	}
}
