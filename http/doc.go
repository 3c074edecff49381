// Package http serves the daemon's API over HTTP: jobs, live events, the compatibility routes of older tools, health,
// metrics and the API's own description. Bodies and the client that the command line uses are in http/rest.
//
// A request passes these steps; each of them may answer with a problem and end it:
//
//	guard     name of the host, headers; turns a panic into an answer
//	gate      origin, token, role, how often; a line in the log for each command
//	body      size, time, type, strict JSON
//	huma      schema of the route's parameters and body
//	route     reads Reports, or hands a command to Commands
//	problem   any error -> one table (code -> kind, status, title) -> application/problem+json
//
// Routes with a frozen form (compat.go), health, metrics and the event stream do not use huma; openapi.go adds them to
// the description.
//
// A listener that Open marks asks for no token: whoever reaches it is an admin. All others ask for the roles in
// access.go. Tokens and logins are in the journal, and in memory as long as the Handler lives (tokens.go).
//
// The package shows the reports that Reports has and passes commands on. Its own state is small and can be lost: open
// streams, encoded reports, the number of restarts. It decides nothing about a job. It must not know where
// reports come from or what executes a command; ports.go has the interfaces to both.
//
// Each request runs in a goroutine of net/http, and an event stream stays in it to its end. A slow reader of a stream
// delays no other. The Handler has one goroutine more, which counts restarts; Close ends it and the streams.
package http
