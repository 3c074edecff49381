// Package http is the daemon's face: jobs, live events, the compatibility routes of older tools, health, metrics and
// the API's own description. What goes over the wire, and the client that the command line uses, are in http/rest.
//
// It shows what Reports has and hands what is asked for to Commands. It keeps no state of its own save a short memory
// of speeds, decides nothing about a job, and must not know where reports come from or who carries a command out.
//
//	request -> guard (host, origin, headers) -> body (size, type, strict JSON) -> huma (schema) -> Reports or Commands
//	any error -> problem (one table: code -> kind, status, title) -> application/problem+json
package http
