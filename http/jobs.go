package http

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/vmferry/vmferry/http/rest"
	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
)

// patience is how long the answer to a submission waits for the first report of the accepted job.
const patience = 2 * time.Second

type (
	submitInput struct {
		Key     string `header:"Idempotency-Key" maxLength:"200" doc:"Same key, same body: the same job for 24 hours"`
		Body    rest.JobRequest
		RawBody []byte
	}
	getInput struct {
		ID          string `path:"id" doc:"Job id" example:"job-20250925-134230.513-8034ee"`
		IfNoneMatch string `header:"If-None-Match" doc:"ETag of the report that the client has"`
	}
	changeInput struct {
		ID      string `path:"id" doc:"Job id" example:"job-20250925-134230.513-8034ee"`
		IfMatch string `header:"If-Match" doc:"Only if the job is still as this ETag says"`
	}
	patchInput struct {
		ID      string `path:"id" doc:"Job id" example:"job-20250925-134230.513-8034ee"`
		IfMatch string `header:"If-Match" doc:"Only if the job is still as this ETag says"`
		Body    rest.PatchRequest
	}
	cancelInput struct {
		ID      string `path:"id" doc:"Job id" example:"job-20250925-134230.513-8034ee"`
		IfMatch string `header:"If-Match" doc:"Only if the job is still as this ETag says"`
		Purge   bool   `query:"purge" doc:"Also remove the target files that the job made"`
	}
	retryInput struct {
		ID      string       `path:"id" doc:"Job id" example:"job-20250925-134230.513-8034ee"`
		IfMatch string       `header:"If-Match" doc:"Only if the job is still as this ETag says"`
		Fresh   bool         `query:"fresh" doc:"Copy everything again, whatever is on the targets"`
		Disks   []job.DiskID `query:"disk" maxItems:"256" doc:"Only these may be copied again; left out, any that must"`
	}
	rehearseInput struct {
		ID   string     `path:"id" doc:"Job id" example:"job-20250925-134230.513-8034ee"`
		Disk job.DiskID `path:"disk" doc:"Disk id" example:"disk-2000" maxLength:"40"`
	}
	jobOutput struct {
		Status   int
		Location string `header:"Location"`
		ETag     string `header:"ETag" doc:"The version of the report: <epoch>-<seq>"`
		Body     report.Report
	}
)

func (h *Handler) registerJobs(api huma.API) {
	created := op("submitJob", http.MethodPost, "/api/v1/jobs", "Submit a job",
		"201 when the job is durable; 200 with the earlier job when the Idempotency-Key and the body came before.")
	created.DefaultStatus = http.StatusCreated
	register(api, created, h.submit)
	register(api, op("getJob", http.MethodGet, "/api/v1/jobs/{id}", "One job", "The newest report of the job."), h.get)
	register(api, op("patchJob", http.MethodPatch, "/api/v1/jobs/{id}", "Change a job's limits",
		"Takes effect on running copies at once."), h.patch)
	rehearsal := op("rehearsePanic", http.MethodPost, "/api/v1/jobs/{id}/disks/{disk}/panic",
		"Rehearse a fault of vmferry itself",
		"The actor that runs the disk panics. Its supervisor starts the disk again where it was.")
	rehearsal.DefaultStatus = http.StatusAccepted
	register(api, rehearsal, h.rehearse)
	del := op("deleteJob", http.MethodDelete, "/api/v1/jobs/{id}", "Forget a job that has ended",
		"409 while it has not ended.")
	del.DefaultStatus = http.StatusNoContent
	register(api, del, h.remove)
	for _, v := range verbs() {
		o := op(string(v.verb)+"Job", http.MethodPost, "/api/v1/jobs/{id}/"+string(v.verb), v.summary,
			"Accepted when it is durable; the job's reports show when it is done. "+
				"409 names the commands that are allowed now.")
		o.DefaultStatus = http.StatusAccepted
		switch v.verb {
		case job.Cancel:
			register(api, o, func(ctx context.Context, in *cancelInput) (*jobOutput, error) {
				return h.command(ctx, &changeInput{in.ID, in.IfMatch},
					job.CommandReceived{Verb: v.verb, Purge: in.Purge})
			})
		case job.Retry:
			o.Description += " With disk, a retry is refused if other disks would have to be copied again."
			register(api, o, func(ctx context.Context, in *retryInput) (*jobOutput, error) {
				return h.command(ctx, &changeInput{in.ID, in.IfMatch},
					job.CommandReceived{Verb: v.verb, Fresh: in.Fresh, Disks: in.Disks})
			})
		default:
			register(api, o, func(ctx context.Context, in *changeInput) (*jobOutput, error) {
				return h.command(ctx, in, job.CommandReceived{Verb: v.verb})
			})
		}
	}
}

type verb struct {
	verb    job.Verb
	summary string
}

func verbs() []verb {
	return []verb{
		{job.Pause, "Stop copying for now; the snapshot is kept"},
		{job.Resume, "Continue copying"},
		{job.Cancel, "End the job and remove its snapshot"},
		{job.Retry, "Queue a job again that failed or was cancelled"},
		{job.Sync, "One more round"},
		{job.CutoverNow, "A last round, then done"},
	}
}

func (h *Handler) submit(ctx context.Context, in *submitInput) (*jobOutput, error) {
	spec, err := in.Body.Spec()
	if err != nil {
		return nil, err
	}
	o := rest.SubmitOptions{IdempotencyKey: in.Key, Node: in.Body.Node}
	if in.Body.ID != "" {
		if o.ID, err = parseID(string(in.Body.ID)); err != nil {
			return nil, err
		}
	}
	if strings.ContainsFunc(in.Key, func(r rune) bool { return r < ' ' || r > '~' }) {
		return nil, rest.NewProblem(rest.CodeParameterInvalid, "the Idempotency-Key holds more than printable ASCII",
			"").At("header.Idempotency-Key", "must be printable ASCII")
	}
	if in.Key != "" {
		sum := sha256.Sum256(in.RawBody)
		o.BodyHash = hex.EncodeToString(sum[:])
	}
	id, existing, err := h.commands.Submit(ctx, spec, o)
	if err != nil {
		return nil, err
	}
	out := &jobOutput{Status: http.StatusCreated, Location: jobPath(id)}
	if existing {
		out.Status = http.StatusOK
	}
	out.Body, err = h.firstReport(ctx, id, spec, existing)
	if err != nil {
		return nil, jobProblem(err)
	}
	out.ETag = etag(out.Body)
	return out, nil
}

// firstReport waits for the first report of a job that was just accepted. The job is durable already: if the report is
// late, the answer is a report of the queued job, without a version. A job that existed before may have been deleted
// since: then firstReport fails with NotFound.
func (h *Handler) firstReport(ctx context.Context, id job.ID, spec job.Spec, existing bool) (report.Report, error) {
	r, err := h.awaited(ctx, id)
	if job.KindOf(err) != job.NotFound {
		return r, err
	}
	if existing {
		return report.Report{}, job.Errorf("submit", job.NotFound, "Use a new Idempotency-Key",
			"the key made job %s, which was deleted since", id)
	}
	st, _, err := job.State{}.Apply(job.Submitted{ID: id, Spec: spec}, h.now())
	if err != nil {
		return report.Report{}, err
	}
	return report.NewBuilder(st, nil).Report(h.now(), false), nil
}

// awaited is the report of a job that is about to have its first one. It waits for it for a moment; NotFound if it does
// not come.
func (h *Handler) awaited(ctx context.Context, id job.ID) (report.Report, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	_, _, _, sub := h.reports.Subscribe(report.Version{}) // before reading, so that no report is missed between the two
	defer sub.Close()
	for {
		r, err := h.reports.Report(ctx, id)
		if job.KindOf(err) != job.NotFound {
			return r, err
		}
		if _, late := sub.Next(ctx); late != nil {
			return r, err
		}
	}
}

func (h *Handler) get(ctx context.Context, in *getInput) (*jobOutput, error) {
	r, err := h.report(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	tag := etag(r)
	if matches(in.IfNoneMatch, tag) {
		return nil, unmodified(tag)
	}
	return &jobOutput{Status: http.StatusOK, ETag: tag, Body: r}, nil
}

func (h *Handler) patch(ctx context.Context, in *patchInput) (*jobOutput, error) {
	id, err := h.unchanged(ctx, in.ID, in.IfMatch)
	if err != nil {
		return nil, err
	}
	if err := h.commands.Limit(ctx, id, in.Body.Limited()); err != nil {
		return nil, jobProblem(err)
	}
	return h.answer(ctx, id, http.StatusOK)
}

func (h *Handler) rehearse(ctx context.Context, in *rehearseInput) (*jobOutput, error) {
	id, err := parseID(in.ID)
	if err != nil {
		return nil, err
	}
	if err := h.commands.Rehearse(ctx, id, in.Disk); err != nil {
		return nil, jobProblem(err)
	}
	return h.answer(ctx, id, http.StatusAccepted)
}

func (h *Handler) remove(ctx context.Context, in *changeInput) (*struct{}, error) {
	id, err := h.unchanged(ctx, in.ID, in.IfMatch)
	if err != nil {
		return nil, err
	}
	if err := h.commands.Command(ctx, id, job.CommandReceived{Verb: job.Delete}); err != nil {
		return nil, jobProblem(err)
	}
	return &struct{}{}, nil
}

func (h *Handler) command(ctx context.Context, in *changeInput, c job.CommandReceived) (*jobOutput, error) {
	id, err := h.unchanged(ctx, in.ID, in.IfMatch)
	if err != nil {
		return nil, err
	}
	if err := h.commands.Command(ctx, id, c); err != nil {
		return nil, jobProblem(err)
	}
	return h.answer(ctx, id, http.StatusAccepted)
}

// answer answers a command with the newest report; the effect of the command is in later reports.
func (h *Handler) answer(ctx context.Context, id job.ID, status int) (*jobOutput, error) {
	r, err := h.report(ctx, string(id))
	if err != nil {
		return nil, err
	}
	return &jobOutput{Status: status, Location: jobPath(id), ETag: etag(r), Body: r}, nil
}

// unchanged checks the id and the If-Match of a request that changes something.
func (h *Handler) unchanged(ctx context.Context, text, ifMatch string) (job.ID, error) {
	id, err := parseID(text)
	if err != nil || ifMatch == "" {
		return id, err
	}
	r, err := h.report(ctx, text)
	if err != nil {
		return "", err
	}
	if !matchesStrongly(ifMatch, etag(r)) {
		return "", rest.NewProblem(rest.CodeStale, fmt.Sprintf("job %s is at version %s", id, r.Version()),
			"Read it again, then decide")
	}
	return id, nil
}

// report finds the newest report of the job whose id is text.
func (h *Handler) report(ctx context.Context, text string) (report.Report, error) {
	id, err := parseID(text)
	if err != nil {
		return report.Report{}, err
	}
	r, err := h.reports.Report(ctx, id)
	if err != nil {
		return report.Report{}, jobProblem(err)
	}
	return r, nil
}

func parseID(text string) (job.ID, error) {
	id, err := job.ParseID(text)
	if err != nil {
		return "", rest.NewProblem(rest.CodeIDInvalid, err.Error(), job.NextOf(err))
	}
	return id, nil
}

func jobPath(id job.ID) string { return "/api/v1/jobs/" + string(id) }

func etag(r report.Report) string {
	if r.Version() == (report.Version{}) {
		return ""
	}
	return `"` + r.Version().String() + `"`
}

// matches says whether one of the tags of an If-None-Match header is a tag, or any is meant. A weak tag is as good as a
// strong one: both stand for the same report.
func matches(header, tag string) bool {
	return tag != "" && listed(header, func(one string) bool { return strings.TrimPrefix(one, "W/") == tag })
}

// matchesStrongly is matches for an If-Match header, where a weak tag never matches.
func matchesStrongly(header, tag string) bool {
	return tag != "" && listed(header, func(one string) bool { return one == tag })
}

func listed(header string, fits func(string) bool) bool {
	for part := range strings.SplitSeq(header, ",") {
		if part = strings.TrimSpace(part); part == "*" || fits(part) {
			return true
		}
	}
	return false
}

// joinConditions makes one header of several lines with tags.
func joinConditions(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for _, name := range []string{"If-Match", "If-None-Match"} {
			if lines := r.Header.Values(name); len(lines) > 1 {
				r.Header.Set(name, strings.Join(lines, ", "))
			}
		}
		next.ServeHTTP(w, r)
	})
}

// unmodified is the answer to a request for what the client has already.
func unmodified(tag string) error {
	return huma.ErrorWithHeaders(huma.Status304NotModified(), http.Header{"ETag": {tag}})
}
