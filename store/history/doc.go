// Package history keeps the tables that the GUI and the reports of the older chain read: replication_jobs, vm_disks,
// device_mappings and cbt_history, in MariaDB or in an SQLite file. It is a projection: the truth is the journal,
// nothing here is ever read to decide what a job does, and the tables may be gone, slow, full or read-only.
// docs/history.md says what each column means.
//
//	Record(entries)
//	    open, if the last call failed:  migrate, read which columns there are
//	    in one transaction, for each entry that was not written yet:
//	        vmferry_jobs      UPDATE ... WHERE id = ? AND (its version is older), else INSERT; a duplicate key: stale
//	        replication_jobs  UPDATE, else INSERT, of the columns that exist, with values that fit
//	        vm_disks, device_mappings, cbt_history  likewise, of what changed
//
// One text of SQL serves both databases: no upsert, no JSON, no partial index. Times are bound as text in UTC, with six
// digits after the point, so that they are the same and sort alike in both.
//
// Tables of the older chain are used as they are. Only Config.Alter adds columns and an index to them; nothing is ever
// removed or changed there. What vmferry must know of a row beside it is in tables of its own, vmferry_jobs and
// vmferry_disks.
//
// Package history knows no actor, no HTTP and no journal.
package history
