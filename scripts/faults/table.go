package main

import "slices"

// tried is a fault that tests make.
func tried(number, title, how string, tests ...[]test) fault {
	return fault{number: number, title: title, how: how, tests: slices.Concat(tests...)}
}

// in names tests of one package.
func in(pkg string, names ...string) (out []test) {
	for _, n := range names {
		out = append(out, test{pkg, n})
	}
	return out
}

const crash = "nbd/crash"

// table is every fault.
func table() []fault {
	return slices.Concat(ofSources(), ofTargets(), ofServices(), ofDaemon())
}

func ofSources() []fault {
	return []fault{
		tried("F1", "the daemon or a copy is killed at random", "SIGKILL, again and again",
			in("app", "TestAKilledDaemonGoesOnWhereItWas"),
			in(crash, "TestACopyThatIsKilledAtAnyMomentGoesOnAndEndsEqual")),
		tried("F2", "it is killed at an exact step",
			"SIGKILL when a flush, checkpoint, rename or removal is seen; a stop of the node after each event",
			in(crash, "TestACopyThatIsKilledAtAnyMomentGoesOnAndEndsEqual"),
			in("actors", "TestADaemonThatIsStoppedAnywhereGoesOn")),
		tried("F3", "servers outlive the daemon", "SIGKILL of the daemon; what it left is looked for",
			in("app", "TestAKilledDaemonGoesOnWhereItWas")),
		tried("F4", "the server of a source dies", "SIGKILL of nbdkit",
			in("app", "TestAVMMovesThroughAKilledReaderAndACutover"),
			in("nbd", "TestAfterTheSourceIsKilledTheCopyGoesOnWhereItWas")),
		tried("F5", "the source fails at random", "nbdkit's error filter",
			in(crash, "TestErrorsAtRandomAreTriedAgain")),
		tried("F6", "parts of the source can't be read", "nbdkit's ddrescue filter",
			in(crash, "TestRangesThatCannotBeReadAreNamedAndAllOthersCopied")),
		tried("F7", "a source that fails is mended", "the same, then without the filter",
			in(crash, "TestRangesThatCannotBeReadAreNamedAndAllOthersCopied",
				"TestASourceThatFailsAlwaysIsGivenUpAndNothingIsCalledCopied")),
		tried("F8", "a server stalls", "SIGSTOP; a handshake that never ends",
			in(crash, "TestASourceThatStallsIsGivenUpInTime"),
			in("nbd", "TestAServerThatHangsIsGivenUpAfterTheDeadline",
				"TestAServerThatNeverAnswersTheHandshakeIsGivenUp")),
		tried("F9", "a source is slow, or answers late", "nbdkit's rate and delay filters",
			in(crash, "TestASourceThatAnswersLateIsNoSourceThatStalls"), in("nbd", "TestTheLoadNamesTheSlowSide")),
		tried("F10", "capabilities are missing, or change",
			"a server with each of them switched off, and another after a reconnect",
			in("nbd", "TestEverySetOfCapabilitiesGivesTheSameBytes", "TestAServerCanComeBackAsAnother")),
		tried("F11", "a source takes one connection only", "nbdkit's limit filter",
			in("nbd", "TestAServerThatTakesOneConnectionIsContentWithOne")),
		tried("F12", "the source's size changes between attempts", "the image grows or shrinks",
			in(crash, "TestASourceOfAnotherSizeDoesNotGoOn")),
		tried("F13", "a client that ends takes its server along",
			"a copy is cancelled; the same server must serve the next",
			in("nbd", "TestACancelledCopyEndsSoonAndCanGoOn")),
	}
}

func ofTargets() []fault {
	return []fault{
		tried("F14", "the target is full", "a small tmpfs",
			in(crash, "TestATargetWithoutRoomFailsTheCopyAndRoomLetsItGoOn")),
		tried("F15", "the target fails late, at the flush", "a loop device on a tmpfs that is too small",
			in(crash, "TestRoomThatIsMissedOnlyByTheFlushFailsTheCopy",
				"TestAFlushThatFailedIsNotBelievedTheSecondTime")),
		tried("F16", "the target loses what was not flushed", "a server with a volatile cache that crashes",
			in(crash, "TestATargetThatLosesWhatWasNotFlushedIsFilledByTheSameRun",
				"TestATargetThatLosesWhatWasNotFlushedIsFilledByTheNextRun",
				"TestACacheThatIsLostAgainAndAgainLosesNothing")),
		tried("F17", "the target lies about flush", "a server that says it has flushed, and crashes",
			in(crash, "TestATargetThatLiesAboutFlushIsFoundOut")),
		tried("F18", "the target stores other bytes",
			"flipped bits, blocks that changed places, a server that writes something else",
			in(crash, "TestEachOfAThousandFlippedBitsIsFoundAndNamed", "TestBlocksThatChangedPlacesAreFound",
				"TestATargetThatStoresSomethingElseIsFoundOut")),
		tried("F19", "an incremental round touches more than changed", "the log of the target's server",
			in("nbd", "TestOnlyTheNamedRangesAreReadAndWritten")),
		tried("F20", "checkpoints can't be written", "their folder is gone",
			in("nbd", "TestACopyThatMustBeRecordedHoldsAndFailsWhenItCannotBe",
				"TestACopyGoesOnWithoutACheckpointThatCannotBeWritten")),
		tried("F21", "a checkpoint's fsync fails", "an ext4 whose own store is full",
			in(crash, "TestACheckpointWhoseFlushFailsIsNotBelieved")),
		tried("F22", "a checkpoint is damaged, old, foreign",
			"each byte flipped, each length cut, versions, other disks",
			in(crash, "TestACheckpointThatIsNoGoodIsRefusedAndKeptAside", "TestACheckpointOfAnotherDiskIsRefused",
				"TestWhatIsNoPlainFileIsNoCheckpointAndNotTouched")),
		tried("F23", "the power fails", "an ext4 with journal, checkpoints and targets is shut down without its log",
			in("app", "TestPowerThatIsLostCostsNoAcceptedJobAndNoByte"),
			in("store", "TestEveryCommitIsFlushed", "TestWhatWasAcknowledgedSurvivesKill")),
	}
}

func ofServices() []fault {
	const laterSQL = "MariaDB belongs to the target side's own appliance, which is not built yet; the journal is SQLite"
	return []fault{
		tried("F24", "Redis is killed, comes back empty or changed", "SIGKILL, FLUSHALL, keys removed",
			in("store", "TestARedisThatCameBackIsMadeRight"),
			in("app", "TestAVMMovesThroughAKilledReaderAndACutover")),
		tried("F25", "Redis is full", "maxmemory", in("store", "TestAFullRedisIsToldAndLeftWhole")),
		tried("F26", "Redis hangs", "SIGSTOP",
			in("store", "TestARedisThatDoesNotAnswerCostsHalfASecond", "TestAStoppedRedisThatGoesOnIsFilled"),
			in("actors", "TestASinkThatIsSlowOrDeadDelaysNothingAndIsCaughtUp")),
		tried("F27", "Redis became a replica", "REPLICAOF", in("store", "TestAFullRedisIsToldAndLeftWhole")),
		{number: "F28", title: "Redis' log is full", how: "-", reason: "Redis ends itself then: that is F24"},
		tried("F29", "a reader of reports is slow", "one that does not read; one that comes back",
			in("store", "TestASlowReaderGetsTheNewestOfEachJob", "TestAReaderGoesOnWhereItWas",
				"TestTheStreamIsBounded"),
			in("http", "TestASlowClientIsDroppedAndDelaysNoOther")),
		{number: "F30", title: "MariaDB is down or hangs", how: "-", reason: laterSQL},
		{number: "F31", title: "MariaDB refuses", how: "-", reason: laterSQL},
		tried("F32", "the vCenter's session ends", "before, during and after a task; idle",
			in("vsphere", "TestASessionThatEndsBeforeDuringOrAfterATaskIsNotNoticed",
				"TestAnIdleSessionExpiresAndOneThatIsKeptAliveDoesNot", "TestManyQueriesAtOnceLogInAgainOnce")),
		tried("F33", "the vCenter is down, slow, or its tasks fail",
			"a closed port, 503, tasks that fail or never answer",
			in("vsphere", "TestATaskThatFailsIsAnErrorOfItsKind", "TestAWaitOutlivesAnswersThatFail",
				"TestACallThatTheVCenterDoesNotAnswerEndsWithItsContext"),
			in("app", "TestAVCenterThatIsDownIsTriedAgainAndAWrongPasswordIsNot")),
		tried("F34", "an administrator changes the VM meanwhile",
			"change tracking reset, disks grown, foreign snapshots, snapshots removed",
			in("vsphere", "TestAResetMakesChangeIDsInvalid",
				"TestASnapshotOfAnotherWithOurNameIsNotAdoptedAndNotRemoved",
				"TestRemovingASnapshotInTheMiddleKeepsTheOthersAndTheLiveState"),
			in("job", "TestModeForSaysWhyADiskGoesFull")),
	}
}

func ofDaemon() []fault {
	return []fault{
		tried("F40", "the clock jumps", "a clock that goes back",
			in("store", "TestEpochsGrowEvenIfTheClockGoesBack"),
			in("report", "TestAMillionWordsInAnyOrderLetNothingFall")),
		tried("F41", "SIGTERM in any phase", "phases that a slow vCenter makes long",
			in("app", "TestSIGTERMInAnyPhaseEndsInTimeAndTheJobGoesOn"),
			in("actors", "TestADaemonThatIsStoppedAnywhereGoesOn")),
		tried("F42", "other signals, a full log, no reader", "SIGHUP, SIGPIPE, SIGUSR1; /dev/full; a closed pipe",
			in("cmd/vmferryd", "TestStories")),
		tried("F43", "a thousand jobs at once", "they wait for a vCenter that does not answer",
			in("app", "TestAThousandJobsWaitForTheirTurnAndCostLittle")),
		tried("F44", "no file descriptors are left", "prlimit on the running daemon",
			in("app", "TestFewFileDescriptorsFailRequestsAndNotTheDaemon")),
		tried("F45", "many event streams, some stuck", "200 readers; one that does not read; too many",
			in("http", "TestTwoHundredClientsSeeTheSameLastReport", "TestASlowClientIsDroppedAndDelaysNoOther",
				"TestTooManyStreamsAreRefusedWithATimeToComeBack")),
		tried("F46", "giant, malformed and slow requests", "bodies and headers too large, too slow, without end",
			in("http", "TestBodiesThatWouldCostTooMuchAreRefused", "TestABodyWithoutEndIsCutOff",
				"TestHeadersThatComeTooSlowlyOrAreTooManyEndTheConnection")),
	}
}
