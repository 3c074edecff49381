package rest

import (
	"net/http"

	"github.com/vmferry/vmferry/job"
)

// The codes that are finer than a kind of error. They are stable, like the kinds.
const (
	CodeJobNotFound      = "job_not_found"
	CodeRouteNotFound    = "route_not_found"
	CodeMethodNotAllowed = "method_not_allowed"
	CodeBodyTooLarge     = "body_too_large"
	CodeBodySyntax       = "body_syntax"
	CodeBodyTimeout      = "body_timeout"
	CodeContentType      = "content_type"
	CodeIDInvalid        = "id_invalid"
	CodeParameterInvalid = "parameter_invalid"
	CodeNotAcceptable    = "not_acceptable"
	CodeStale            = "stale"
	CodeNoHistory        = "history_not_kept"
	CodeNoVCenter        = "vcenter_not_configured"
	CodeTooManyStreams   = "too_many_streams"
	CodeTooManyExternal  = "too_many_external_jobs"
	CodeShuttingDown     = "shutting_down"
	CodeHostNotAllowed   = "host_not_allowed"
	CodeCrossOrigin      = "cross_origin"
	CodeTunnel           = "not_through_the_tunnel"
	CodeUnauthenticated  = "unauthenticated"
	CodeRoleTooLow       = "role_too_low"
	CodeTokenInURL       = "token_in_url" //nolint:gosec // a word, no secret
	CodeTooManyAttempts  = "too_many_attempts"
	CodeTooManyRequests  = "too_many_requests"
)

// meaning is the kind, the status and the title of a code.
type meaning struct {
	kind   job.Kind
	status int
	title  string
}

// meanings is the one table of errors: from a code, which is a kind or finer, to the kind, the HTTP status and the
// title. The server makes answers by it, the client makes job.Errors of answers.
var meanings = map[string]meaning{ //nolint:gochecknoglobals // a constant table; Go has no constant maps
	string(job.Internal):    {job.Internal, http.StatusInternalServerError, "Something went wrong inside vmferry"},
	string(job.Invalid):     {job.Invalid, http.StatusUnprocessableEntity, "The request is not valid"},
	string(job.NotFound):    {job.NotFound, http.StatusNotFound, "Not found"},
	string(job.Conflict):    {job.Conflict, http.StatusConflict, "Not possible in the current state"},
	string(job.Auth):        {job.Auth, http.StatusBadGateway, "The other side does not accept the credentials"},
	string(job.Permission):  {job.Permission, http.StatusForbidden, "Not allowed"},
	string(job.Unavailable): {job.Unavailable, http.StatusServiceUnavailable, "The other side cannot be reached"},
	string(job.Timeout):     {job.Timeout, http.StatusGatewayTimeout, "The other side did not answer in time"},
	string(job.IO):          {job.IO, http.StatusBadGateway, "Reading or writing failed"},
	string(job.NoSpace):     {job.NoSpace, http.StatusInsufficientStorage, "No space is left"},
	string(job.Corrupt):     {job.Corrupt, http.StatusInternalServerError, "Stored data is damaged"},
	string(job.Unsupported): {job.Unsupported, http.StatusUnprocessableEntity, "Not supported by VM, disk or server"},
	string(job.CBTInvalid):  {job.CBTInvalid, http.StatusConflict, "The change ID is no longer valid"},
	string(job.Cancelled):   {job.Cancelled, http.StatusServiceUnavailable, "The request was cancelled"},
	string(job.Missing):     {job.Missing, http.StatusServiceUnavailable, "A program that is needed is not installed"},
	string(job.Fenced):      {job.Fenced, http.StatusConflict, "The lease of the volume is over"},

	CodeJobNotFound:      {job.NotFound, http.StatusNotFound, "There is no such job"},
	CodeRouteNotFound:    {job.NotFound, http.StatusNotFound, "There is nothing at this address"},
	CodeMethodNotAllowed: {job.Invalid, http.StatusMethodNotAllowed, "This address does not take this method"},
	CodeBodyTooLarge:     {job.Invalid, http.StatusRequestEntityTooLarge, "The body is too large"},
	CodeBodySyntax:       {job.Invalid, http.StatusBadRequest, "The body cannot be read"},
	CodeBodyTimeout:      {job.Timeout, http.StatusRequestTimeout, "The body did not arrive in time"},
	CodeContentType:      {job.Invalid, http.StatusUnsupportedMediaType, "The body has the wrong type"},
	CodeIDInvalid:        {job.Invalid, http.StatusBadRequest, "This is not a job id"},
	CodeParameterInvalid: {job.Invalid, http.StatusUnprocessableEntity, "A parameter is not valid"},
	CodeNotAcceptable:    {job.Invalid, http.StatusNotAcceptable, "The answer has none of the accepted types"},
	CodeStale:            {job.Conflict, http.StatusPreconditionFailed, "The job has changed since it was read"},
	CodeNoHistory:        {job.NotFound, http.StatusNotFound, "No history is kept in SQL"},
	CodeNoVCenter:        {job.Unavailable, http.StatusServiceUnavailable, "No vCenter is configured"},
	CodeTooManyStreams:   {job.Unavailable, http.StatusServiceUnavailable, "Too many event streams are open"},
	CodeTooManyExternal:  {job.Unavailable, http.StatusTooManyRequests, "Too many external jobs are known"},
	CodeShuttingDown:     {job.Unavailable, http.StatusServiceUnavailable, "The daemon is stopping"},
	CodeHostNotAllowed:   {job.Permission, http.StatusMisdirectedRequest, "The daemon does not answer under this name"},
	CodeTunnel:           {job.Permission, http.StatusForbidden, "Not open through the tunnel"},
	CodeCrossOrigin:      {job.Permission, http.StatusForbidden, "Requests from other web pages are refused"},
	CodeUnauthenticated:  {job.Auth, http.StatusUnauthorized, "A token is needed"},
	CodeRoleTooLow:       {job.Auth, http.StatusForbidden, "The token may not do this"},
	CodeTokenInURL:       {job.Invalid, http.StatusBadRequest, "A token must not be in an address"},
	CodeTooManyAttempts:  {job.Unavailable, http.StatusTooManyRequests, "Too many wrong tokens"},
	CodeTooManyRequests:  {job.Unavailable, http.StatusTooManyRequests, "Too many requests"},
}

// Problem is the body of every error, after RFC 9457. Programs decide by Code.
type Problem struct { //nolint:errname // RFC 9457 calls it so
	Type      string          `json:"type" doc:"Always about:blank: the code tells which problem it is"`
	Title     string          `json:"title" doc:"The problem in general"`
	Status    int             `json:"status"`
	Code      string          `json:"code" doc:"Stable name of the problem"`
	Detail    string          `json:"detail" doc:"The problem in this case"`
	Instance  string          `json:"instance" doc:"The path of the request"`
	Next      string          `json:"next" doc:"What a person can do; may be empty"`
	Retryable bool            `json:"retryable" doc:"The same request, sent again later, can succeed"`
	Errors    []ProblemDetail `json:"errors" nullable:"false" doc:"Each fault of the request"`

	Header http.Header `json:"-"` // more headers of the answer
}

// ProblemDetail is one fault of a request.
type ProblemDetail struct {
	Location string `json:"location" doc:"Where, as in body.options.verify"`
	Message  string `json:"message"`
}

func (p *Problem) Error() string { return p.Detail }

// GetStatus is the HTTP status.
func (p *Problem) GetStatus() int { return p.Status }

// GetHeaders are more headers of the answer.
func (p *Problem) GetHeaders() http.Header { return p.Header }

// ContentType is the type that RFC 9457 names.
func (p *Problem) ContentType(string) string { return "application/problem+json" }

// NewProblem makes a problem by its code; an unknown code is internal.
func NewProblem(code, detail, next string) *Problem {
	m, ok := meanings[code]
	if !ok {
		code, m = string(job.Internal), meanings[string(job.Internal)]
	}
	return &Problem{
		Type: "about:blank", Title: m.title, Status: m.status, Code: code, Detail: detail, Next: next,
		Retryable: m.kind.Retryable(), Errors: []ProblemDetail{},
	}
}

// At adds one fault: its place and what is wrong there.
func (p *Problem) At(location, message string) *Problem {
	return p.With(append(p.Errors, ProblemDetail{location, message}))
}

// With replaces all faults of the request.
func (p *Problem) With(e []ProblemDetail) *Problem {
	p.Errors = e
	return p
}

// Err makes a job.Error of a problem that came over the wire.
func (p *Problem) Err() error {
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
	return &job.Error{Kind: kind, Next: p.Next, Err: answered{p, text}}
}

// answered is a problem that came over the wire, as the cause of an error: an OMA passes it on as it is.
type answered struct {
	problem *Problem
	text    string
}

func (a answered) Error() string { return a.text }

func (a answered) Unwrap() error { return a.problem }
