package http

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"reflect"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/vmferry/vmferry/http/rest"
)

// op describes a route.
func op(id, method, path, summary, description string) huma.Operation {
	return huma.Operation{
		OperationID: id, Method: method, Path: path, Summary: summary, Description: description,
		MaxBodyBytes: maxBody + 1, // readBody enforces the limit itself
	}
}

// register adds a typed route. An error of fn is answered as a problem.
func register[I, O any](api huma.API, o huma.Operation, fn func(context.Context, *I) (*O, error)) {
	o.Responses = map[string]*huma.Response{"default": problemResponse(api.OpenAPI().Components.Schemas)}
	huma.Register(api, o, func(ctx context.Context, in *I) (*O, error) {
		out, err := fn(ctx, in)
		if err == nil {
			return out, nil
		}
		if _, known := errors.AsType[huma.StatusError](err); known {
			return nil, err
		}
		return nil, problemOf(err)
	})
	alsoAnswers(o)
}

// alsoAnswers describes the statuses of a route other than its usual one and the problems.
func alsoAnswers(o huma.Operation) {
	switch o.OperationID {
	case "getJob", "listDisks", "listPhases", "listRounds":
		o.Responses["304"] = &huma.Response{Description: "The job has not changed since the ETag"}
	case "submitJob":
		o.Responses["200"] = &huma.Response{
			Description: "The job that the same key made earlier",
			Content:     o.Responses["201"].Content,
		}
	}
}

func problemResponse(schemas huma.Registry) *huma.Response {
	return &huma.Response{Description: "The error", Content: map[string]*huma.MediaType{
		"application/problem+json": {Schema: schemas.Schema(reflect.TypeFor[rest.Problem](), true, "Problem")},
	}}
}

// jsonFormat writes what json.Marshal writes, so that a report has the same bytes here, in events and in Redis.
func jsonFormat() huma.Format {
	return huma.Format{
		Marshal: func(w io.Writer, v any) error {
			if l, ok := v.(jobList); ok {
				return l.write(w)
			}
			b, err := json.Marshal(v)
			if err != nil {
				return err
			}
			_, err = w.Write(append(b, '\n'))
			return err
		},
		Unmarshal: json.Unmarshal,
	}
}

// titleWord is the first part of a path after the API's version; the description groups routes by it.
func titleWord(path string) string {
	parts := strings.Split(strings.TrimPrefix(strings.TrimPrefix(path, "/"), "api/v1/"), "/")
	return parts[0]
}
