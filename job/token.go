package job

import (
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Role says what a person or program may do at a daemon. Each role may do all that the ones before it may.
type Role string

// The roles. Stored words: they stay.
const (
	Viewer   Role = "viewer"   // reads everything, changes nothing
	Operator Role = "operator" // also submits jobs and commands them
	Admin    Role = "admin"    // also changes what holds for all jobs: limits, volumes, tokens
)

// Roles lists all roles, each after those that may do less.
func Roles() []Role { return []Role{Viewer, Operator, Admin} }

// May says whether a role may do what least is needed for. An unknown role may do nothing.
func (r Role) May(least Role) bool {
	has, needs := slices.Index(Roles(), r), slices.Index(Roles(), least)
	return has >= 0 && needs >= 0 && has >= needs
}

// ParseRole reads a role. The error is of kind Invalid.
func ParseRole(text string) (Role, error) {
	if r := Role(text); slices.Contains(Roles(), r) {
		return r, nil
	}
	return "", Errorf("read role", Invalid, "Use viewer, operator or admin", "%.40q is not a role", text)
}

// Token is what is kept of a token: never its text. A session, which a login in a browser makes, is a token too.
type Token struct {
	ID         string    `json:"id"`   // part of the token's text; no secret
	Name       string    `json:"name"` // for people; one token of a name, without sessions
	Role       Role      `json:"role"`
	Hash       string    `json:"hash"`                // SHA-256 of the token's secret, in hex
	Parent     string    `json:"parent,omitempty"`    // of a session: the token that it was begun with, and ends with
	CreatedAt  time.Time `json:"created_at"`          // UTC
	CreatedBy  string    `json:"created_by"`          // who asked for it, as in the log
	ExpiresAt  time.Time `json:"expires_at,omitzero"` // zero: never
	LastUsedAt time.Time `json:"last_used_at,omitzero"`
}

// Session says whether the token is a login of a browser.
func (t Token) Session() bool { return t.Parent != "" }

// Expired says whether the token has ended by that time.
func (t Token) Expired(now time.Time) bool { return !t.ExpiresAt.IsZero() && !now.Before(t.ExpiresAt) }

const tokenNameMost = 80 // runes; a name fits into one line of a table and of the log

// CheckTokenName refuses names that could not be shown: empty ones, ones of more than 80 characters, with spaces at the
// ends, or with characters that control a terminal or turn the direction of a text. The error is of kind Invalid.
func CheckTokenName(name string) error {
	const op, next = "name token", "Use 1 to 80 letters, digits and signs, as in grafana or backup-01"
	if name == "" || utf8.RuneCountInString(name) > tokenNameMost || strings.TrimSpace(name) != name ||
		!utf8.ValidString(name) {
		return Errorf(op, Invalid, next, "a token needs a name of 1 to %d characters", tokenNameMost)
	}
	for _, r := range name {
		if !unicode.IsPrint(r) {
			return Errorf(op, Invalid, next, "the name has a character that cannot be printed")
		}
	}
	return nil
}
