#!/usr/bin/env python3
"""Follows all jobs that vmferry writes to Redis. Needs Python 3.9 and redis-py (python3-redis, or pip install redis).

    REDIS_URL=redis://127.0.0.1:6379/0 python3 follow_redis.py
"""
import json
import os
import sys
import time

import redis

URL = os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/0")
LISTS = ["vmferry:v1:jobs:active", "vmferry:v1:jobs:recent"]
LOOK = 5  # seconds between two looks at everything


def say(text):
    print(text, flush=True)


class Jobs:
    def __init__(self):
        self.known = {}  # the newest report of each job, or that it was deleted: what comes late does not bring it back
        self.stale = True

    def take(self, new):
        """Takes a report, or that a job was deleted. What is not newer than what is known says nothing."""
        job, old = new["job_id"], self.known.get(new["job_id"])
        if old and (new["epoch"], new["seq"]) <= (old["epoch"], old["seq"]):
            return
        if new.get("deleted"):
            self.forget(job, new)
            return
        told = stays(old) if old else []
        for stay in stays(new):  # also those that began and ended while this program did not look
            if stay not in told:
                say(f"{job} entered {stay[0]} {stay[1]}")
        self.known[job] = new
        say(f"{job} {new['status']} {new['phase']} {new['round']} {new['bytes_transferred']} {new['overall_percent']}")

    def forget(self, job, mark):
        if job in self.there():
            say(f"{job} deleted")
        self.known[job] = {"deleted": True, "epoch": mark["epoch"], "seq": mark["seq"], "phases": []}

    def there(self):
        return {job for job, newest in self.known.items() if not newest.get("deleted")}

    def mark(self, stale, why=""):
        """Says when all that is shown becomes old, and when it is right again."""
        if stale != self.stale:
            print(f"stale: {why}" if stale else "live", file=sys.stderr, flush=True)
        self.stale = stale


def stays(report):
    return [(phase["name"], phase["round"], phase["started_at"]) for phase in report["phases"]]


def look(store, jobs):
    """Takes the newest report of every job, and of the jobs that are known also what was missed."""
    whole = store.exists("vmferry:v1:daemon")  # first: the lists are at least as new
    ids = set(store.zunion(LISTS))  # at one moment, for a job may move between them
    with store.pipeline(transaction=False) as ask:
        for job in ids | jobs.there():  # the stream of a deleted job says so
            old = jobs.known.get(job)
            after = f"({old['epoch']}-{old['seq']}" if old else "+"
            ask.xrange("vmferry:v1:{%s}:events" % job, after, "+")
            ask.hget("vmferry:v1:{%s}:snap" % job, "json")
        answers = ask.execute()
    for missed, newest in zip(answers[::2], answers[1::2]):
        for _, entry in missed:
            jobs.take(json.loads(entry["data"]))
        if newest:
            jobs.take(json.loads(newest))
    if whole:  # else Redis may have come back empty, and what is missing may only not be there yet
        for job in jobs.there() - ids:
            jobs.forget(job, jobs.known[job])
    jobs.mark(stale=not whole, why="no daemon has written for 15 s, or Redis is being filled")


def follow(store, jobs):
    with store.pubsub() as channel:
        channel.subscribe("vmferry:v1:events")
        due = 0
        while True:
            message = channel.get_message(timeout=1)
            if message and message["type"] == "message":
                jobs.take(json.loads(message["data"]))
            if message and message["type"] == "subscribe" or time.monotonic() >= due:
                look(store, jobs)  # after each subscription: it may be a new one, after a lost connection
                due = time.monotonic() + LOOK


def main():
    store, jobs = redis.Redis.from_url(URL, decode_responses=True, socket_timeout=5), Jobs()
    while True:
        try:
            follow(store, jobs)
        except (redis.ConnectionError, redis.TimeoutError) as lost:
            jobs.mark(stale=True, why=lost)
        time.sleep(1)


main()
