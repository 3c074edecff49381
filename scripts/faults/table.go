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
	return slices.Concat(ofSources(), ofTargets(), ofServices(), ofDaemon(), ofOwners(), ofWrites(), ofRecords(),
		ofSnapshots(), ofReports(), ofHistory(), ofAccess(), ofReaders(), ofNodes(), ofLinks(), ofLeases())
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
		{number: "F30", title: "MariaDB is down or hangs", how: "-", reason: "that is F100 and F101"},
		{number: "F31", title: "MariaDB refuses", how: "-", reason: "that is F102"},
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

// ofOwners are faults by which one target would get the bytes of two disks.
func ofOwners() []fault {
	return []fault{
		tried("F47", "two VMs would get one file", "names that become one folder name; one --target for two jobs",
			in("job", "TestAssignGivesEachDiskOneTarget"),
			in("volumes", "TestAVolumeOfAnotherVMIsRefusedByEachOfItsNames",
				"TestATargetOfAJobThatHasNotBegunIsRefusedAtAccept", "TestTwoDisksOfAJobHaveTwoTargets"),
			in("cmd/vmferryd", "TestStories")),
		tried("F48", "two URIs name one export", "cases, escapes and dots in URIs",
			in("nbd", "TestAllWaysToWriteOneExportAreOneText"),
			in("volumes", "TestExportsAreComparedByWhatTheirURIsMean")),
		tried("F49", "a path leads out of the allowed folders by the time it is used",
			"a folder or file becomes a link while its job waits",
			in("volumes", "TestAPathThatBecameALinkIsNotFollowed")),
		tried("F50", "--purge finds another file at the path", "another file, a link, a link to a stranger's file",
			in("volumes", "TestOnlyWhatTheJobMadeIsPurged")),
		tried("F51", "a target holds data of others, or an image", "a partition table, a qcow2, the mark of a stranger",
			in("volumes", "TestATargetWithDataIsNotFree", "TestWhatAppearedAfterTheClaimIsNotOverwritten"),
			in("nbd", "TestATargetThatIsAnImageIsRefused")),
		tried("F52", "an image of another format would be copied as a disk, or a dash taken for a file",
			"qcow2, vmdk, vhdx and others; -",
			in("nbd", "TestAnImageIsRefusedWithTheCommandThatServesWhatItHolds", "TestADashIsNoDisk"),
			in("cmd/vmferryd", "TestStories")),
		tried("F53", "QEMU writes to what vmferry copies, or vmferry to what QEMU writes", "qemu-io and qemu-nbd",
			in("nbd", "TestQEMUCannotWriteToWhatACopyUsesAndCanReadIt",
				"TestASourceThatQEMUWritesIsRefusedAndOneThatItReadsIsNot"),
			in("volumes", "TestAFileThatQEMUWritesIsNoTarget", "TestATargetIsKeptFromQEMUAsLongAsItIsOpen")),
		tried("F54", "a VM is named as another one's reference or UUID",
			"a VM named vm-29; a reference that is used again",
			in("vsphere", "TestANameThatLooksLikeAReferenceOrUUIDIsLookedUpBothWays",
				"TestAReferenceThatLeadsToAnotherVMNowIsRefusedBeforeAnythingIsDone")),
	}
}

// ofWrites are faults by which a target is not what a job left.
func ofWrites() []fault {
	return []fault{
		tried("F55", "others write to a target between two rounds", "7 bytes by dd; with mtime set back; by a mapping",
			in("actors", "TestAWriteOfOthersWhileAJobWaitsForItsCutoverMakesTheLastRoundFull"),
			in("volumes", "TestAWriteOfOthersShowsBeforeTheNextRound", "TestOnlyTheTargetThatWasOpenedIsConfirmed",
				"TestAWriteRightAfterTheStampShows"),
			in("cmd/vmferryd", "TestStories")),
		tried("F56", "others write to a complete disk of a job that failed", "a write before the retry",
			in("actors", "TestARetryCopiesADiskInFullThatOthersHaveWrittenTo")),
		tried("F57", "others write between two attempts", "a write while the job is paused",
			in("volumes", "TestAWriteBetweenTwoAttemptsIsNoticed")),
		tried("F58", "the daemon is killed after the plan, and the target is replaced",
			"another file at the path; garbage of the same size in the file",
			in("volumes", "TestAHandleIsRefusedForAnotherTargetThanTheJobKnows",
				"TestGarbageThatWasPutIntoAPreparedTargetIsNoticed",
				"TestAWriterThatWasKilledIsNoWriteOfOthersToItsOwnJob",
				"TestACopyThatBeginsAnewWritesZerosToATargetThatWasMade"),
			in("transfer", "TestACopyThatRefusesItsCheckpointBelievesNoZeros")),
		tried("F59", "a target is moved away, made again or cut short while it is copied",
			"rename, a new file, truncate",
			in("actors", "TestAJobWhoseTargetIsTakenAwayWhileItIsCopiedFails",
				"TestARoundIsNotCommittedOverAReplacedTarget"),
			in("volumes", "TestOnlyTheTargetThatWasOpenedIsConfirmed",
				"TestAfterARestartOnlyTheTargetOfTheRoundIsConfirmed")),
		tried("F60", "a device is another one between two rounds",
			"a loop device attached to another file; serial numbers, diskseq, boots",
			in("volumes", "TestALoopDeviceIsKnownByItsFile", "TestWhichVolumesAreTheSame", "TestWhatTwoStampsTell")),
		tried("F61", "a checkpoint is used with another target", "export A, then export B; another file at the path",
			in("nbd", "TestACheckpointOfOneExportIsNotThatOfAnother",
				"TestWithoutAnIdentityACheckpointBelongsToItsTarget",
				"TestACheckpointOfAnEarlierVersionOfFilesIsGoodAndOneOfAnExportSaysWhyNot")),
		tried("F62", "our own writes look like those of others",
			"an incremental round is cancelled, or its writer killed",
			in("actors", "TestAfterAnIncrementalRoundThatWasCancelledTheNextIsIncremental"),
			in("volumes", "TestAWriterThatWasKilledIsNoWriteOfOthersToItsOwnJob")),
		tried("F63", "a target's server fails for a moment while a round is planned", "it hangs up once",
			in("actors", "TestATargetServerThatHangsUpOnceIsTriedAgain",
				"TestAShortFailureOfATargetServerKeepsTheSet")),
	}
}

// ofRecords are faults of what is recorded.
func ofRecords() []fault {
	return []fault{
		tried("F64", "a bit of the journal changes", "each bit of a row; bytes of pages",
			in("store", "TestAChangedBitOfARowIsNotBelieved", "TestAJournalWithADamagedRowDoesNotOpen",
				"TestARowThatIsDamagedLaterIsNotBelieved", "TestAChangedByteOfAPageIsNoticedOrHarmless")),
		tried("F65", "the journal's log is lost, cut, or of another journal",
			"SIGKILL, then files removed, cut, swapped",
			in("store", "TestAJournalThatLostWritesIsRefused", "TestAMarkThatCannotBeReadIsNotAMissingOne",
				"TestEachWriteIsMarked")),
		tried("F66", "an old copy of the journal is put in place", "a backup without its mark",
			in("store", "TestNothingOfABackupIsBelievedOfTargets")),
		tried("F67", "the state directory is lost, and a job id used again",
			"the snapshot of the first job is still there",
			in("actors", "TestAJobWhoseStateWasLostDoesNotAdoptTheSnapshotOfTheOneBefore")),
		tried("F68", "a job id is used again after delete", "the same id, round and snapshot",
			in("store", "TestCheckpointSets", "TestAVolumeDoesNotNameADeletedJob")),
		tried("F69", "records of earlier versions know no owners", "journals that earlier versions wrote",
			in("store", "TestTargetsOfEarlierVersionsGetRows", "TestRecordedJournalsLoadForEver")),
	}
}

// ofSnapshots are faults of snapshots and of the disks that they freeze.
func ofSnapshots() []fault {
	return []fault{
		tried("F70", "a snapshot of our name is not ours", "of another node, job, round or version, of a person",
			in("vsphere", "TestASnapshotOfAnotherNodeJobOrRoundIsNotTakenForOurs",
				"TestASnapshotThatAnotherNodeTookForACopyOfTheJobIsNotAdopted"),
			in("actors", "TestOnlySnapshotsOfThisNodeThatNoJobHoldsAreRemoved")),
		tried("F71", "a server returns names of snapshots in another form", "/ as %2f",
			in("vsphere", "TestASnapshotOfAVersionWithoutMarksIsFoundByNameOnItsNodeOnly",
				"TestOurSnapshotsAreListedWithNodeAndMark")),
		tried("F72", "another program removes the snapshot during a copy", "it is removed",
			in("vsphere", "TestASnapshotThatAnotherProgramRemovedIsMissed"),
			in("actors", "TestARoundWhoseSnapshotAnotherProgramRemovedIsNotCommitted")),
		tried("F73", "a change ID goes back within its epoch", "a revert of the VM",
			in("job", "TestAChangeIDThatIsNotNewerThanTheLastOneMakesTheDiskGoFull"),
			in("vsphere", "TestChangeIDsThatAreNotNewerThanTheLastOnesMakeADiskGoFull")),
		tried("F74", "disks are added, removed, replaced or grown between rounds", "while the VM runs",
			in("vsphere", "TestASnapshotShowsDisksThatWereAddedRemovedReplacedOrGrown",
				"TestAnAddedAndAGrownDiskAreCopiedExactly"),
			in("job", "TestDisksThatAreNotThoseOfTheJobSayWhatToDo",
				"TestADiskThatWasAddedGetsItsTargetFromItsFirstPlanAndKeepsIt")),
		tried("F75", "a change ID stops being good while a round is planned", "the query for changed areas is refused",
			in("actors", "TestAChangeIDThatIsNoLongerGoodTurnsTheRoundIntoAFullOne",
				"TestARetryOfOneDiskIsRefusedIfAnotherCanNoLongerMoveOnlyItsChanges",
				"TestAnIncrementalJobIsRefusedIfItsChangeIDsAreNoLongerGood")),
		tried("F76", "the VM is reverted to before what a failed round wrote", "change IDs between two rounds",
			in("job", "TestModeForSaysWhyADiskGoesFull"), in("volumes", "TestWhatALaterRoundWroteIsRemembered")),
		tried("F77", "another disk is served under the URI of a target", "between two rounds",
			in("transfer", "TestAnotherDiskUnderTheURIOfATargetIsNoticed")),
		tried("F78", "a device is another one than before", "loop devices, on files and on devices",
			in("volumes", "TestAnotherDeviceUnderItsNameIsNotOverwritten",
				"TestALoopDeviceOnALoopDeviceIsOneVolumeWithIt",
				"TestALoopDeviceWhoseFileCannotBeOpenedIsATarget")),
		tried("F79", "the daemon is upgraded while jobs wait, copy or verify", "journals of the version before",
			in("volumes", "TestAfterAnUpgradeTheNextRoundIsIncremental",
				"TestAfterAnUpgradeDevicesAndExportsAreKnown", "TestAfterAnUpgradeARoundThatWasCutOffGoesOn",
				"TestAfterAnUpgradeAWriteDuringTheVerificationShows"),
			in("store", "TestRecordedJournalsLoadForEver")),
		tried("F80", "a volume is released, and its job is retried", "release between the two",
			in("volumes", "TestAJobThatWasRetriedAfterAReleaseOwnsItsVolumeAgain")),
	}
}

// ofReports are faults of what reports say, of patience, of supervision and of requests.
func ofReports() []fault {
	return []fault{
		tried("F81", "vCenter, source or target is away for 3 h 50 min, in a last round 9 min", "virtual time",
			in("actors", "TestAJobWaitsForWhatIsUnavailableAndGoesOnByItself")),
		tried("F82", "vCenter, source or target is away beyond the patience", "virtual time",
			in("actors", "TestBeyondThePatienceAJobFailsAndNamesSinceWhenAndTheKey"),
			in("app", "TestAVCenterThatStaysAwayFailsAJobAndARetryGoesOn")),
		tried("F83", "the vCenter or a source is away in a full, incremental or last round",
			"its connections are cut and refused, or hang; SIGKILL",
			in("app", "TestAVCenterThatIsAwayIsWaitedForInEveryRound",
				"TestASourceThatIsAwayIsWaitedForInEveryRound")),
		tried("F84", "a server takes a request and does not answer", "SIGSTOP, virtual time",
			in("actors", "TestACallWithoutAnAnswerShowsWithinSixSeconds", "TestASourceThatHangsShowsWithinSixSeconds"),
			in("nbd", "TestTheMeterNamesTheSideThatDoesNotAnswer",
				"TestTheMeterNamesASideThatAcceptsNoConnection")),
		tried("F85", "a restart or resume makes a false speed",
			"checkpoint, permit, restart of the daemon, late samples",
			in("report", "TestWhatWasThereBeforeIsNoSpeed", "TestARestartOfTheDaemonIsNoSpeed",
				"TestSamplesAreOfTheTimeAtWhichTheyWereTaken", "TestNumbersAreWhatReallyMoved")),
		tried("F86", "a root actor panics", "Jobs, transfers, Aggregator",
			in("actors", "TestAPanicOfAnActorWithoutAParentEndsTheNodeAndTheNextGoesOn"),
			in("app", "TestADaemonWhoseActorJobsPanicsEndsWithAReasonAndTheNextGoesOn")),
		tried("F87", "a job's actor panics at each start", "a panic on purpose",
			in("actors", "TestAJobThatPanicsAtEachStartIsRevivedWithPausesAndThenStandsStill",
				"TestWhileAJobStandsStillAllOthersGoOn",
				"TestAJobThatStandsStillInTheMiddleOfItsCopyKeepsItsSnapshotAndGoesOnWhereItWas")),
		tried("F88", "retries, limits and cancels at once, on a slow journal", "random moments",
			in("actors", "TestEveryQueuedJobIsAdmittedInTheEndAndNeverTooMany")),
		tried("F89", "a disk fails at a random moment while the guest writes, and the job is retried",
			"cancel, SIGKILL, ENOSPC, EPERM, restart of the daemon",
			in("actors", "TestWhateverARoundLeavesTheRetryEndsEqual", "TestNothingIsKeptThatMayHaveChanged",
				"TestARoundOfAnotherJobEndsWhatWasKept"),
			in("nbd", "TestWhatWasKeptIsLookedAt")),
		tried("F90", "the vCenter's password is wrong", "another password in its file",
			in("app", "TestAWrongPasswordMakesOneLoginAndIsToldOnce")),
		tried("F91", "the vCenter dies or is not trusted", "it is closed; another thumbprint",
			in("app", "TestAVCenterThatIsNotTrustedOrGoneOrNotThereIsToldAsItIs")),
		tried("F92", "the Redis master dies", "SIGKILL of the master of a Sentinel",
			in("store", "TestAFailOverBySentinelsIsSurvived")),
		tried("F93", "Redis refuses one command", "a user without that right",
			in("store", "TestARefusalIsSteadyAndNamesTheCommandAndTheKey")),
		tried("F94", "an older program meets a newer journal", "a higher version of its tables",
			in("store", "TestAnOlderProgramNamesBothVersionsAndTheCommandThatGoesBack")),
		tried("F95", "a request that can never work", "20 inputs, with and without a key",
			in("cmd/vmferryd", "TestARequestThatCannotWorkMakesNoJobAndChangesNothing",
				"TestAWrongPasswordEndsRunWithFourAndMakesNoJob", "TestAJobForAVCenterThatIsAwayIsAccepted")),
		tried("F96", "an nbds server is of an unknown authority, another host, expired, or without TLS",
			"an authority of the test",
			in("nbd", "TestOnlyAVerifiedServerIsReadFromAndWrittenTo")),
		tried("F97", "nbdkit's output has old lines, unknown lines, or is about the other side", "real servers",
			in("nbd/kit", "TestAFailureOfTheTargetIsNotToldAsAnOldOneOfTheSource", "TestATextThatIsNotKnownIsTold",
				"TestAServerThatIsKilledWhileItReadsIsNamed")),
		tried("F98", "a file is too large for its file system", "ext4 with small blocks",
			in("volumes", "TestAFileThatIsTooLargeForItsFileSystemIsNoLackOfRoom")),
		tried("F99", "the daemon is lost and comes back while a person watches", "stopped and started",
			in("cmd/internal/cli", "TestWatchSaysThatTheDaemonIsLostAndBack",
				"TestWithoutTheDaemonNothingLooksAsIfItMoved")),
	}
}

func ofHistory() []fault {
	const copies = "TestWhateverHappensToMariaDBACopyGoesOnAndTheHistoryIsRightAgainSoon"
	return []fault{
		tried("F100", "MariaDB dies while jobs run", "SIGKILL, and a start",
			in("app", copies),
			in("store/history", "TestAMariaDBThatHangsOrIsKilledHoldsACallForSecondsOnlyAndIsFilledWhenItIsBack")),
		tried("F101", "MariaDB hangs while jobs run", "SIGSTOP, SIGCONT",
			in("app", copies),
			in("store/history", "TestAMariaDBThatHangsOrIsKilledHoldsACallForSecondsOnlyAndIsFilledWhenItIsBack")),
		tried("F102", "MariaDB is read-only, refuses the user or a right, or has no connection left",
			"read_only, another password, REVOKE, max_connections, a row and a table that are locked (1205)",
			in("app", copies),
			in("store/history", "TestAMariaDBThatRefusesSaysWhatToDoAndIsRightAgainAtOnce"),
			in("actors", "TestAllRowsAreRightTenSecondsAfterTheirDatabaseIsBack")),
		tried("F103", "the disk of MariaDB is full while jobs run", "a small tmpfs",
			in("app", "TestAFullDiskOfMariaDBStopsNoCopyAndRoomMakesTheHistoryRight")),
		tried("F104", "MariaDB ends transactions", "KILL in the middle of a batch, deadlocks (1213)",
			in("store/history", "TestConnectionsThatAreKilledInTheMiddleOfABatchLoseNothing",
				"TestATransactionThatADeadlockEndsIsRunAgain")),
		tried("F105", "tables of the history are removed, broken halfway or of the older chain",
			"DROP TABLE, a migration that fails in its middle, columns that are missing, narrow, of other types",
			in("store/history", "TestATableThatWasRemovedIsMadeAgainWithTheKnownJobs",
				"TestADatabaseThatComesBackEmptyGetsItsTablesAndTheKnownJobs",
				"TestAMigrationThatBrokeHalfwayIsRepeated", "TestTablesOfTheOlderChainAreUsedAsTheyAre",
				"TestWhereACollationTakesTwoIDsForOneTheSecondIsRefusedAndNeverMixedUp")),
		tried("F106", "the SQLite file of the history is locked, removed, or no database",
			"BEGIN IMMEDIATE, rm, other bytes",
			in("store/history", "TestAnSQLiteFileThatIsLockedOrNoneSaysWhatToDo",
				"TestADatabaseThatComesBackEmptyGetsItsTablesAndTheKnownJobs")),
		tried("F107", "reports come late, twice, from two writers or from a clock an hour off",
			"shuffled and doubled versions from four writers; another daemon; another node with the same job id",
			in("store/history", "TestTheNewestVersionWinsInWhateverOrderAndHoweverOften",
				"TestARowOfAnotherDaemonIsLeftAlone",
				"TestAJobOfAnotherNodeWithTheSameIDGetsTheRowOnlyWhenTheFirstHasEnded")),
	}
}

func ofAccess() []fault {
	return []fault{
		tried("F108", "the certificate is replaced, half written or gone", "files that change",
			in("http", "TestANewCertificateIsServedWithoutARestart")),
		tried("F109", "a token is revoked while it follows the jobs", "an open stream",
			in("http", "TestARevokedTokenEndsAtOnceWithItsStreams")),
		tried("F110", "the disk is full when a token is made or revoked", "a store that fails",
			in("http", "TestATokenThatCannotBeStoredIsNotGiven")),
		tried("F111", "wrong tokens are sent without end", "two thousand requests",
			in("http", "TestWrongTokensAreLimitedButARightOneIsNot")),
		tried("F112", "a page of another site sends commands", "Origin, Sec-Fetch-Site, Host",
			in("http", "TestAPageOfAnotherSiteCanCommandNothing")),
		tried("F113", "requests that break servers", "31 kinds, with and without tokens",
			in("http", "TestARequestThatBreaksServersIsRefusedAndChangesNothing")),
	}
}

func ofReaders() []fault {
	return []fault{
		tried("F114", "a receiver of a webhook fails, hangs or redirects", "real servers",
			in("webhook", "TestAReceiverThatFailsOrRedirectsIsAskedAgainAndTheOthersDoNotWait")),
		tried("F115", "the daemon is killed before a webhook was told, or the file of webhooks is damaged",
			"a restart; other bytes",
			in("webhook", "TestARestartTellsWhatWasNotToldAndNothingTwice",
				"TestAFileThatIsDamagedOrGoneDoesNotTellOldNews")),
		tried("F116", "a file of speeds is damaged", "other bytes, cut short",
			in("store", "TestAFileOfSpeedsThatIsDamagedLosesOnlyWhatIsDamaged")),
		tried("F117", "a job is deleted while a reader is away", "a stream that is cut and resumed",
			in("http", "TestAWatchLearnsFromASnapshotThatAJobIsGone"),
			in("store", "TestAReaderThatMissesMoreDeletionsThanAreKeptMustSubscribeAnew")),
		tried("F118", "names with markup, formulas or control characters", "in VMs, disks and errors",
			in("http", "TestTheReportOfAJobIsOnePageThatNothingInANameCanChange", "TestNoCellOfATableIsAFormula")),
	}
}

func ofNodes() []fault {
	return []fault{
		tried("F119", "an older VMA is away, hangs, forgets jobs, or says completed while bytes are missing",
			"a stand-in for one, in virtual time",
			in("actors", "TestEachRowOfAnOlderVMASaysWhatWasSeen",
				"TestAVMAThatHangsIsGivenUpAfterATimeAndMakesItsJobUnreachable")),
		tried("F120", "an older VMA answers what is no answer",
			"HTML, 10 MB, nothing, another job, numbers below zero, a redirect",
			in("http", "TestAnAnswerThatIsNotThatOfAVMAIsNotBelieved")),
		tried("F121", "the tunnel of a VMA is cut while a job runs", "a real ssh is killed, and started again",
			in("app", "TestATunnelledVMAMovesTheRowOfItsOMA")),
		tried("F122", "a VMA of ours is killed in the middle of a job", "SIGKILL, and a start",
			in("app", "TestTheRowOfAnOMAShowsThatItsVMAWasKilledAndThatItIsBack"),
			in("actors", "TestThePercentOfAJobDoesNotFallWhenItsNodeWasKilledAndKnowsLess")),
		tried("F123", "a VMA of ours is away, or comes back with another journal", "an end and a start; other reports",
			in("app", "TestAnOMAShowsAndCommandsTheJobsOfItsVMA"),
			in("actors", "TestTheJobsOfOurVMAAreShownAsItTellsThem")),
		tried("F124", "two nodes have a job of the same id", "reports of both",
			in("actors", "TestAnIdOfTwoNodesIsShownOfTheFirst"),
			in("store/history", "TestAJobOfAnotherNodeWithTheSameIDGetsTheRowOnlyWhenTheFirstHasEnded")),
	}
}

func ofLinks() []fault {
	return []fault{
		tried("F125", "the link between two nodes is cut, or the other node is frozen",
			"packets are dropped; a SIGSTOP",
			in("link", "TestAPeerThatIsCutOffIsDownWithinThreeSecondsOnBothSides",
				"TestAFrozenPeerIsDownWithinThreeSeconds", "TestACutLinkComesBackAndNothingIsLostOrDoneTwice")),
		tried("F126", "a peer with a valid certificate attacks", "frames and messages that no node of ours sends",
			in("link", "TestActorsOfTwoProcessesTalkAndASecondPeerCannotHarmThem",
				"TestAFrameThatIsNotSoundIsRefused")),
		tried("F127", "a certificate is wrong, expired, revoked or of another node", "certificates of each kind",
			in("link", "TestACertificateThatIsNotTheNodesIsRefused", "TestRevokingACertificateClosesTheLiveSession",
				"TestARotatedCertificateIsTakenWithoutARestart")),
		tried("F128", "two nodes of different versions are linked", "the version before, and an older one",
			in("link", "TestAPeerOfTheVersionBeforeWorksAndAnOlderOneIsRefusedByName")),
	}
}

func ofLeases() []fault {
	return []fault{
		tried("F129", "an old holder of a volume goes on writing",
			"a writer that never stops, with writes held in its server",
			in("volumes", "TestNoWriteOfAnOldEpochReachesTheNext")),
		tried("F130", "the storage of a target does not answer while its lease ends", "a file system that is frozen",
			in("volumes", "TestAStorageThatDoesNotAnswerEndsNoLease")),
		tried("F131", "an export outlives its node", "SIGKILL of the node",
			in("volumes", "TestAnExportThatSurvivesItsNodeIsEndedAtTheNextStart")),
		tried("F132", "an export dies while it is used", "SIGKILL of its server",
			in("volumes", "TestAnExportThatEndsByItselfEndsItsLease")),
		tried("F133", "the clock jumps while a lease lasts", "the wall clock is set",
			in("volumes", "TestALeaseLastsByAClockThatDoesNotJump")),
		tried("F134", "the journal is lost or older, and epochs would be used again", "backups, removed files",
			in("store", "TestEpochsOfLeasesStartAboveAnyUsed")),
	}
}
