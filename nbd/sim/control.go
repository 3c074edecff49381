package sim

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/vmferry/vmferry/job"
)

const (
	headerTimeout = 10 * time.Second
	mostBody      = 1 << 20 // bytes of a request
)

// Handler controls the server over HTTP. Each answer is the State after the request.
//
//	GET    /rehearsal/state
//	POST   /rehearsal/fault  {"faults":["error=EIO,op=write,every=3"]}   replaces all faults
//	DELETE /rehearsal/fault
//	POST   /rehearsal/crash
//	POST   /rehearsal/drop
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern string, f func(r *http.Request) error) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			r.Body = http.MaxBytesReader(w, r.Body, mostBody)
			if err := f(r); err != nil {
				answer(w, http.StatusBadRequest, map[string]string{
					"error": err.Error(), "code": string(job.KindOf(err)), "next": job.NextOf(err),
				})
				return
			}
			answer(w, http.StatusOK, s.State())
		})
	}
	handle("GET /rehearsal/state", func(*http.Request) error { return nil })
	handle("POST /rehearsal/fault", s.serveFaults)
	handle("DELETE /rehearsal/fault", func(*http.Request) error { return s.SetFaults() })
	handle("POST /rehearsal/crash", func(*http.Request) error {
		s.Crash()
		return nil
	})
	handle("POST /rehearsal/drop", func(*http.Request) error {
		s.Drop()
		return nil
	})
	return mux
}

func (s *Server) serveFaults(r *http.Request) error {
	var req struct {
		Faults []Fault `json:"faults"`
	}
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	err := d.Decode(&req)
	if err == nil {
		if _, more := d.Token(); !errors.Is(more, io.EOF) {
			err = errors.New("more than one JSON value")
		}
	}
	if err != nil {
		return &job.Error{Op: "read the request", Kind: job.Invalid, Next: job.NextOf(err), Err: err}
	}
	return s.SetFaults(req.Faults...)
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	_ = e.Encode(body) // fails only if the client has gone away
}
