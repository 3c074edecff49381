// Package rest is what goes over the wire between the daemon and its callers: the bodies of requests and answers, the
// problems that report errors, and the client. Sizes are bytes, times are RFC 3339 in UTC.
//
//	client: spec -> NewJobRequest -> JSON ... JSON -> report.Report, or Problem -> Problem.Err -> job.Error
//	server: JSON -> JobRequest.Spec -> spec ... job.Error -> NewProblem by its kind -> JSON
//
// An error keeps its kind and its next step on this way. Client.Watch follows the event stream over lost connections.
//
// The package is separate from the server, so that the command line does not link the server's router and metrics: they
// would cost each command memory and time before its first line. It must not know package http or how a command is
// executed. A Client may be used by many goroutines; all other types are plain values.
package rest
