package http

import (
	"cmp"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/vmferry/vmferry/job"
)

// The codes that are finer than a kind of error. They are stable, as the kinds are.
const (
	codeJobNotFound      = "job_not_found"
	codeRouteNotFound    = "route_not_found"
	codeMethodNotAllowed = "method_not_allowed"
	codeBodyTooLarge     = "body_too_large"
	codeBodySyntax       = "body_syntax"
	codeBodyTimeout      = "body_timeout"
	codeContentType      = "content_type"
	codeIDInvalid        = "id_invalid"
	codeParameterInvalid = "parameter_invalid"
	codeNotAcceptable    = "not_acceptable"
	codeStale            = "stale"
	codeNoVCenter        = "vcenter_not_configured"
	codeTooManyStreams   = "too_many_streams"
	codeShuttingDown     = "shutting_down"
	codeHostNotAllowed   = "host_not_allowed"
	codeCrossOrigin      = "cross_origin"
)

// meaning is what a code stands for.
type meaning struct {
	kind   job.Kind
	status int
	title  string
}

// meanings is the one table of errors: from a code, which is a kind or finer, to the kind, the HTTP status and the title.
// The server reads it to answer, the client to turn an answer back into a job.Error.
var meanings = map[string]meaning{ //nolint:gochecknoglobals // a constant table; Go has no constant maps
	string(job.Internal):    {job.Internal, http.StatusInternalServerError, "Something went wrong inside vmferry"},
	string(job.Invalid):     {job.Invalid, http.StatusUnprocessableEntity, "The request does not make sense"},
	string(job.NotFound):    {job.NotFound, http.StatusNotFound, "There is no such thing"},
	string(job.Conflict):    {job.Conflict, http.StatusConflict, "Not possible in the present state"},
	string(job.Auth):        {job.Auth, http.StatusBadGateway, "The other side does not accept our credentials"},
	string(job.Permission):  {job.Permission, http.StatusForbidden, "Not allowed"},
	string(job.Unavailable): {job.Unavailable, http.StatusServiceUnavailable, "The other side can't be reached"},
	string(job.Timeout):     {job.Timeout, http.StatusGatewayTimeout, "The other side did not answer in time"},
	string(job.IO):          {job.IO, http.StatusBadGateway, "Reading or writing failed"},
	string(job.NoSpace):     {job.NoSpace, http.StatusInsufficientStorage, "No space is left"},
	string(job.Corrupt):     {job.Corrupt, http.StatusInternalServerError, "Stored data are damaged"},
	string(job.Unsupported): {job.Unsupported, http.StatusUnprocessableEntity, "This can't be done with that VM, disk or server"},
	string(job.CBTInvalid):  {job.CBTInvalid, http.StatusConflict, "The change ID is no longer good"},
	string(job.Cancelled):   {job.Cancelled, http.StatusServiceUnavailable, "The request was cancelled"},
	string(job.Missing):     {job.Missing, http.StatusServiceUnavailable, "A program that is needed is not installed"},

	codeJobNotFound:      {job.NotFound, http.StatusNotFound, "There is no such job"},
	codeRouteNotFound:    {job.NotFound, http.StatusNotFound, "There is nothing at this address"},
	codeMethodNotAllowed: {job.Invalid, http.StatusMethodNotAllowed, "This address does not know the method"},
	codeBodyTooLarge:     {job.Invalid, http.StatusRequestEntityTooLarge, "The body is too large"},
	codeBodySyntax:       {job.Invalid, http.StatusBadRequest, "The body can't be read"},
	codeBodyTimeout:      {job.Timeout, http.StatusRequestTimeout, "The body did not come in time"},
	codeContentType:      {job.Invalid, http.StatusUnsupportedMediaType, "The body has the wrong type"},
	codeIDInvalid:        {job.Invalid, http.StatusBadRequest, "This is not a job id"},
	codeParameterInvalid: {job.Invalid, http.StatusUnprocessableEntity, "A parameter does not make sense"},
	codeNotAcceptable:    {job.Invalid, http.StatusNotAcceptable, "The answer has another type than was asked for"},
	codeStale:            {job.Conflict, http.StatusPreconditionFailed, "The job has changed since it was read"},
	codeNoVCenter:        {job.Unavailable, http.StatusServiceUnavailable, "No vCenter is configured"},
	codeTooManyStreams:   {job.Unavailable, http.StatusServiceUnavailable, "Too many event streams are open"},
	codeShuttingDown:     {job.Unavailable, http.StatusServiceUnavailable, "The daemon is stopping"},
	codeHostNotAllowed:   {job.Permission, http.StatusMisdirectedRequest, "The daemon does not answer under this name"},
	codeCrossOrigin:      {job.Permission, http.StatusForbidden, "Requests from other web pages are refused"},
}

// Problem is the body of every error, after RFC 9457. Code is what programs decide by.
type Problem struct { //nolint:errname // RFC 9457 calls it so
	Type      string          `json:"type" doc:"Always about:blank: the code tells which problem it is"`
	Title     string          `json:"title" doc:"What sort of problem it is"`
	Status    int             `json:"status"`
	Code      string          `json:"code" doc:"Stable name of the problem"`
	Detail    string          `json:"detail" doc:"What happened this time"`
	Instance  string          `json:"instance" doc:"The address that was asked"`
	Next      string          `json:"next" doc:"What a person can do; may be empty"`
	Retryable bool            `json:"retryable" doc:"The same request, sent again later, can succeed"`
	Errors    []ProblemDetail `json:"errors" nullable:"false" doc:"Each thing that is wrong with the request"`

	header http.Header
}

// ProblemDetail is one thing that is wrong with a request.
type ProblemDetail struct {
	Location string `json:"location" doc:"Where, as in body.options.verify"`
	Message  string `json:"message"`
}

func (p *Problem) Error() string { return p.Detail }

// GetStatus is the HTTP status.
func (p *Problem) GetStatus() int { return p.Status }

// GetHeaders are headers that go with the answer.
func (p *Problem) GetHeaders() http.Header { return p.header }

// ContentType is that of RFC 9457.
func (p *Problem) ContentType(string) string { return "application/problem+json" }

// problem makes one by its code.
func problem(code, detail, next string) *Problem {
	m, ok := meanings[code]
	if !ok {
		code, m = string(job.Internal), meanings[string(job.Internal)]
	}
	return &Problem{
		Type: "about:blank", Title: m.title, Status: m.status, Code: code, Detail: detail, Next: next,
		Retryable: m.kind.Retryable(), Errors: []ProblemDetail{},
	}
}

// at adds a place where something is wrong.
func (p *Problem) at(location, message string) *Problem {
	return p.with(append(p.Errors, ProblemDetail{location, message}))
}

// problemOf makes the answer to an error by its kind.
func problemOf(err error) *Problem {
	if p, ok := errors.AsType[*Problem](err); ok {
		return p
	}
	return problem(string(job.KindOf(err)), err.Error(), job.NextOf(err))
}

// jobProblem is problemOf where what is not found is the job itself.
func jobProblem(err error) *Problem {
	p := problemOf(err)
	if p.Code == string(job.NotFound) {
		found := problem(codeJobNotFound, p.Detail, p.Next)
		found.Next = cmp.Or(found.Next, "List the jobs with GET /api/v1/jobs")
		return found
	}
	return p
}

// problemOfHuma turns what the schema check found into ours. Values of the request are not repeated.
func problemOfHuma(m *huma.ErrorModel) *Problem {
	code := string(job.Invalid)
	switch m.Status {
	case http.StatusBadRequest:
		code = codeBodySyntax
	case http.StatusRequestEntityTooLarge:
		code = codeBodyTooLarge
	case http.StatusRequestTimeout:
		code = codeBodyTimeout
	case http.StatusUnsupportedMediaType:
		code = codeContentType
	case http.StatusNotAcceptable:
		code = codeNotAcceptable
	case http.StatusInternalServerError:
		code = string(job.Internal)
	}
	detail := m.Detail
	if code == string(job.Invalid) {
		detail = "the request is not what is expected here"
	}
	p := problem(code, detail, "")
	inBody := false
	for _, e := range m.Errors {
		if e != nil {
			p = p.at(e.Location, plain(e.Location, e.Message))
			inBody = inBody || strings.HasPrefix(e.Location, "body")
		}
	}
	if code == string(job.Invalid) {
		if !inBody && len(p.Errors) > 0 {
			p = problem(codeParameterInvalid, detail, "").with(p.Errors)
		}
		p.Next = "See /docs for what the request may hold"
	}
	return p
}

// plain says what the schema check can only say in the words of schemas.
func plain(location, message string) string {
	if strings.HasSuffix(location, ".bandwidth") && strings.Contains(message, "schema") {
		return "must be bytes per second: an integer of 0 or more, or a text such as 200MiB"
	}
	return message
}

func (p *Problem) with(e []ProblemDetail) *Problem {
	p.Errors = e
	return p
}

// err turns a problem that came over the wire back into the error that it was.
func (p *Problem) err() error {
	kind := job.Internal
	if m, ok := meanings[p.Code]; ok {
		kind = m.kind
	}
	text := p.Detail
	if text == "" {
		text = p.Title
	}
	for _, e := range p.Errors {
		text += "; " + e.Location + ": " + e.Message
	}
	return &job.Error{Kind: kind, Next: p.Next, Err: errors.New(text)}
}

// write sends the problem as the whole answer.
func (p *Problem) write(w http.ResponseWriter, r *http.Request) {
	p.Instance = instanceOf(r)
	maps.Copy(w.Header(), p.header)
	b, err := json.Marshal(p)
	if err != nil {
		b = []byte(`{"code":"internal"}`)
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(p.Status)
	_, _ = w.Write(append(b, '\n')) // whoever asked has gone: nobody is left to tell
}

// instanceOf is the address of a request, cut short: it is repeated to whoever sent it.
func instanceOf(r *http.Request) string {
	const most = 300
	s := r.URL.EscapedPath()
	if len(s) > most {
		s = s[:most] + "..."
	}
	return s
}
