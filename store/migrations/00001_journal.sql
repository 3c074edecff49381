-- +goose Up
CREATE TABLE jobs (
    id         TEXT    PRIMARY KEY,
    vm         TEXT    NOT NULL, -- as the request named it
    vm_uuid    TEXT    NOT NULL, -- lower case; '' until preflight found it
    active     INTEGER NOT NULL, -- 1 until the job has ended
    seq        INTEGER NOT NULL, -- of the newest event in state
    created_at INTEGER NOT NULL, -- ns since 1970
    state      TEXT    NOT NULL  -- JSON of job.State
) STRICT;

-- The rule "one unfinished job for each VM", in a form that no bug of the program can break.
CREATE UNIQUE INDEX jobs_active_vm ON jobs (vm) WHERE active = 1;
CREATE UNIQUE INDEX jobs_active_vm_uuid ON jobs (vm_uuid) WHERE active = 1 AND vm_uuid <> '';
CREATE INDEX jobs_created ON jobs (created_at, id);

CREATE TABLE events (
    job  TEXT    NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    seq  INTEGER NOT NULL,
    at   INTEGER NOT NULL, -- ns since 1970
    body BLOB    NOT NULL, -- JSON
    PRIMARY KEY (job, seq)
) STRICT;

CREATE TABLE sets (
    vm_uuid    TEXT    PRIMARY KEY, -- lower case
    generation INTEGER NOT NULL,    -- never starts again at 1, also not after a drop
    dropped    INTEGER NOT NULL,    -- 1: the targets are being written to, the set is no longer true
    body       TEXT    NOT NULL     -- JSON of job.CheckpointSet
) STRICT;

CREATE TABLE reports (
    job   TEXT    PRIMARY KEY,
    epoch INTEGER NOT NULL,
    seq   INTEGER NOT NULL,
    ended INTEGER NOT NULL, -- 1 if the job has ended
    body  BLOB    NOT NULL  -- JSON of report.Report
) STRICT;

CREATE TABLE request_keys (
    name      TEXT    PRIMARY KEY,
    body_hash TEXT    NOT NULL,
    job       TEXT    NOT NULL,
    at        INTEGER NOT NULL -- ns since 1970
) STRICT;
CREATE INDEX request_keys_at ON request_keys (at);

CREATE TABLE counters (
    name  TEXT    PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT;

-- +goose Down
DROP TABLE counters;
DROP TABLE request_keys;
DROP TABLE reports;
DROP TABLE sets;
DROP TABLE events;
DROP TABLE jobs;
