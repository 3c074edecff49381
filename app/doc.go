// Package app is the configuration and the wiring: it reads what an operator wrote, puts the parts together and holds
// them while they run. It is the only package that sees all others, and it decides nothing about a job.
//
// A daemon is started in this order and stopped in the reverse one:
//
//	journal -> epoch -> projections (in-process, Redis) -> vCenter -> actors -> HTTP server
package app
