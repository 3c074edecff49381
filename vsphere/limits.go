package vsphere

import "time"

const (
	// callTimeout ends a single call that a vCenter does not answer; tasks are waited for as long as they run.
	callTimeout = 2 * time.Minute
	// destroyTimeout is for tidying up after a caller that gave up.
	destroyTimeout = time.Second
	// queryTimeout is for one page of changed areas, which an ESXi host reads from its tracking file.
	queryTimeout = 10 * time.Minute
	// undoTimeout bounds what is still done after the caller gave up.
	undoTimeout = 10 * time.Minute
	// standardKeepAlive is well under the 30 minutes after which a vCenter ends an idle session.
	standardKeepAlive = 5 * time.Minute

	// A task is asked for its state with growing pauses: quick ones end quickly, long ones cost few calls.
	firstPoll = 20 * time.Millisecond
	mostPoll  = time.Second
	// pollFailures is how many times in a row asking may fail before the wait is given up; the task goes on.
	pollFailures = 8

	// readSize is the largest read that vCenter serves reliably while several disks run.
	readSize = 2 << 20
	// curlConnections is how many HTTPS reads of one disk pay off.
	curlConnections = 4
	// vddkConnections: several to the same file fight for it in the host.
	vddkConnections = 1
	// curlTimeout is the time in seconds after which nbdkit gives up one HTTPS request.
	curlTimeout = "120"

	// httpsPort is where a vCenter listens if its URL names no port.
	httpsPort = "443"

	// passwordMost is more than any password, and less than a file given by mistake.
	passwordMost = 4096
)
