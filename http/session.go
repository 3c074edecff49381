package http

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/vmferry/vmferry/http/rest"
	"github.com/vmferry/vmferry/job"
)

type (
	sessionInput  struct{ Body rest.SessionRequest }
	sessionOutput struct {
		Cookie string `header:"Set-Cookie"`
		Body   rest.Session
	}
	endedOutput struct {
		Cookie string `header:"Set-Cookie"`
	}
	tokensOutput struct{ Body []rest.Token }
	tokenInput   struct{ Body rest.TokenRequest }
	tokenOutput  struct {
		Location string `header:"Location"`
		Body     rest.NewToken
	}
	tokenIDInput struct {
		ID string `path:"id" maxLength:"128" doc:"Token id, as GET /api/v1/tokens has it"`
	}
)

func (h *Handler) registerSession(api huma.API) {
	register(api, op("getSession", http.MethodGet, rest.SessionPath, "Who I am for the daemon",
		"401 without a token, where tokens are asked for."),
		func(ctx context.Context, _ *struct{}) (*sessionOutput, error) {
			s := whoOf(ctx)
			if s.role == public {
				return nil, unauthenticated("this daemon asks for a token, and the request has none", "Log in")
			}
			return &sessionOutput{Body: s.session()}, nil
		})
	register(api, op("beginSession", http.MethodPost, rest.SessionPath, "Log in with a token",
		"The answer sets a cookie, which no script can read and which other sites cannot use. It has the rights of "+
			"the token and ends with it. Where no tokens are asked for, there is nothing to log in to: open is true."),
		h.beginSession)
	end := op("endSession", http.MethodDelete, rest.SessionPath, "Log out", "The cookie is worth nothing afterwards.")
	end.DefaultStatus = http.StatusNoContent
	register(api, end, h.endSession)
}

func (s who) session() rest.Session {
	out := rest.Session{Open: s.open, Name: s.name, Role: s.role}
	if !s.expires.IsZero() {
		out.ExpiresAt = &s.expires
	}
	return out
}

func (s who) cookieName() string {
	if s.secure {
		return secureCookie
	}
	return sessionCookie
}

// sessionCookie is the cookie of a login; the empty text removes it.
func (s who) sessionCookie(text string, until time.Time) *http.Cookie {
	c := &http.Cookie{ //nolint:gosec // Secure over TLS; loopback has none
		Name: s.cookieName(), Value: text, Path: "/", HttpOnly: true, SameSite: http.SameSiteStrictMode,
		Secure: s.secure, Expires: until,
	}
	if text == "" {
		c.MaxAge = -1
	}
	return c
}

func (h *Handler) beginSession(ctx context.Context, in *sessionInput) (*sessionOutput, error) {
	s := whoOf(ctx)
	if s.open {
		return &sessionOutput{Body: s.session()}, nil
	}
	parent, bad := h.gate.tokens.check(in.Body.Token, false)
	if parent == nil {
		return nil, h.gate.failed(ctx, s, bad)
	}
	session, text, err := h.gate.tokens.login(ctx, parent, s.from, h.sessionLife)
	if err != nil {
		return nil, err
	}
	now := s.with(&held{Token: session}, true)
	return &sessionOutput{s.sessionCookie(text.Reveal(), session.ExpiresAt).String(), now.session()}, nil
}

// endSession ends the login of the cookie. A token in the header stays: whoever holds it can use it again.
func (h *Handler) endSession(ctx context.Context, _ *struct{}) (*endedOutput, error) {
	s := whoOf(ctx)
	if s.open {
		return &endedOutput{}, nil
	}
	if s.cookie {
		if err := h.gate.tokens.revoke(ctx, s.token); err != nil && job.KindOf(err) != job.NotFound {
			return nil, err
		}
	}
	return &endedOutput{s.sessionCookie("", time.Time{}).String()}, nil
}

func (h *Handler) registerTokens(api huma.API) {
	register(api, op("listTokens", http.MethodGet, rest.TokensPath, "The tokens", "Oldest first, without their texts."),
		func(context.Context, *struct{}) (*tokensOutput, error) {
			out := &tokensOutput{Body: []rest.Token{}}
			if h.gate.tokens != nil {
				for _, t := range h.gate.tokens.list() {
					out.Body = append(out.Body, rest.TokenOf(t))
				}
			}
			return out, nil
		})
	create := op("createToken", http.MethodPost, rest.TokensPath, "Make a token",
		"This answer is the only place where its text is. 409 if there is a token of that name.")
	create.DefaultStatus = http.StatusCreated
	register(api, create, h.createToken)
	revoke := op("revokeToken", http.MethodDelete, rest.TokensPath+"/{id}", "Revoke a token",
		"At once: its sessions and event streams end.")
	revoke.DefaultStatus = http.StatusNoContent
	register(api, revoke, h.revokeToken)
}

func (h *Handler) createToken(ctx context.Context, in *tokenInput) (*tokenOutput, error) {
	if h.gate.tokens == nil {
		return nil, noTokens()
	}
	t, err := in.Body.Token(h.now())
	if err != nil {
		return nil, err
	}
	s := whoOf(ctx)
	t.CreatedBy = s.label() + " from " + s.from
	t, text, err := h.gate.tokens.create(ctx, t)
	if err != nil {
		return nil, err
	}
	return &tokenOutput{rest.TokensPath + "/" + t.ID, rest.NewToken{Token: rest.TokenOf(t), Text: text.Reveal()}}, nil
}

func (h *Handler) revokeToken(ctx context.Context, in *tokenIDInput) (*struct{}, error) {
	if h.gate.tokens == nil {
		return nil, noTokens()
	}
	return &struct{}{}, h.gate.tokens.revoke(ctx, in.ID)
}

func noTokens() error {
	return job.Errorf("use tokens", job.NotFound, "", "this daemon keeps no tokens")
}
