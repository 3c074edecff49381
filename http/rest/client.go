package rest

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
)

const (
	requestTimeout = 30 * time.Second // of one request, streams excepted; a submission waits for a durable row
	dialTimeout    = 5 * time.Second
	maxAnswer      = 64 << 20 // bytes of one answer or event; ten thousand jobs fit
)

// Client sends requests to a daemon. Its methods may be called from many goroutines. Their errors are job.Errors with
// the kind and the next step that the daemon sent, or Unavailable if the daemon cannot be reached.
type Client struct {
	base  string
	http  *http.Client
	clock clock
	token func() (job.Secret, error) // nil for none
}

// Option changes how NewClient makes a client.
type Option func(*Client, *http.Transport)

// WithToken sends a token with each request: over TLS, to a unix socket or to a loopback address, and nowhere else.
func WithToken(token job.Secret) Option {
	return func(c *Client, _ *http.Transport) {
		if !token.Empty() {
			c.token = func() (job.Secret, error) { return token, nil }
		}
	}
}

// WithTokenFile is WithToken with the token in a file, as ReadTokenFile takes it. It is read for each request, so that
// the token can be replaced meanwhile: a file that is wrong fails the requests.
func WithTokenFile(path string) Option {
	return func(c *Client, _ *http.Transport) {
		c.token = func() (job.Secret, error) { return ReadTokenFile(path) }
	}
}

// WithAuthorities takes only daemons whose certificate one of these authorities has signed, instead of the system's.
func WithAuthorities(pool *x509.CertPool) Option {
	return func(_ *Client, t *http.Transport) {
		t.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	}
}

// NewClient makes a client for "http://host:port", "https://host:port" or "unix:/path". It does not connect yet.
func NewClient(address string, options ...Option) (*Client, error) {
	const op = "read server address"
	dialer := &net.Dialer{Timeout: dialTimeout}
	t := &http.Transport{DialContext: dialer.DialContext, MaxIdleConnsPerHost: 4, IdleConnTimeout: time.Minute}
	c := &Client{http: &http.Client{Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse // a daemon sends none, and a token must not follow one
	}}}
	for _, o := range options {
		o(c, t)
	}
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		if path == "" {
			return nil, job.Errorf(op, job.Invalid, "Write it as unix:/run/vmferry/vmferry.sock",
				"the path of the socket is missing")
		}
		t.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", path)
		}
		c.base = "http://localhost"
		return c, nil
	}
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, job.Errorf(op, job.Invalid, "Write it as http://127.0.0.1:8081 or unix:/run/vmferry/vmferry.sock",
			"%q is not the address of a daemon", Clip(address))
	}
	if ip := net.ParseIP(u.Hostname()); c.token != nil && u.Scheme == "http" && u.Hostname() != "localhost" &&
		(ip == nil || !ip.IsLoopback()) {
		return nil, job.Errorf(op, job.Invalid, "Use https://"+Clip(u.Host)+", or leave the token out",
			"a token would cross the network in clear")
	}
	c.base = strings.TrimSuffix(address, "/")
	return c, nil
}

// Close closes idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// SubmitOptions are the parts of a submission that are not in the specification.
type SubmitOptions struct {
	ID             job.ID // "" for a new one
	IdempotencyKey string // "" for none
	Node           string // at an OMA: the node that is to run the job; "" for the one whose vCenter has the VM
	BodyHash       string // SHA-256 of the body that came with the key, in hex; set by the server
}

// Submit submits a job and returns its first report. If the same key and body came before, existing is true.
func (c *Client) Submit(ctx context.Context, spec job.Spec, o SubmitOptions) (r report.Report, existing bool,
	err error,
) {
	header := http.Header{}
	if o.IdempotencyKey != "" {
		header.Set("Idempotency-Key", o.IdempotencyKey)
	}
	body := NewJobRequest(spec, o.ID)
	body.Node = o.Node
	status, err := c.do(ctx, http.MethodPost, "/api/v1/jobs", header, body, &r)
	return r, status == http.StatusOK, err
}

// Job returns the newest report of a job.
func (c *Client) Job(ctx context.Context, id job.ID) (r report.Report, err error) {
	_, err = c.do(ctx, http.MethodGet, jobAddress(id), nil, nil, &r)
	return r, err
}

// ListOptions choose and order jobs; the zero value is all jobs, newest first.
type ListOptions struct {
	Status []job.Status
	Health []report.Health
	VM     string
	Node   string // at an OMA: only jobs of this node
	Sort   string
}

// Jobs returns all jobs that the options choose, from all pages.
func (c *Client) Jobs(ctx context.Context, o ListOptions) ([]report.Report, error) {
	q := url.Values{"limit": {"500"}, "sort": {cmp.Or(o.Sort, "-created_at")}}
	for _, s := range o.Status {
		q.Add("status", string(s))
	}
	for _, f := range o.Health {
		q.Add("health", string(f))
	}
	q["status"], q["health"] = joined(q["status"]), joined(q["health"])
	if o.VM != "" {
		q.Set("vm", o.VM)
	}
	if o.Node != "" {
		q.Set("node", o.Node)
	}
	all := []report.Report{}
	for next := "/api/v1/jobs?" + q.Encode(); next != ""; {
		var page []report.Report
		link, err := c.page(ctx, next, &page)
		if err != nil {
			return nil, err
		}
		all, next = append(all, page...), link
	}
	return all, nil
}

func joined(list []string) []string {
	if len(list) == 0 {
		return nil
	}
	return []string{strings.Join(list, ",")}
}

// page reads one page and returns the address of the next; "" after the last page.
func (c *Client) page(ctx context.Context, path string, into any) (next string, err error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	resp, err := c.send(ctx, http.MethodGet, path, nil, nil)
	if err != nil {
		return "", err
	}
	defer func() { _ = resp.Body.Close() }() // it was read to its end, or reading has failed
	if err := readAnswer(resp, into); err != nil {
		return "", err
	}
	link, rest, _ := strings.Cut(resp.Header.Get("Link"), ">")
	if !strings.Contains(rest, `rel="next"`) {
		return "", nil
	}
	return strings.TrimPrefix(link, "<"), nil
}

// Command gives a verb to a job, Delete included. It returns when the daemon has accepted it.
func (c *Client) Command(ctx context.Context, id job.ID, v job.Verb) error {
	return c.Ask(ctx, id, job.CommandReceived{Verb: v})
}

// Ask gives a verb with its options to a job. It returns when the daemon has accepted it.
func (c *Client) Ask(ctx context.Context, id job.ID, a job.CommandReceived) error {
	if a.Verb == job.Delete {
		_, err := c.do(ctx, http.MethodDelete, jobAddress(id), nil, nil, nil)
		return err
	}
	q := url.Values{}
	if a.Purge {
		q.Set("purge", "true")
	}
	if a.Fresh {
		q.Set("fresh", "true")
	}
	var disks []string
	for _, d := range a.Disks {
		disks = append(disks, string(d))
	}
	if len(disks) > 0 {
		q.Set("disk", strings.Join(disks, ","))
	}
	address := jobAddress(id) + "/" + string(a.Verb)
	if len(q) > 0 {
		address += "?" + q.Encode()
	}
	_, err := c.do(ctx, http.MethodPost, address, nil, nil, nil)
	return err
}

// Bulk gives a command to many jobs. A job that refuses it is no error: see the results.
func (c *Client) Bulk(ctx context.Context, b BulkRequest) (r BulkReport, err error) {
	_, err = c.do(ctx, http.MethodPost, "/api/v1/jobs/bulk", nil, b, &r)
	return r, err
}

// Limit changes the bandwidth of a job, in bytes per second; 0 for no limit.
func (c *Client) Limit(ctx context.Context, id job.ID, bandwidth int64) error {
	return c.ChangeLimits(ctx, id, job.Limited{Bandwidth: &bandwidth})
}

// ChangeLimits changes limits of a job.
func (c *Client) ChangeLimits(ctx context.Context, id job.ID, l job.Limited) error {
	_, err := c.do(ctx, http.MethodPatch, jobAddress(id), nil, NewPatchRequest(l), nil)
	return err
}

// RehearsePanic makes the actor of a running disk panic.
func (c *Client) RehearsePanic(ctx context.Context, id job.ID, disk job.DiskID) error {
	_, err := c.do(ctx, http.MethodPost, jobAddress(id)+"/disks/"+url.PathEscape(string(disk))+"/panic", nil, nil, nil)
	return err
}

// Limits returns the limits of the node.
func (c *Client) Limits(ctx context.Context) (r LimitsReport, err error) {
	_, err = c.do(ctx, http.MethodGet, LimitsPath, nil, nil, &r)
	return r, err
}

// SetLimits changes the limits of the node that p names.
func (c *Client) SetLimits(ctx context.Context, p LimitsPatch) (r LimitsReport, err error) {
	_, err = c.do(ctx, http.MethodPatch, LimitsPath, nil, p, &r)
	return r, err
}

// ResetLimits restores the limits of the configuration.
func (c *Client) ResetLimits(ctx context.Context) (r LimitsReport, err error) {
	_, err = c.do(ctx, http.MethodDelete, LimitsPath, nil, nil, &r)
	return r, err
}

// Volumes returns all volumes that are owned, the oldest claim first.
func (c *Client) Volumes(ctx context.Context) (list []Volume, err error) {
	_, err = c.do(ctx, http.MethodGet, VolumesPath, nil, nil, &list)
	return list, err
}

// ReleaseVolume releases a volume by its id: any job may have it then. Errors: NotFound, and Conflict while a job that
// has not ended uses it.
func (c *Client) ReleaseVolume(ctx context.Context, id string) error {
	_, err := c.do(ctx, http.MethodPost, VolumesPath+"/"+url.PathEscape(id)+"/release", nil, nil, nil)
	return err
}

// Events returns the journal of a job, oldest first.
func (c *Client) Events(ctx context.Context, id job.ID) (list []JournalEntry, err error) {
	return c.ListEvents(ctx, id, EventOptions{})
}

// EventOptions choose events; the zero value is all.
type EventOptions struct {
	After  string // only events that follow this one: its ID, or its Seq; "" for all
	Text   string // only events with this text in their words or their type; "" for all
	Newest int    // only the last ones, at most that many; 0 for all
}

// ListEvents returns events of a job's journal, oldest first.
func (c *Client) ListEvents(ctx context.Context, id job.ID, o EventOptions) (list []JournalEntry, err error) {
	q := url.Values{}
	if o.After != "" {
		q.Set("after", o.After)
	}
	if o.Text != "" {
		q.Set("q", o.Text)
	}
	if o.Newest > 0 {
		q.Set("newest", "true")
		q.Set("limit", strconv.Itoa(o.Newest))
	}
	address := jobAddress(id) + "/events"
	if len(q) > 0 {
		address += "?" + q.Encode()
	}
	_, err = c.do(ctx, http.MethodGet, address, nil, nil, &list)
	return list, err
}

// Throughput returns the speeds of a job in the last time, as long as window.
func (c *Client) Throughput(ctx context.Context, id job.ID, window time.Duration) (t Throughput, err error) {
	_, err = c.do(ctx, http.MethodGet, jobAddress(id)+"/throughput?window="+url.QueryEscape(window.String()), nil, nil,
		&t)
	return t, err
}

// TotalThroughput returns the speeds of all jobs together in the last time, as long as window.
func (c *Client) TotalThroughput(ctx context.Context, window time.Duration) (t TotalThroughput, err error) {
	_, err = c.do(ctx, http.MethodGet, "/api/v1/throughput?window="+url.QueryEscape(window.String()), nil, nil, &t)
	return t, err
}

// Preflight checks whether a job could run. A check that failed is no error.
func (c *Client) Preflight(ctx context.Context, spec job.Spec) (r PreflightReport, err error) {
	_, err = c.do(ctx, http.MethodPost, "/api/v1/preflight", nil, NewJobRequest(spec, ""), &r)
	return r, err
}

// System returns the state of the daemon.
func (c *Client) System(ctx context.Context) (s SystemReport, err error) {
	_, err = c.do(ctx, http.MethodGet, "/api/v1/system", nil, nil, &s)
	return s, err
}

// Session says who the client is for the daemon.
func (c *Client) Session(ctx context.Context) (s Session, err error) {
	_, err = c.do(ctx, http.MethodGet, SessionPath, nil, nil, &s)
	return s, err
}

// Tokens lists the tokens of the daemon, oldest first, without their texts.
func (c *Client) Tokens(ctx context.Context) (list []Token, err error) {
	_, err = c.do(ctx, http.MethodGet, TokensPath, nil, nil, &list)
	return list, err
}

// CreateToken makes a token. The answer alone has its text. Errors: Conflict if there is one of that name.
func (c *Client) CreateToken(ctx context.Context, r TokenRequest) (t NewToken, err error) {
	_, err = c.do(ctx, http.MethodPost, TokensPath, nil, r, &t)
	return t, err
}

// RevokeToken ends a token by its id, at once. Errors: NotFound.
func (c *Client) RevokeToken(ctx context.Context, id string) error {
	_, err := c.do(ctx, http.MethodDelete, TokensPath+"/"+url.PathEscape(id), nil, nil, nil)
	return err
}

// Alive returns nil if the daemon answers, else why not.
func (c *Client) Alive(ctx context.Context) error {
	_, err := c.do(ctx, http.MethodGet, "/livez", nil, nil, nil)
	return err
}

// Progress posts an update as an older copy tool does.
func (c *Client) Progress(ctx context.Context, id job.ID, u ProgressUpdate) error {
	_, err := c.do(ctx, http.MethodPost, "/api/v1/progress/"+url.PathEscape(string(id))+"/update", nil, u, nil)
	return err
}

func jobAddress(id job.ID) string { return "/api/v1/jobs/" + url.PathEscape(string(id)) }

// do sends one request and reads its answer. in is nil for no body, into is nil if the answer is not needed.
func (c *Client) do(ctx context.Context, method, path string, header http.Header, in, into any) (status int,
	err error,
) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	resp, err := c.send(ctx, method, path, header, in)
	if err != nil {
		return 0, err
	}
	defer func() { _ = resp.Body.Close() }() // it was read to its end, or reading has failed
	return resp.StatusCode, readAnswer(resp, into)
}

func (c *Client) send(ctx context.Context, method, path string, header http.Header, in any) (*http.Response, error) {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return nil, job.Errorf("write request", job.Internal, "", "%w", err)
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, body)
	if err != nil {
		return nil, job.Errorf("write request", job.Invalid, "", "%w", err)
	}
	maps.Copy(req.Header, header)
	if c.token != nil {
		token, err := c.token()
		if err != nil {
			return nil, err
		}
		req.Header.Set("Authorization", "Bearer "+token.Reveal())
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, unreachable(ctx, err)
	}
	c.clock.tell(resp.Header.Get(TimeHeader))
	return resp, nil
}

// unreachable gives a failed request its kind: the caller has cancelled it, the daemon is too slow, or it is not there.
func unreachable(ctx context.Context, err error) error {
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err // without method and address, which url.Error puts in front
	}
	_, unverified := errors.AsType[*tls.CertificateVerificationError](err)
	switch {
	case unverified:
		return job.Errorf("send request", job.Permission,
			"Name the authority of the daemon's certificate with --ca-file, and use a name that is in the certificate",
			"the daemon's certificate cannot be verified: %w", err)
	case errors.Is(ctx.Err(), context.Canceled):
		return job.Errorf("send request", job.Cancelled, "", "%w", ctx.Err())
	case errors.Is(err, context.DeadlineExceeded):
		return job.Errorf("send request", job.Timeout, "Check whether the daemon answers at /livez", "%w", err)
	default:
		return job.Errorf("send request", job.Unavailable,
			"Start the daemon with vmferry serve, or name its address with --server", "%w", err)
	}
}

// readFile reads the whole answer, or returns the error that the answer reports.
func readFile(resp *http.Response) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return nil, job.Errorf("read the daemon's answer", job.Unavailable, "Try again", "%w", err)
	}
	if len(b) > maxAnswer {
		return nil, job.Errorf("read the daemon's answer", job.Corrupt, "", "the answer is longer than %d bytes",
			maxAnswer)
	}
	if resp.StatusCode >= http.StatusBadRequest {
		return nil, answeredError(resp, b)
	}
	if resp.StatusCode >= http.StatusMultipleChoices {
		return nil, job.Errorf("read the daemon's answer", job.Corrupt, "Name the address of the daemon itself",
			"the answer is a redirect (%d), which is not followed", resp.StatusCode)
	}
	return b, nil
}

// readAnswer is readFile into the given value.
func readAnswer(resp *http.Response, into any) error {
	b, err := readFile(resp)
	if err != nil {
		return err
	}
	if into == nil || len(b) == 0 {
		return nil
	}
	if err := json.Unmarshal(b, into); err != nil {
		return job.Errorf("read the daemon's answer", job.Corrupt,
			"Check whether client and daemon are of the same version", "%w", err)
	}
	return nil
}

func answeredError(resp *http.Response, b []byte) error {
	var p Problem
	if strings.HasPrefix(resp.Header.Get("Content-Type"), "application/problem+json") && json.Unmarshal(b, &p) == nil &&
		p.Code != "" {
		return p.Err()
	}
	return job.Errorf("send request", kindOfStatus(resp.StatusCode),
		"Check whether a vmferry daemon serves this address",
		"the answer is %s: %s", strconv.Itoa(resp.StatusCode), Clip(fmt.Sprintf("%q", b)))
}

// kindOfStatus guesses the kind of an error that did not come from a vmferry daemon.
func kindOfStatus(status int) job.Kind {
	switch status {
	case http.StatusNotFound:
		return job.NotFound
	case http.StatusConflict:
		return job.Conflict
	case http.StatusUnauthorized:
		return job.Auth
	case http.StatusForbidden:
		return job.Permission
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout, http.StatusTooManyRequests:
		return job.Unavailable
	default:
		if status >= http.StatusInternalServerError {
			return job.Internal
		}
		return job.Invalid
	}
}

// Clip cuts a text from outside to 60 bytes, so that an answer can quote it.
func Clip(s string) string {
	const most = 60
	if len(s) > most {
		return strings.ToValidUTF8(s[:most], "") + "..."
	}
	return s
}
