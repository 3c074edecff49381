package vsphere

import "time"

const (
	// callTimeout ends a single call that a vCenter does not answer. A task has no timeout.
	callTimeout = 2 * time.Minute
	// destroyTimeout bounds removing a view from the vCenter after the caller gave up.
	destroyTimeout = time.Second
	// queryTimeout bounds one page of changed areas, which an ESXi host reads from its tracking file.
	queryTimeout = 10 * time.Minute
	// undoTimeout bounds removing a snapshot after the caller gave up.
	undoTimeout = 10 * time.Minute
	// standardKeepAlive is well under the 30 minutes after which a vCenter ends an idle session.
	standardKeepAlive = 5 * time.Minute

	// The state of a task is read with growing pauses: a quick task is seen to end soon, a long one costs few calls.
	firstPoll = 20 * time.Millisecond
	mostPoll  = time.Second
	// pollFailures is how many reads of the state in a row may fail. One more ends the wait, but not the task.
	pollFailures = 8

	// readSize is the largest read in bytes that a vCenter serves reliably while several disks are read.
	readSize = 2 << 20
	// curlConnections is the number of HTTPS connections to one disk beyond which reads get no faster.
	curlConnections = 4
	// vddkConnections is 1 because several connections to the same file compete in the host.
	vddkConnections = 1
	// curlTimeout is the time in seconds after which nbdkit gives up one HTTPS request.
	curlTimeout = "120"

	// httpsPort is where a vCenter listens if its URL names no port.
	httpsPort = "443"

	// passwordRead is in bytes: enough to see that a file is too large for a password.
	passwordRead = 8192
)
