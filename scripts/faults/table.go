package main

// in makes tests of one package.
func in(pkg string, names ...string) (out []test) {
	for _, n := range names {
		out = append(out, test{pkg, n})
	}
	return out
}

const crash = "nbd/crash"

// table is every fault.
func table() []fault {
	return append(append(ofSources(), ofTargets()...), append(ofServices(), ofDaemon()...)...)
}

func ofSources() []fault {
	return []fault{
		{
			number: "F1", title: "the daemon or a copy is killed at random", how: "SIGKILL, again and again",
			tests: append(in("app", "TestAKilledDaemonGoesOnWhereItWas"),
				in(crash, "TestACopyThatIsKilledAtAnyMomentGoesOnAndEndsEqual")...),
		},
		{
			number: "F2", title: "it is killed at an exact step",
			how: "SIGKILL when a flush, checkpoint, rename or removal is seen; a stop of the node after each event",
			tests: append(in(crash, "TestACopyThatIsKilledAtAnyMomentGoesOnAndEndsEqual"),
				in("actors", "TestADaemonThatIsStoppedAnywhereGoesOn")...),
		},
		{
			number: "F3", title: "servers outlive the daemon", how: "SIGKILL of the daemon; what it left is looked for",
			tests: in("app", "TestAKilledDaemonGoesOnWhereItWas"),
		},
		{
			number: "F4", title: "the server of a source dies", how: "SIGKILL of nbdkit",
			tests: append(in("app", "TestAVMMovesThroughAKilledReaderAndACutover"),
				in("nbd", "TestAfterTheSourceIsKilledTheCopyGoesOnWhereItWas")...),
		},
		{
			number: "F5", title: "the source fails at random", how: "nbdkit's error filter",
			tests: in(crash, "TestErrorsAtRandomAreTriedAgain"),
		},
		{
			number: "F6", title: "parts of the source can't be read", how: "nbdkit's ddrescue filter",
			tests: in(crash, "TestRangesThatCannotBeReadAreNamedAndAllOthersCopied"),
		},
		{
			number: "F7", title: "a source that fails is mended", how: "the same, then without the filter",
			tests: in(crash, "TestRangesThatCannotBeReadAreNamedAndAllOthersCopied",
				"TestASourceThatFailsAlwaysIsGivenUpAndNothingIsCalledCopied"),
		},
		{
			number: "F8", title: "a server stalls", how: "SIGSTOP; a handshake that never ends",
			tests: append(in(crash, "TestASourceThatStallsIsGivenUpInTime"),
				in("nbd", "TestAServerThatHangsIsGivenUpAfterTheDeadline",
					"TestAServerThatNeverAnswersTheHandshakeIsGivenUp")...),
		},
		{
			number: "F9", title: "a source is slow, or answers late", how: "nbdkit's rate and delay filters",
			tests: append(in(crash, "TestASourceThatAnswersLateIsNoSourceThatStalls"),
				in("nbd", "TestTheLoadNamesTheSlowSide")...),
		},
		{
			number: "F10", title: "capabilities are missing, or change",
			how:   "a server with each of them switched off, and another after a reconnect",
			tests: in("nbd", "TestEverySetOfCapabilitiesGivesTheSameBytes", "TestAServerCanComeBackAsAnother"),
		},
		{
			number: "F11", title: "a source takes one connection only", how: "nbdkit's limit filter",
			tests: in("nbd", "TestAServerThatTakesOneConnectionIsContentWithOne"),
		},
		{
			number: "F12", title: "the source's size changes between attempts", how: "the image grows or shrinks",
			tests: in(crash, "TestASourceOfAnotherSizeDoesNotGoOn"),
		},
		{
			number: "F13", title: "a client that ends takes its server along",
			how:   "a copy is cancelled; the same server must serve the next",
			tests: in("nbd", "TestACancelledCopyEndsSoonAndCanGoOn"),
		},
	}
}

func ofTargets() []fault {
	return []fault{
		{
			number: "F14", title: "the target is full", how: "a small tmpfs",
			tests: in(crash, "TestATargetWithoutRoomFailsTheCopyAndRoomLetsItGoOn"),
		},
		{
			number: "F15", title: "the target fails late, at the flush", how: "a loop device on a tmpfs that is too small",
			tests: in(crash, "TestRoomThatIsMissedOnlyByTheFlushFailsTheCopy",
				"TestAFlushThatFailedIsNotBelievedTheSecondTime"),
		},
		{
			number: "F16", title: "the target loses what was not flushed",
			how: "a server with a volatile cache that crashes",
			tests: in(crash, "TestATargetThatLosesWhatWasNotFlushedIsFilledByTheSameRun",
				"TestATargetThatLosesWhatWasNotFlushedIsFilledByTheNextRun",
				"TestACacheThatIsLostAgainAndAgainLosesNothing"),
		},
		{
			number: "F17", title: "the target lies about flush", how: "a server that says it has flushed, and crashes",
			tests: in(crash, "TestATargetThatLiesAboutFlushIsFoundOut"),
		},
		{
			number: "F18", title: "the target stores other bytes",
			how: "flipped bits, blocks that changed places, a server that writes something else",
			tests: in(crash, "TestEachOfAThousandFlippedBitsIsFoundAndNamed", "TestBlocksThatChangedPlacesAreFound",
				"TestATargetThatStoresSomethingElseIsFoundOut"),
		},
		{
			number: "F19", title: "an incremental round touches more than changed", how: "the log of the target's server",
			tests: in("nbd", "TestOnlyTheNamedRangesAreReadAndWritten"),
		},
		{
			number: "F20", title: "checkpoints can't be written", how: "their folder is gone",
			tests: in("nbd", "TestACopyThatMustBeRecordedHoldsAndFailsWhenItCannotBe",
				"TestACopyGoesOnWithoutACheckpointThatCannotBeWritten"),
		},
		{
			number: "F21", title: "a checkpoint's fsync fails", how: "an ext4 whose own store is full",
			tests: in(crash, "TestACheckpointWhoseFlushFailsIsNotBelieved"),
		},
		{
			number: "F22", title: "a checkpoint is damaged, old, foreign",
			how: "each byte flipped, each length cut, versions, other disks",
			tests: in(crash, "TestACheckpointThatIsNoGoodIsRefusedAndKeptAside",
				"TestACheckpointOfAnotherDiskIsRefused", "TestWhatIsNoPlainFileIsNoCheckpointAndNotTouched"),
		},
		{
			number: "F23", title: "the power fails",
			how: "an ext4 with journal, checkpoints and targets is shut down without its log",
			tests: append(in("app", "TestPowerThatIsLostCostsNoAcceptedJobAndNoByte"),
				in("store", "TestEveryCommitIsFlushed", "TestWhatWasAcknowledgedSurvivesKill")...),
		},
	}
}

func ofServices() []fault {
	const laterSQL = "MariaDB belongs to the target side's own appliance, which is not built yet; the journal is SQLite"
	return []fault{
		{
			number: "F24", title: "Redis is killed, comes back empty or changed", how: "SIGKILL, FLUSHALL, keys removed",
			tests: append(in("store", "TestARedisThatCameBackIsMadeRight"),
				in("app", "TestAVMMovesThroughAKilledReaderAndACutover")...),
		},
		{
			number: "F25", title: "Redis is full", how: "maxmemory",
			tests: in("store", "TestAFullRedisIsToldAndLeftWhole"),
		},
		{
			number: "F26", title: "Redis hangs", how: "SIGSTOP",
			tests: append(in("store", "TestARedisThatDoesNotAnswerCostsHalfASecond",
				"TestAStoppedRedisThatGoesOnIsFilled"),
				in("actors", "TestASinkThatIsSlowOrDeadDelaysNothingAndIsCaughtUp")...),
		},
		{
			number: "F27", title: "Redis became a replica", how: "REPLICAOF",
			tests: in("store", "TestAFullRedisIsToldAndLeftWhole"),
		},
		{number: "F28", title: "Redis' log is full", how: "-", reason: "Redis ends itself then: that is F24"},
		{
			number: "F29", title: "a reader of reports is slow", how: "one that does not read; one that comes back",
			tests: append(in("store", "TestASlowReaderGetsTheNewestOfEachJob", "TestAReaderGoesOnWhereItWas",
				"TestTheStreamIsBounded"), in("http", "TestASlowClientIsDroppedAndHoldsNobodyUp")...),
		},
		{number: "F30", title: "MariaDB is down or hangs", how: "-", reason: laterSQL},
		{number: "F31", title: "MariaDB refuses", how: "-", reason: laterSQL},
		{
			number: "F32", title: "the vCenter's session ends", how: "before, during and after a task; idle",
			tests: in("vsphere", "TestASessionThatEndsBeforeDuringOrAfterATaskIsNotNoticed",
				"TestAnIdleSessionExpiresAndOneThatIsKeptAliveDoesNot", "TestManyQueriesAtOnceLogInAgainOnce"),
		},
		{
			number: "F33", title: "the vCenter is down, slow, or its tasks fail",
			how: "a closed port, 503, tasks that fail or never answer",
			tests: append(in("vsphere", "TestATaskThatFailsIsAnErrorOfItsKind", "TestAWaitOutlivesAnswersThatFail",
				"TestACallThatTheVCenterDoesNotAnswerEndsWithItsContext"),
				in("app", "TestAVCenterThatIsDownIsTriedAgainAndAWrongPasswordIsNot")...),
		},
		{
			number: "F34", title: "somebody changes the VM meanwhile",
			how: "change tracking reset, disks grown, foreign snapshots, snapshots removed",
			tests: append(in("vsphere", "TestAResetMakesChangeIDsInvalid",
				"TestASnapshotOfAnotherWithOurNameIsNotAdoptedAndNotRemoved",
				"TestRemovingASnapshotInTheMiddleKeepsTheOthersAndTheLiveState"),
				in("job", "TestModeForSaysWhyADiskGoesFull")...),
		},
	}
}

func ofDaemon() []fault {
	return []fault{
		{
			number: "F40", title: "the clock jumps", how: "a clock that goes back",
			tests: append(in("store", "TestEpochsGrowEvenIfTheClockGoesBack"),
				in("job", "TestAMillionWordsInAnyOrderLetNothingFall")...),
		},
		{
			number: "F41", title: "SIGTERM in any phase", how: "phases that a slow vCenter makes long",
			tests: append(in("app", "TestSIGTERMInAnyPhaseEndsInTimeAndTheJobGoesOn"),
				in("actors", "TestADaemonThatIsStoppedAnywhereGoesOn")...),
		},
		{
			number: "F42", title: "other signals, a full log, no reader",
			how: "SIGHUP, SIGPIPE, SIGUSR1; /dev/full; a closed pipe", tests: in("cmd/vmferryd", "TestStories"),
		},
		{
			number: "F43", title: "a thousand jobs at once", how: "they wait behind a vCenter that does not answer",
			tests: in("app", "TestAThousandJobsWaitForTheirTurnAndCostLittle"),
		},
		{
			number: "F44", title: "no file descriptors are left", how: "prlimit on the running daemon",
			tests: in("app", "TestFewFileDescriptorsFailRequestsAndNotTheDaemon"),
		},
		{
			number: "F45", title: "many event streams, some stuck", how: "200 readers; one that does not read; too many",
			tests: in("http", "TestTwoHundredClientsSeeTheSameLastReport", "TestASlowClientIsDroppedAndHoldsNobodyUp",
				"TestTooManyStreamsAreRefusedWithATimeToComeBack"),
		},
		{
			number: "F46", title: "giant, malformed and slow requests",
			how: "bodies and headers too large, too slow, without end",
			tests: in("http", "TestBodiesThatWouldCostTooMuchAreRefused", "TestABodyWithoutEndIsCutOff",
				"TestHeadersThatComeTooSlowlyOrAreTooManyEndTheConnection"),
		},
	}
}
