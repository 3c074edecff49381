// Package rest is what goes over the wire between the daemon and who asks it: the bodies of requests and answers, the
// problems that errors are answered with, and the client. Their sizes are bytes, their times RFC 3339 in UTC.
//
// It stands apart from the server so that the command line links neither its router nor its metrics: they cost each
// command memory and time before its first line.
package rest
