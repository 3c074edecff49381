package rest

import (
	"crypto/x509"
	"errors"
	"io/fs"
	"os"
	"time"

	"github.com/vmferry/vmferry/job"
)

// Paths of the routes about who may do what.
const (
	SessionPath = "/api/v1/session"
	TokensPath  = "/api/v1/tokens" //nolint:gosec // an address, no secret
)

// StandardTokenLife is how long a token is good for that was asked for without a time.
const StandardTokenLife = 90 * 24 * time.Hour

// SessionRequest is the body of POST /api/v1/session.
type SessionRequest struct {
	Token string `json:"token" doc:"The text of a token"`
}

// Session says who one is for the daemon.
type Session struct {
	Open      bool       `json:"open" doc:"The daemon asks for no token at this address; everyone is an admin"`
	Name      string     `json:"name" doc:"Of the token; empty if open"`
	Role      job.Role   `json:"role"`
	ExpiresAt *time.Time `json:"expires_at" doc:"When the login or the token ends; null for never"`
}

// Token is a token without its text.
type Token struct {
	ID         string     `json:"id"`
	Name       string     `json:"name"`
	Role       job.Role   `json:"role"`
	CreatedAt  time.Time  `json:"created_at"`
	CreatedBy  string     `json:"created_by" doc:"Who asked for it, and from where"`
	ExpiresAt  *time.Time `json:"expires_at" doc:"null for never"`
	LastUsedAt *time.Time `json:"last_used_at" doc:"null for never"`
}

// NewToken is a token that was just made.
type NewToken struct {
	Token
	Text string `json:"token" doc:"The text of the token; it is shown here and nowhere else"`
}

// TokenOf writes a token for the wire.
func TokenOf(t job.Token) Token {
	out := Token{ID: t.ID, Name: t.Name, Role: t.Role, CreatedAt: t.CreatedAt, CreatedBy: t.CreatedBy}
	if !t.ExpiresAt.IsZero() {
		out.ExpiresAt = &t.ExpiresAt
	}
	if !t.LastUsedAt.IsZero() {
		out.LastUsedAt = &t.LastUsedAt
	}
	return out
}

// TokenRequest is the body of POST /api/v1/tokens.
type TokenRequest struct {
	Name string   `json:"name" minLength:"1" maxLength:"80" doc:"For people; of a name there is one token"`
	Role job.Role `json:"role" enum:"viewer,operator,admin"`
	// 0 for never; nil for StandardTokenLife
	ExpiresInSeconds *int64 `json:"expires_in_seconds,omitempty" minimum:"0" maximum:"315360000"`
}

// Token makes a token of the request, still without id and secret. Errors are of kind Invalid.
func (r TokenRequest) Token(now time.Time) (job.Token, error) {
	if err := job.CheckTokenName(r.Name); err != nil {
		return job.Token{}, err
	}
	role, err := job.ParseRole(string(r.Role))
	if err != nil {
		return job.Token{}, err
	}
	life := StandardTokenLife
	if r.ExpiresInSeconds != nil {
		life = time.Duration(*r.ExpiresInSeconds) * time.Second
	}
	t := job.Token{Name: r.Name, Role: role}
	if life > 0 {
		t.ExpiresAt = now.Add(life).UTC()
	}
	return t, nil
}

// ReadTokenFile reads a file that holds a token and nothing else. A file that every user can read is refused. Errors
// are of kind Invalid, and name no token.
func ReadTokenFile(path string) (job.Secret, error) {
	const op = "read token file"
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return job.Secret{}, job.Errorf(op, job.Invalid, "Make a token: vmferry token create NAME --out "+path,
			"%s does not exist", path)
	case err != nil:
		return job.Secret{}, job.Errorf(op, job.Invalid, "Name a file that you can read", "%w", err)
	case !info.Mode().IsRegular():
		return job.Secret{}, job.Errorf(op, job.Invalid, "Name a file that holds the token", "%s is not a regular file",
			path)
	case info.Mode().Perm()&0o007 != 0:
		return job.Secret{}, job.Errorf(op, job.Invalid, "Type: chmod 0600 "+path,
			"every user of this machine can read or change %s (mode %04o)", path, info.Mode().Perm())
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return job.Secret{}, job.Errorf(op, job.Invalid, "Name a file that you can read", "%w", err)
	}
	token, err := job.SecretFrom(text)
	if err != nil {
		return job.Secret{}, job.Errorf(op, job.Invalid, "Write the token, and nothing else, into that file", "%s: %w",
			path, err)
	}
	return token, nil
}

// ReadAuthorities reads a file of certificates in PEM form. Errors are of kind Invalid.
func ReadAuthorities(path string) (*x509.CertPool, error) {
	const op, next = "read authorities", "Name a file with the authority's certificate in PEM form"
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, job.Errorf(op, job.Invalid, next, "%w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, job.Errorf(op, job.Invalid, next, "%s holds no certificate", path)
	}
	return pool, nil
}
