// Package store keeps state: the truth in a Journal, what the world may see in projections.
//
//	actors -> Journal   SQLite file: states, events, checkpoint sets; durable before anybody acts on it
//	       -> Memory    newest report of each job, recent reports, readers that follow (SSE, CLI)
//	       -> Redis     the same reports for other programs: hash, stream, pub/sub
//
// A projection can be lost at any time and is filled again by publishing the same reports. The package knows the words
// of package job and how to write them down. It must not know actors, vCenters, bytes of disks or HTTP, and it decides
// nothing about a job, save which of two writers came first.
package store
