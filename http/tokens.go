package http

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vmferry/vmferry/job"
)

const (
	tokenMark       = "vmf_"
	tokenIDSize     = 12
	tokenSize       = len(tokenMark) + tokenIDSize + 1 + 52 // 260 random bits are in the last part
	maxTokens       = 1000                                  // a list that a person can look through
	sessionsOfToken = 50                                    // the oldest one ends when there would be more
	usedEvery       = time.Minute                           // how often the last uses are stored
	usedTimeout     = 2 * time.Second
)

// tokenForm is the text of a token: a mark by which scanners for secrets find it, the id, the secret.
var tokenForm = regexp.MustCompile(`vmf_([A-Z2-7]{12})_([A-Z2-7]{52})`)

// refusal is why a token is not taken. The zero value is that it is taken.
type refusal struct{ why, next string }

// held is a token that is known. Its fields but used do not change.
type held struct {
	job.Token
	sum   []byte // of Token.Hash
	used  atomic.Int64
	saved int64           // the value of used that is stored; only the goroutine of keep uses it
	live  context.Context //nolint:containedctx // ends when the token does
	end   context.CancelFunc
}

// tokens are the tokens and sessions of the daemon. They are in memory, so that a request costs a look-up and a digest,
// and each change is durable before it holds. Methods may be called from many goroutines.
type tokens struct {
	store TokenStore
	log   *slog.Logger
	now   func() time.Time
	ctx   context.Context //nolint:containedctx // of the handler: tokens end with it at the latest

	changing sync.Mutex // held over a change, so that each sees the one before
	mu       sync.RWMutex
	byID     map[string]*held
}

func openTokens(ctx context.Context, store TokenStore, log *slog.Logger, now func() time.Time) (*tokens, error) {
	t := &tokens{store: store, log: log, now: now, ctx: ctx, byID: map[string]*held{}}
	all, err := store.Tokens(ctx)
	if err != nil {
		return nil, err
	}
	for _, tok := range all {
		t.add(tok)
	}
	return t, nil
}

// add makes a token known.
func (t *tokens) add(tok job.Token) {
	h := &held{Token: tok}
	h.sum, _ = hex.DecodeString(tok.Hash) // a hash that is none fits no token
	if !tok.LastUsedAt.IsZero() {
		h.used.Store(tok.LastUsedAt.UnixNano())
		h.saved = tok.LastUsedAt.UnixNano()
	}
	if tok.ExpiresAt.IsZero() {
		h.live, h.end = context.WithCancel(t.ctx)
	} else {
		h.live, h.end = context.WithTimeout(t.ctx, tok.ExpiresAt.Sub(t.now()))
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.byID[tok.ID] = h
}

// check finds the token with that text. session says whether it must be a login of a browser, or must be none. It costs
// at most one digest of a short text, however long the text is.
func (t *tokens) check(text string, session bool) (*held, refusal) {
	const next = "Ask an admin of this daemon for a token: vmferry token create"
	if len(text) != tokenSize {
		return nil, refusal{"this is not a token of vmferry", next}
	}
	parts := tokenForm.FindStringSubmatch(text)
	if parts == nil {
		return nil, refusal{"this is not a token of vmferry", next}
	}
	t.mu.RLock()
	h := t.byID[parts[1]]
	t.mu.RUnlock()
	sum := sha256.Sum256([]byte(parts[2]))
	switch {
	case h == nil || subtle.ConstantTimeCompare(sum[:], h.sum) != 1 || h.Session() != session:
		return nil, refusal{"the token is not known here, or was revoked", next}
	case h.Expired(t.now()) && session:
		return nil, refusal{"the login has expired", "Log in again"}
	case h.Expired(t.now()):
		return nil, refusal{
			fmt.Sprintf("the token %s expired at %s", h.Name, h.ExpiresAt.UTC().Format(time.RFC3339)), next,
		}
	}
	h.used.Store(t.now().UnixNano())
	if parent := t.find(h.Parent); parent != nil {
		parent.used.Store(t.now().UnixNano())
	}
	return h, refusal{}
}

// find returns a token by its id; nil if there is none.
func (t *tokens) find(id string) *held {
	if id == "" {
		return nil
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.byID[id]
}

// list returns the tokens without the sessions, the oldest first.
func (t *tokens) list() []job.Token {
	t.mu.RLock()
	defer t.mu.RUnlock()
	out := []job.Token{}
	for _, h := range t.byID {
		if !h.Session() {
			out = append(out, h.current())
		}
	}
	slices.SortFunc(out, func(a, b job.Token) int {
		return cmp.Or(a.CreatedAt.Compare(b.CreatedAt), cmp.Compare(a.ID, b.ID))
	})
	return out
}

// current is the token with its last use.
func (h *held) current() job.Token {
	tok := h.Token
	if ns := h.used.Load(); ns != 0 {
		tok.LastUsedAt = time.Unix(0, ns).UTC()
	}
	return tok
}

// create makes a token and returns its text, which is kept nowhere. An expired token of the same name goes; one that
// has not expired is a Conflict.
func (t *tokens) create(ctx context.Context, tok job.Token) (job.Token, job.Secret, error) {
	const op = "create token"
	t.changing.Lock()
	defer t.changing.Unlock()
	var drop []string
	for _, other := range t.list() {
		switch {
		case other.Name != tok.Name:
		case other.Expired(t.now()):
			drop = append(drop, other.ID)
		default:
			return tok, job.Secret{}, job.Errorf(op, job.Conflict, "Choose another name, or revoke that one first",
				"there is a token %s already", tok.Name)
		}
	}
	if len(t.list())-len(drop) >= maxTokens {
		return tok, job.Secret{}, job.Errorf(op, job.Conflict, "Revoke those that are not used",
			"there are %d tokens already", maxTokens)
	}
	return t.make(ctx, tok, drop)
}

// login makes a session of a token, which has the token's rights and ends with it.
func (t *tokens) login(ctx context.Context, parent *held, from string, life time.Duration) (job.Token, job.Secret,
	error,
) {
	t.changing.Lock()
	defer t.changing.Unlock()
	s := job.Token{Name: parent.Name, Role: parent.Role, Parent: parent.ID, CreatedBy: parent.Name + " from " + from}
	s.ExpiresAt = t.now().Add(life).UTC()
	if !parent.ExpiresAt.IsZero() && parent.ExpiresAt.Before(s.ExpiresAt) {
		s.ExpiresAt = parent.ExpiresAt
	}
	var drop []string
	var mine []job.Token
	t.mu.RLock()
	for _, h := range t.byID {
		switch {
		case h.Session() && h.Expired(t.now()):
			drop = append(drop, h.ID)
		case h.Parent == parent.ID:
			mine = append(mine, h.Token)
		}
	}
	t.mu.RUnlock()
	slices.SortFunc(mine, func(a, b job.Token) int { return a.CreatedAt.Compare(b.CreatedAt) })
	for i := range len(mine) - sessionsOfToken + 1 {
		drop = append(drop, mine[i].ID)
	}
	if t.find(parent.ID) != parent {
		return s, job.Secret{}, job.Errorf("log in", job.Conflict, "Log in with another token",
			"the token was revoked meanwhile")
	}
	return t.make(ctx, s, drop)
}

// make gives a token its id and its secret, and stores it. The caller holds changing.
func (t *tokens) make(ctx context.Context, tok job.Token, drop []string) (job.Token, job.Secret, error) {
	secret := rand.Text() + rand.Text()
	sum := sha256.Sum256([]byte(secret))
	tok.ID, tok.Hash, tok.CreatedAt = rand.Text()[:tokenIDSize], hex.EncodeToString(sum[:]), t.now().UTC()
	if err := t.store.ChangeTokens(ctx, []job.Token{tok}, drop); err != nil {
		return tok, job.Secret{}, err
	}
	t.forget(drop)
	t.add(tok)
	return tok, job.NewSecret(tokenMark + tok.ID + "_" + secret), nil
}

// revoke ends a token and its sessions at once: their streams end, and no later request is taken.
func (t *tokens) revoke(ctx context.Context, id string) error {
	t.changing.Lock()
	defer t.changing.Unlock()
	var drop []string
	t.mu.RLock()
	for _, h := range t.byID {
		if h.ID == id || h.Parent == id {
			drop = append(drop, h.ID)
		}
	}
	t.mu.RUnlock()
	if !slices.Contains(drop, id) {
		return job.Errorf("revoke token", job.NotFound, "List the tokens: vmferry token list", "there is no such token")
	}
	if err := t.store.ChangeTokens(ctx, nil, drop); err != nil {
		return err
	}
	t.forget(drop)
	return nil
}

func (t *tokens) forget(ids []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, id := range ids {
		if h := t.byID[id]; h != nil {
			h.end()
			delete(t.byID, id)
		}
	}
}

// keep stores the last uses once a minute, until ctx ends.
func (t *tokens) keep(ctx context.Context) {
	tick := time.NewTicker(usedEvery)
	defer tick.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
		t.saveUses(context.WithoutCancel(ctx))
	}
}

func (t *tokens) saveUses(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, usedTimeout)
	defer cancel()
	t.changing.Lock() // a token that is revoked meanwhile must not come back
	defer t.changing.Unlock()
	var save []job.Token
	var of []*held
	t.mu.RLock()
	for _, h := range t.byID {
		if h.used.Load() != h.saved && !h.Session() {
			save, of = append(save, h.current()), append(of, h)
		}
	}
	t.mu.RUnlock()
	if len(save) == 0 {
		return
	}
	if err := t.store.ChangeTokens(ctx, save, nil); err != nil {
		t.log.WarnContext(ctx, "could not store when tokens were used last", "err", err)
		return
	}
	for i, h := range of {
		h.saved = save[i].LastUsedAt.UnixNano()
	}
}

// tokenInURL says whether a request has a token in its address, where logs, histories and proxies keep it.
func tokenInURL(escapedPath, query string) bool {
	if strings.Contains(escapedPath, tokenMark) && tokenForm.MatchString(escapedPath) ||
		strings.Contains(query, tokenMark) && tokenForm.MatchString(query) {
		return true
	}
	for part := range strings.SplitSeq(query, "&") {
		name, _, _ := strings.Cut(part, "=")
		switch strings.ToLower(name) {
		case "token", "access_token", "auth_token", "api_key", "apikey", "authorization", "bearer":
			return true
		}
	}
	return false
}
