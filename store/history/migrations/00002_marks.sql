-- What vmferry must know of a row and no column of the older chain holds. So its tables need no column of ours.
-- +goose Up
CREATE TABLE IF NOT EXISTS vmferry_jobs (
    id            VARCHAR(128) NOT NULL PRIMARY KEY, -- of replication_jobs, letter for letter
    writer        VARCHAR(64)  NOT NULL, -- the daemon that keeps the row
    node          VARCHAR(64)  NOT NULL, -- that runs the job
    epoch         BIGINT       NOT NULL, -- version of the newest report that was written
    seq           BIGINT       NOT NULL,
    watch_epoch   BIGINT       NOT NULL DEFAULT 0, -- likewise of what a watcher said beside it; 0 for no watcher
    watch_seq     BIGINT       NOT NULL DEFAULT 0,
    state_since   DATETIME/*!(6)*/, -- since when it is unreachable or lost; NULL if it is not
    state_reason  VARCHAR(512) NOT NULL DEFAULT '',
    bytes_skipped BIGINT       NOT NULL DEFAULT 0
) /*! ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin */;

CREATE TABLE IF NOT EXISTS vmferry_disks (
    id          VARCHAR(260) NOT NULL PRIMARY KEY, -- VM and disk
    job_id      VARCHAR(128) NOT NULL, -- of the job that the row in vm_disks tells of
    job_created BIGINT       NOT NULL -- of that job, in microseconds since 1970: a newer job takes the row over
) /*! ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin */;

-- +goose Down
DROP TABLE vmferry_disks;
DROP TABLE vmferry_jobs;
