package http

import (
	"cmp"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/vmferry/vmferry/http/rest"
	"github.com/vmferry/vmferry/job"
)

// problemOf makes a problem of an error, by its kind.
func problemOf(err error) *rest.Problem {
	if p, ok := errors.AsType[*rest.Problem](err); ok {
		return p
	}
	return rest.NewProblem(string(job.KindOf(err)), err.Error(), job.NextOf(err))
}

// jobProblem is problemOf for errors about a job: NotFound means that there is no such job.
func jobProblem(err error) *rest.Problem {
	p := problemOf(err)
	if p.Code == string(job.NotFound) {
		found := rest.NewProblem(rest.CodeJobNotFound, p.Detail, p.Next)
		found.Next = cmp.Or(found.Next, "List the jobs with GET /api/v1/jobs")
		return found
	}
	return p
}

// problemOfHuma makes a problem of huma's errors. It does not repeat values of the request.
func problemOfHuma(m *huma.ErrorModel) *rest.Problem {
	code := string(job.Invalid)
	switch m.Status {
	case http.StatusBadRequest:
		code = rest.CodeBodySyntax
	case http.StatusRequestEntityTooLarge:
		code = rest.CodeBodyTooLarge
	case http.StatusRequestTimeout:
		code = rest.CodeBodyTimeout
	case http.StatusUnsupportedMediaType:
		code = rest.CodeContentType
	case http.StatusNotAcceptable:
		code = rest.CodeNotAcceptable
	case http.StatusInternalServerError:
		code = string(job.Internal)
	}
	detail := m.Detail
	if code == string(job.Invalid) {
		detail = "the request does not have the form that this route expects"
	}
	p := rest.NewProblem(code, detail, "")
	inBody := false
	for _, e := range m.Errors {
		if e != nil {
			p = p.At(e.Location, plain(e.Location, e.Message))
			inBody = inBody || strings.HasPrefix(e.Location, "body")
		}
	}
	if code == string(job.Invalid) {
		if !inBody && len(p.Errors) > 0 {
			p = rest.NewProblem(rest.CodeParameterInvalid, detail, "").With(p.Errors)
		}
		p.Next = "See /docs for the form of the request"
	}
	return p
}

// plain replaces a message about schemas by one about values.
func plain(location, message string) string {
	if strings.HasSuffix(location, ".bandwidth") && strings.Contains(message, "schema") {
		return "must be bytes per second: an integer of 0 or more, or a text such as 200MiB"
	}
	if strings.HasSuffix(location, "patience") && strings.Contains(message, "schema") {
		return "must be a time from 1s to 720h: a number of seconds, or a text such as 4h"
	}
	return message
}

// writeProblem sends a problem as the whole answer.
func writeProblem(w http.ResponseWriter, r *http.Request, p *rest.Problem) {
	noteCode(r.Context(), p.Code)
	p.Instance = instanceOf(r)
	maps.Copy(w.Header(), p.Header)
	b, err := json.Marshal(p)
	if err != nil {
		b = []byte(`{"code":"internal"}`)
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(p.Status)
	_, _ = w.Write(append(b, '\n')) // the client has gone if this fails
}

// instanceOf is the path of a request for its answer, cut to 300 bytes.
func instanceOf(r *http.Request) string {
	const most = 300
	s := r.URL.EscapedPath()
	if len(s) > most {
		s = s[:most] + "..."
	}
	return s
}
