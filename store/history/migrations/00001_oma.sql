-- One text for MariaDB and SQLite: what stands between /*! and */ is run by MariaDB only.
-- DDL is not transactional in MariaDB: each statement can be repeated after a break.
-- +goose Up
CREATE TABLE IF NOT EXISTS replication_jobs (
    id                       VARCHAR(128) NOT NULL PRIMARY KEY,
    source_vm_id             VARCHAR(64)  NOT NULL DEFAULT '',
    source_vm_name           VARCHAR(255) NOT NULL DEFAULT '',
    source_vm_path           VARCHAR(512) NOT NULL DEFAULT '',
    vcenter_host             VARCHAR(255) NOT NULL DEFAULT '',
    datacenter               VARCHAR(255) NOT NULL DEFAULT '',
    replication_type         VARCHAR(16)  NOT NULL DEFAULT 'initial',
    status                   VARCHAR(32)  NOT NULL DEFAULT 'pending',
    progress_percent         DECIMAL(5,2) NOT NULL DEFAULT 0,
    current_operation        VARCHAR(255) NOT NULL DEFAULT '',
    bytes_transferred        BIGINT       NOT NULL DEFAULT 0,
    total_bytes              BIGINT       NOT NULL DEFAULT 0,
    transfer_speed_bps       BIGINT       NOT NULL DEFAULT 0,
    error_message            TEXT,
    change_id                VARCHAR(255),
    previous_change_id       VARCHAR(255),
    snapshot_id              VARCHAR(255),
    nbd_export_name          VARCHAR(255),
    target_device            VARCHAR(512),
    vma_sync_type            VARCHAR(32),
    vma_current_phase        VARCHAR(64),
    vma_throughput_mbps      DECIMAL(10,2),
    vma_eta_seconds          BIGINT,
    vma_last_poll_at         DATETIME/*!(6)*/,
    vma_error_classification VARCHAR(32),
    vma_error_details        TEXT,
    created_at               DATETIME/*!(6)*/,
    updated_at               DATETIME/*!(6)*/,
    started_at               DATETIME/*!(6)*/,
    completed_at             DATETIME/*!(6)*/
    /*! , INDEX replication_jobs_created (created_at, id) */
) /*! ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin */;

CREATE TABLE IF NOT EXISTS vm_disks (
    id                    VARCHAR(260) NOT NULL PRIMARY KEY,
    job_id                VARCHAR(128) NOT NULL,
    vm_uuid               VARCHAR(64)  NOT NULL DEFAULT '',
    disk_id               VARCHAR(128) NOT NULL,
    vmdk_path             VARCHAR(512) NOT NULL DEFAULT '',
    size_gb               BIGINT       NOT NULL DEFAULT 0,
    capacity_bytes        BIGINT       NOT NULL DEFAULT 0,
    datastore             VARCHAR(255) NOT NULL DEFAULT '',
    unit_number           BIGINT       NOT NULL DEFAULT 0,
    label                 VARCHAR(255) NOT NULL DEFAULT '',
    provisioning_type     VARCHAR(32)  NOT NULL DEFAULT '',
    disk_change_id        VARCHAR(255),
    sync_status           VARCHAR(32)  NOT NULL DEFAULT 'pending',
    sync_progress_percent DECIMAL(5,2) NOT NULL DEFAULT 0,
    bytes_synced          BIGINT       NOT NULL DEFAULT 0
    /*! , INDEX vm_disks_job (job_id, disk_id) */
) /*! ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin */;

CREATE TABLE IF NOT EXISTS device_mappings (
    volume_id           VARCHAR(128) NOT NULL PRIMARY KEY,
    device_path         VARCHAR(512) NOT NULL DEFAULT '',
    vm_uuid             VARCHAR(64)  NOT NULL DEFAULT '',
    disk_id             VARCHAR(128) NOT NULL DEFAULT '',
    size_bytes          BIGINT       NOT NULL DEFAULT 0,
    snapshot_id         VARCHAR(255),
    snapshot_created_at DATETIME/*!(6)*/,
    snapshot_status     VARCHAR(32)  NOT NULL DEFAULT 'none'
) /*! ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin */;

CREATE TABLE IF NOT EXISTS cbt_history (
    job_id     VARCHAR(128) NOT NULL,
    disk_id    VARCHAR(128) NOT NULL,
    round      BIGINT       NOT NULL,
    change_id  VARCHAR(255) NOT NULL DEFAULT '',
    sync_type  VARCHAR(16)  NOT NULL DEFAULT '',
    bytes      BIGINT       NOT NULL DEFAULT 0,
    created_at DATETIME/*!(6)*/,
    PRIMARY KEY (job_id, disk_id, round)
) /*! ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin */;

-- +goose Down
DROP TABLE cbt_history;
DROP TABLE device_mappings;
DROP TABLE vm_disks;
DROP TABLE replication_jobs;
