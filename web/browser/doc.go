// Package browser drives Debian's Chromium against a real daemon: for the tests of the page, which are in this folder,
// and for the program that measures it (scripts/benchpage).
//
//	chromium.go   the browser: found, started, ended
//	tab.go        one tab: go to an address, wait until something is true of it, press keys, click, take a picture
//	find.go       what is on the page, by role and name, as a person or a screen reader finds it
//	daemon.go     a daemon and a rehearsal vCenter: started, ended, started again at the same address
//	load.go       jobs of other copy tools, which are updated many times a second
//
// It knows the page only as a user does, and the API. Nothing here is part of the daemon.
package browser
