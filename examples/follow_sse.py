#!/usr/bin/env python3
"""Follows all jobs of a vmferry daemon over its event stream. Python 3.9 or newer, standard library only.

    VMFERRY_SERVER=http://127.0.0.1:8081 python3 follow_sse.py
"""
import http.client
import json
import os
import sys
import time
import urllib.error
import urllib.request

SERVER = os.environ.get("VMFERRY_SERVER", "http://127.0.0.1:8081")
TOKEN_FILE = os.environ.get("VMFERRY_TOKEN_FILE")
SILENCE = 10  # seconds; the daemon sends at least the time every 2 s


def say(text):
    print(text, flush=True)


class Jobs:
    def __init__(self):
        self.known = {}  # the newest report of each job
        self.stale = True

    def take(self, new):
        """Takes a report, or that a job was deleted. What is not newer than what is known says nothing."""
        job, old = new["job_id"], self.known.get(new["job_id"])
        if old and (new["epoch"], new["seq"]) <= (old["epoch"], old["seq"]):
            return
        if new.get("deleted"):
            self.forget(job)
            return
        told = stays(old) if old else []
        for stay in stays(new):  # also those that began and ended while this program did not look
            if stay not in told:
                say(f"{job} entered {stay[0]} {stay[1]}")
        self.known[job] = new
        say(f"{job} {new['status']} {new['phase']} {new['round']} {new['bytes_transferred']} {new['overall_percent']}")

    def take_all(self, reports):
        """Takes the newest report of every job. A job that is missing was deleted."""
        for report in reports:
            self.take(report)
        for job in self.known.keys() - {report["job_id"] for report in reports}:
            self.forget(job)

    def forget(self, job):
        if self.known.pop(job, None):
            say(f"{job} deleted")

    def mark(self, stale, why=""):
        """Says when all that is shown becomes old, and when it is right again."""
        if stale != self.stale:
            print(f"stale: {why}" if stale else "live", file=sys.stderr, flush=True)
        self.stale = stale


def stays(report):
    return [(phase["name"], phase["round"], phase["started_at"]) for phase in report["phases"]]


def follow(jobs, last):
    """Follows one connection until it ends. last holds the id of the last event that was taken."""
    request = urllib.request.Request(SERVER + "/api/v1/events", headers={"Accept": "text/event-stream"})
    if last["id"]:
        request.add_header("Last-Event-ID", last["id"])
    if TOKEN_FILE:
        with open(TOKEN_FILE) as file:
            request.add_header("Authorization", "Bearer " + file.read().strip())
    with urllib.request.urlopen(request, timeout=SILENCE) as answer:
        event = {}
        for line in answer:
            field, _, value = line.decode().rstrip("\r\n").partition(":")
            if field:
                event[field] = value.removeprefix(" ")  # our events have one line of data
                continue
            if event.get("event") == "snapshot":
                jobs.take_all(json.loads(event["data"])["jobs"])
            elif event.get("event") in ("progress", "deleted"):
                jobs.take(json.loads(event["data"]))
            if "event" in event:
                jobs.mark(stale=False)
            last["id"] = event.get("id", last["id"])
            event = {}
    raise ConnectionError("the daemon has closed the stream")


def main():
    jobs, last = Jobs(), {"id": ""}
    while True:
        try:
            follow(jobs, last)
        except urllib.error.HTTPError as refused:
            if refused.code in (400, 401, 403, 404):  # asking again would change nothing
                sys.exit(f"{refused.code}: {refused.read().decode()}")
            jobs.mark(stale=True, why=refused)
        except (OSError, http.client.HTTPException) as lost:
            jobs.mark(stale=True, why=lost)
        time.sleep(1)


main()
