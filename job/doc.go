// Package job holds the words that all other packages use (ids, specs, phases, disks, extents, checkpoint sets, limits,
// counters, kinds of error) and the state machine of a job. It is pure: time comes in as an argument. It must not know
// a network, a disk, a vCenter, an actor or a report, and it imports only the standard library.
//
// # A job
//
// A job moves all disks of one VM to their targets. A caller submits a Spec; then facts about the job come in as
// events. State.Apply folds an event into the state and returns the actions that follow. The daemon carries out an
// action and hands the result back as an event:
//
//	event -> Apply -> new state, actions -> the journal saves event and state -> the daemon acts -> event -> ...
//
// # Phases
//
//	phase      what it does                          action          answer           failure  restart of the daemon
//	---------  ------------------------------------  --------------  ---------------  -------  ---------------------
//	queued     waits until the node runs fewer jobs  -               Admitted         -        waits again
//	           than its limit
//	preflight  finds the VM, its disks and the base  Inspect         Inspected        step     repeats the action
//	           and claims the targets; changes
//	           neither the VM nor a target
//	cbt        switches change tracking on           EnableCBT       CBTReady         step     repeats the action
//	snapshot   takes one snapshot over all disks     TakeSnapshot    SnapshotTaken    step     repeats it, same mark
//	connect    opens or makes the targets, decides   PrepareTargets  TargetsPrepared  step     repeats the action
//	           full or incremental for each disk;
//	           then asks how much each disk moves    PlanReads       Planned          step     repeats PlanReads only
//	transfer   copies all disks at the same time     MoveDisk        DiskMoved        disk     next attempt
//	verify     reads all targets back; with verify   VerifyDisk      DiskVerified     disk     next attempt
//	           mode none it does nothing
//	commit     records the checkpoint set; then, if  CommitSet       SetCommitted     step     repeats the action
//	           this is not the last round, removes
//	           the snapshot                          DropSnapshot    SnapshotGone     removal  repeats DropSnapshot
//	waiting    has no snapshot; the targets equal    -               a command        -        waits again
//	           the last one
//	cleanup    removes the snapshot; after a cancel  DropSnapshot    SnapshotGone     removal  repeats the action
//	           with purge also the targets that the
//	           job made                              PurgeTargets    TargetsPurged    removal  repeats the action
//	completed, failed and cancelled are the ends. Nothing runs, nothing is repeated.
//
// After commit the last round goes on to cleanup and completed, any other to waiting, and from there to snapshot. Each
// phase before the ends can go on to cleanup. phase.go holds the table of what may follow what.
//
// The column "failure" says what a failure does:
//
//	step     StepFailed. A peer that is unavailable is waited for, see "Patience". Any other failure of a retryable
//	         kind (Unavailable, Timeout, IO) is retried: WakeStep, then StepDue, then the action again. The pauses
//	         grow from 1 s to 1 min. Another kind, or the ninth failure in a row, leads to cleanup and failed.
//	removal  StepFailed. A retryable kind is retried without end. Another kind becomes a note that says what is
//	         left. In cleanup the job then ends as Outcome says. In commit it goes on to cleanup, which tries once
//	         more, and failed; its set stays committed.
//	disk     AttemptFailed. See "Attempts". The other disks go on.
//
// An answer that does not fit the phase or the newest attempt is late. It gives no actions and changes only Seq.
//
// # Rounds, the checkpoint set, the partial set
//
// A round goes from snapshot to commit. Its snapshot is named vmferry-<job>-<round>, and found by the job's random mark
// and the round. With cut-over auto the first round is the last. With cut-over manual the job waits after each round:
// sync runs one more, cutover runs the last.
//
// Each snapshot's disks are compared with those of the job. A disk that was added gets a state without a target: it is
// copied in full, to the target that TargetsPrepared gives it. If the spec names the targets the job fails instead. It
// also fails, with the next step, if a disk was removed, has another size, or is another disk under the same key.
//
// ModeFor decides for each disk whether it moves in full or only what changed since the base. It gives the reason of a
// full copy, which becomes a note: also that others have written to the target (TargetInfo.Foreign). With the option
// strict the job fails for that reason. The mode of the spec counts in the first round; later rounds are auto.
//
// The checkpoint set says for each disk of a VM up to which change ID its target is equal, and which row of the ledger
// of volumes the target has. It is committed as a whole: after all disks are flushed and verified, and while snapshot
// and targets are still what they were; then the snapshot is removed. It is the base of the next round, also of a later
// job. The daemon drops the stored set before the first write of a full copy.
//
// A round that began without a set, or dropped it, and ends without a commit leaves a partial set in the state: the
// disks that are copied, and those that moved only changes, each with the change ID since which its changes must be
// copied. A retry starts from it if there is no committed set. No target of it was read back, so the retry verifies
// these disks as a whole (State.Unverified). No other job starts from it. Planned drops it. If another round wrote to a
// target since, its disk goes full. A retry with fresh ignores both sets.
//
// Of the disks that such a round did not finish, State.Kept names the records of what is durable of them, with the
// change ID of the round's snapshot (kept.go). While that holds, the next round moves all that it would move, but for
// what is durable and has not changed since that snapshot. The disk is verified as if all had been moved. Planned drops
// what is kept: from then on the record of the new round names it.
//
// A retry of certain disks lets only those go full (State.FullOnly): if PrepareTargets finds another disk
// that must, it fails before anything is written.
//
// # Attempts
//
// An attempt is one copy or one verification of one disk. Numbers start at 1 in each round; the first verification has
// the number of the copy.
//
//	pending -> running -> copied -> verifying -> completed
//	running, verifying -> backoff    AttemptFailed of a kind that is retried; WakeDisk, DiskDue, then the next attempt
//	running, verifying -> paused     AttemptFailed of kind Cancelled, after a pause or a cancel
//	running, verifying -> failed     AttemptFailed of another kind, or the patience or budget is used up
//
// A failed attempt has recorded what is durable, and the next one goes on from there. Policies are the pauses and the
// budget, the number of failures in a row that are retried. An attempt that made 64 MiB durable beyond the attempt
// before it counts as the first in a row; a copy that is done resets the count.
//
//	Unavailable, Timeout of a peer          patience, the first retry at once, then 500 ms to 30 s
//	other Unavailable, Timeout              budget 10, the first retry at once, then 500 ms to 30 s
//	Auth, Internal                          likewise
//	IO                                      budget 10, 500 ms to 30 s
//	NoSpace                                 budget 30, 10 s to 2 min: up to an hour
//	all other kinds                         no retry
//
// A pause is between half and all of its length, by a hash of job and disk. When no disk has an attempt, a pause or a
// first attempt to come, the job moves on: paused disks begin their next attempt; else a failed disk fails the job;
// else the next phase begins. So a disk that fails does not end the copies of the others, and a retry finds them done.
//
// # Patience
//
// A failure of kind Unavailable or Timeout that names the peer at which it arose (AttemptFailed.What, StepFailed.What)
// is waited out: the next try follows until the patience ends, however many tries that are. Then the disk or the step
// fails, and the failure names the peer, since when it was waited for, and the key. The state holds the wait (Wait), of
// a step in State.Step and of a disk in DiskState.
//
//	round                             patience                      without one
//	--------------------------------  ----------------------------  -----------
//	last, after a committed one       Options.LastRoundPatience     10 min
//	any other, also a first and last  Options.Patience              4 h
//
// The clock begins with the first failure in a row (or when the peer was heard last before it), anew after progress:
// bytes that an attempt made durable, or read back beyond all attempts before; a step that succeeded; a failure of
// another sort. It stands still while the job is paused, and while no daemon runs. The last try is at the end of the
// patience. A limit changes the patience of a job that waits; it holds from the next failure on.
//
// # Commands
//
//	command  allowed in            what it does
//	-------  --------------------  ----------------------------------------------------------------------------------
//	pause    transfer, verify      StopDisks. The job stays in its phase and keeps its snapshot.
//	resume   transfer, verify      the disks begin their next attempts when the stopped ones have ended
//	cancel   all but the ends      StopDisks or StopStep, then cleanup, then cancelled; if nothing runs, cleanup at
//	                               once. In cleanup it does not change how the job ends. A set whose CommitSet
//	                               succeeds stays committed. purge removes the targets that the job made.
//	sync     waiting               begins one more round, then waits again
//	cutover  waiting               begins the last round
//	retry    failed, cancelled     queues the job again; its rounds and notes stay, its disks are inspected anew
//	delete   the ends              the journal deletes the job; the state machine does nothing
//	limit    all but the ends      the event Limited: changes the limits of the spec, and SetLimits those of attempts
//
// A second pause, resume or cancel is accepted and changes nothing. After a cancel only cancel is allowed. A command
// that is not allowed is an error of kind Conflict that names the allowed ones (State.Allowed).
//
// # Persist, then act
//
// The daemon begins an action only when the state that asks for it is in the journal. After a crash it can't know which
// actions it carried out. So it applies Restarted, which asks again for the action of the phase, begins the next
// attempt at each disk that ran, and leads a job that was being cancelled to cleanup. Restarted.Disks holds the last
// reported numbers, so that bytes sent again are counted. Each action can be repeated:
//
//	Inspect                           reads; claims the targets that it has claimed before
//	VerifyDisk                        only reads
//	PlanReads                         reads; if a change ID is no longer good, it drops the stored set, once or twice
//	EnableCBT                         finds tracking switched on
//	TakeSnapshot                      finds the snapshot by its mark, which was stored before
//	PrepareTargets                    finds the targets that it made and marked
//	MoveDisk                          goes on from the checkpoint; the frozen disk gives the same bytes again
//	CommitSet                         looks at snapshot and targets again, and writes the same set
//	DropSnapshot, PurgeTargets        succeed if there is nothing to remove
//	WakeDisk, WakeStep                a second DiskDue or StepDue is late
//	StopDisks, StopStep, SetLimits    change what runs now; after a crash nothing runs
//
// # What is stored
//
// The journal keeps the newest State of each job and all its events (EncodeEvent), as JSON. A start of the daemon loads
// the states; it replays no events. The fold of the events is the state: tests of this package and of package store
// check it, the latter with journals that earlier versions wrote. So a change of Apply must lead stored events to the
// states that were stored with them, including notes and messages.
//
// Stored words never change. Some are older than the Go names: the events "turn_came" (Admitted), "disk_fell"
// (AttemptFailed), "step_fell" (StepFailed) and "asked" (CommandReceived), and the fields "held" (HeldSnapshot),
// "stopping" (Cancelling), "anew" (FullOnly) and "unproven" (Unverified). Unknown fields are ignored, and missing ones
// are zero. An unknown event is an error of kind Corrupt. Journals from before TargetsPrepared hold Planned alone, with
// the modes of the disks; connect accepts that.
//
// # Conversations
//
// testdata/*.txt are conversations with the state machine. A line is a command. Below it, after four dashes, is the
// answer: the new phase, the disks that changed, notes, the failure, and a line "do" for each action. "nothing" means
// that none of these changed. An error is shown with its kind and its next step. A line that begins with # is a
// comment.
//
//	submit vm= verify= cutover= mode= mark= targets=      admit mark=                    restarted disk= transferred=
//	       patience= last=                                                               mark=
//	inspected disks=2000,2001 absent= uuid=               cbt enabled=                   snapshot ref= disks= change=
//	prepared disks= change= mode= reason= targets=        planned ... to_transfer=       committed, gone, purged
//	                                                      keep= writer= kept=
//	moved disk= attempt= transferred= resumed=            verified disk= attempt=        due disk= attempt=
//	failed disk= attempt= durable= kind= what= message=   step_failed phase= kind= what= ago= message=
//	step_due phase= attempt=                              command <verb> disks= purge= fresh=
//	limit bandwidth= disks= patience=                     wait 1m (moves the clock)
//
// For a new one write only the commands, one empty line between two of them; a _ in a message stands for a space. Where
// disks are listed, size=2000:2GiB, backing=2000:b and unfit=2000:shared make some of them different. The targets in
// targets=2000:/a,2001:/b are those of a spec, or in prepared those of disks that were added, which are made then. With
// mark=none a job is as a version without marks made it. `go test ./job -run Conversations -update` writes the answers.
// Read the diff: it is the test.
package job
