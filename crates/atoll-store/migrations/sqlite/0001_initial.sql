CREATE TABLE meta (
    name  TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
);

CREATE TABLE teams (
    id         TEXT   NOT NULL PRIMARY KEY,
    name       TEXT   NOT NULL,
    created_at BIGINT NOT NULL,
    concurrent BIGINT NOT NULL DEFAULT 0,
    running    BIGINT NOT NULL DEFAULT 0
);

CREATE TABLE api_keys (
    id           TEXT   NOT NULL PRIMARY KEY,
    team         TEXT   NOT NULL REFERENCES teams (id),
    name         TEXT   NOT NULL,
    hash         TEXT   NOT NULL UNIQUE,
    masked_start TEXT   NOT NULL,
    masked_end   TEXT   NOT NULL,
    read_only    BIGINT NOT NULL,
    created_at   BIGINT NOT NULL
);
CREATE INDEX api_keys_by_team ON api_keys (team, created_at, id);

CREATE TABLE templates (
    id              TEXT   NOT NULL PRIMARY KEY,
    team            TEXT,
    is_public       BIGINT NOT NULL,
    created_at      BIGINT NOT NULL,
    updated_at      BIGINT NOT NULL,
    spawn_count     BIGINT NOT NULL DEFAULT 0,
    last_spawned_at BIGINT
);

CREATE TABLE template_builds (
    id           TEXT   NOT NULL PRIMARY KEY,
    template     TEXT   NOT NULL REFERENCES templates (id),
    status       TEXT   NOT NULL,
    cpu_millis   BIGINT NOT NULL,
    memory_mib   BIGINT NOT NULL,
    disk_mib     BIGINT NOT NULL,
    envd_version TEXT   NOT NULL,
    created_at   BIGINT NOT NULL
);
CREATE INDEX template_builds_by_template ON template_builds (template, created_at, id);

-- `owner` is the team's id, or empty for a global name: a NULL would not be unique.
CREATE TABLE template_names (
    owner    TEXT NOT NULL,
    name     TEXT NOT NULL,
    template TEXT NOT NULL REFERENCES templates (id),
    PRIMARY KEY (owner, name)
);
CREATE INDEX template_names_by_template ON template_names (template);

CREATE TABLE sandboxes (
    id          TEXT   NOT NULL PRIMARY KEY,
    team        TEXT   NOT NULL REFERENCES teams (id),
    template    TEXT   NOT NULL,
    build       TEXT   NOT NULL,
    alias       TEXT,
    config      TEXT   NOT NULL,
    state       TEXT   NOT NULL,
    desired     TEXT   NOT NULL,
    stop_reason TEXT,
    generation  BIGINT NOT NULL,
    node        TEXT,
    created_at  BIGINT NOT NULL,
    started_at  BIGINT,
    deadline    BIGINT NOT NULL,
    updated_at  BIGINT NOT NULL,
    ended_at    BIGINT,
    last_error  TEXT
);
-- What clients list: a page is one walk along this index.
CREATE INDEX sandboxes_listed ON sandboxes (team, started_at, id)
    WHERE state IN ('running', 'pausing', 'paused', 'resuming');
-- What the control plane loads when it starts.
CREATE INDEX sandboxes_live ON sandboxes (id) WHERE state <> 'stopped';
CREATE INDEX sandboxes_live_by_template ON sandboxes (template) WHERE state <> 'stopped';
CREATE INDEX sandboxes_ended ON sandboxes (ended_at) WHERE state = 'stopped';

CREATE TABLE sandbox_labels (
    sandbox TEXT NOT NULL,
    team    TEXT NOT NULL,
    name    TEXT NOT NULL,
    value   TEXT NOT NULL,
    PRIMARY KEY (sandbox, name)
);
CREATE INDEX sandbox_labels_by_value ON sandbox_labels (team, name, value, sandbox);

CREATE TABLE sandbox_events (
    seq     INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    sandbox TEXT    NOT NULL,
    team    TEXT    NOT NULL,
    at      BIGINT  NOT NULL,
    kind    TEXT    NOT NULL,
    level   TEXT    NOT NULL,
    message TEXT    NOT NULL,
    fields  TEXT    NOT NULL
);
CREATE INDEX sandbox_events_by_sandbox ON sandbox_events (sandbox, at, seq);

CREATE TABLE idempotency_keys (
    team        TEXT   NOT NULL,
    key         TEXT   NOT NULL,
    fingerprint TEXT   NOT NULL,
    sandbox     TEXT   NOT NULL,
    created_at  BIGINT NOT NULL,
    PRIMARY KEY (team, key)
);
CREATE INDEX idempotency_keys_by_age ON idempotency_keys (created_at);
