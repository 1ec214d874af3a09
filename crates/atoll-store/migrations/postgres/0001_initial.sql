-- The whole schema as of the change that brought PostgreSQL. The tables and columns are those of
-- SQLite; a test compares them. Texts are compared byte by byte, as everywhere else in Atoll,
-- whatever the database's locale.

CREATE TABLE meta (
    name  TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    value TEXT COLLATE "C" NOT NULL
);

-- Its sums move with nearly every write: room in the page lets a row be written anew beside itself.
CREATE TABLE teams (
    id                  TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    name                TEXT COLLATE "C" NOT NULL,
    created_at          BIGINT NOT NULL,
    concurrent          BIGINT NOT NULL DEFAULT 0,
    running             BIGINT NOT NULL DEFAULT 0,
    cpu_millis          BIGINT NOT NULL DEFAULT 0,
    memory_mib          BIGINT NOT NULL DEFAULT 0,
    disk_mib            BIGINT NOT NULL DEFAULT 0,
    disabled            BIGINT NOT NULL DEFAULT 0,
    max_concurrent      BIGINT,
    max_cpu_millis      BIGINT,
    max_memory_mib      BIGINT,
    max_disk_mib        BIGINT,
    creates_per_second  BIGINT,
    creates_burst       BIGINT,
    requests_per_second BIGINT,
    requests_burst      BIGINT,
    policy              TEXT COLLATE "C"
) WITH (fillfactor = 20);

CREATE TABLE api_keys (
    id           TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    team         TEXT COLLATE "C" NOT NULL REFERENCES teams (id),
    name         TEXT COLLATE "C" NOT NULL,
    hash         TEXT COLLATE "C" NOT NULL UNIQUE,
    masked_start TEXT COLLATE "C" NOT NULL,
    masked_end   TEXT COLLATE "C" NOT NULL,
    read_only    BIGINT NOT NULL,
    created_at   BIGINT NOT NULL,
    created_by   TEXT COLLATE "C",
    last_used_at BIGINT
);
CREATE INDEX api_keys_by_team ON api_keys (team, created_at, id);

CREATE TABLE templates (
    id              TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    team            TEXT COLLATE "C",
    is_public       BIGINT NOT NULL,
    created_at      BIGINT NOT NULL,
    updated_at      BIGINT NOT NULL,
    spawn_count     BIGINT NOT NULL DEFAULT 0,
    last_spawned_at BIGINT
);

CREATE TABLE template_builds (
    id           TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    template     TEXT COLLATE "C" NOT NULL REFERENCES templates (id),
    status       TEXT COLLATE "C" NOT NULL,
    cpu_millis   BIGINT NOT NULL,
    memory_mib   BIGINT NOT NULL,
    disk_mib     BIGINT NOT NULL,
    envd_version TEXT COLLATE "C" NOT NULL,
    created_at   BIGINT NOT NULL
);
CREATE INDEX template_builds_by_template ON template_builds (template, created_at, id);

-- `owner` is the team's id, or empty for a global name: a NULL would not be unique.
CREATE TABLE template_names (
    owner    TEXT COLLATE "C" NOT NULL,
    name     TEXT COLLATE "C" NOT NULL,
    template TEXT COLLATE "C" NOT NULL REFERENCES templates (id),
    PRIMARY KEY (owner, name)
);
CREATE INDEX template_names_by_template ON template_names (template);

-- No foreign key to the team: whoever adds a row has the team's row locked, and checking each again
-- would double what an insert costs.
CREATE TABLE sandboxes (
    id              TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    team            TEXT COLLATE "C" NOT NULL,
    template        TEXT COLLATE "C" NOT NULL,
    build           TEXT COLLATE "C" NOT NULL,
    alias           TEXT COLLATE "C",
    config          TEXT COLLATE "C" NOT NULL,
    state           TEXT COLLATE "C" NOT NULL,
    desired         TEXT COLLATE "C" NOT NULL,
    stop_reason     TEXT COLLATE "C",
    generation      BIGINT NOT NULL,
    node            TEXT COLLATE "C",
    created_at      BIGINT NOT NULL,
    started_at      BIGINT,
    deadline        BIGINT NOT NULL,
    updated_at      BIGINT NOT NULL,
    ended_at        BIGINT,
    last_error      TEXT COLLATE "C",
    created_by      TEXT COLLATE "C",
    revision        BIGINT NOT NULL DEFAULT 0,
    timeout         BIGINT NOT NULL DEFAULT 0,
    keep_memory     BIGINT NOT NULL DEFAULT 1,
    kept_generation BIGINT,
    kept_at         BIGINT,
    restarting      BIGINT NOT NULL DEFAULT 0,
    claimed_by      TEXT COLLATE "C"
);
-- What clients list: a page is one walk along an index, in an order that nothing changes.
CREATE INDEX sandboxes_listed ON sandboxes (team, created_at, id, started_at)
    WHERE state IN ('running', 'pausing', 'paused', 'resuming');
CREATE INDEX sandboxes_paused ON sandboxes (team, created_at, id, started_at)
    WHERE state IN ('pausing', 'paused', 'resuming');
-- What the control plane loads when it starts.
CREATE INDEX sandboxes_live ON sandboxes (id) WHERE state <> 'stopped';
CREATE INDEX sandboxes_live_by_template ON sandboxes (template) WHERE state <> 'stopped';
CREATE INDEX sandboxes_ended ON sandboxes (ended_at) WHERE state = 'stopped';

CREATE TABLE sandbox_labels (
    sandbox    TEXT COLLATE "C" NOT NULL,
    team       TEXT COLLATE "C" NOT NULL,
    name       TEXT COLLATE "C" NOT NULL,
    value      TEXT COLLATE "C" NOT NULL,
    created_at BIGINT NOT NULL DEFAULT 0,
    paused     BIGINT NOT NULL DEFAULT 0,
    PRIMARY KEY (sandbox, name)
);
-- Those that carry a label, in the order of pages. A row of an index has no room for a long value,
-- so that only its beginning is walked along.
CREATE INDEX sandbox_labels_listed
    ON sandbox_labels (team, name, left(value, 200), created_at, sandbox);
-- The same for those that count as paused: a walk meets no other.
CREATE INDEX sandbox_labels_paused
    ON sandbox_labels (team, name, left(value, 200), created_at, sandbox) WHERE paused = 1;

-- Events of sandboxes, of nodes and of the fleet: `sandbox` or `node` says of which, neither means
-- the fleet. `seq` is the cursor that subscribers keep; it comes from `heads`.
CREATE TABLE events (
    seq      BIGINT NOT NULL PRIMARY KEY,
    sandbox  TEXT COLLATE "C",
    node     TEXT COLLATE "C",
    team     TEXT COLLATE "C",
    at       BIGINT NOT NULL,
    kind     TEXT COLLATE "C" NOT NULL,
    level    TEXT COLLATE "C" NOT NULL,
    message  TEXT COLLATE "C" NOT NULL,
    fields   TEXT COLLATE "C" NOT NULL,
    decision TEXT COLLATE "C"
);
CREATE INDEX events_by_sandbox ON events (sandbox, at, seq) WHERE sandbox IS NOT NULL;
CREATE INDEX events_by_node ON events (node, at, seq) WHERE node IS NOT NULL;
CREATE INDEX events_by_team ON events (team, seq) WHERE team IS NOT NULL;
-- What is pruned by age alone.
CREATE INDEX events_of_no_sandbox ON events (at) WHERE sandbox IS NULL;

-- One row: the highest cursor that was ever pruned. Who is behind it missed something.
CREATE TABLE event_prune (
    id      BIGINT NOT NULL PRIMARY KEY CHECK (id = 1),
    through BIGINT NOT NULL
);
INSERT INTO event_prune (id, through) VALUES (1, 0);

-- How far each durable subscriber has come.
CREATE TABLE event_cursors (
    name       TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    seq        BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
) WITH (fillfactor = 20);

CREATE TABLE idempotency_keys (
    team        TEXT COLLATE "C" NOT NULL,
    key         TEXT COLLATE "C" NOT NULL,
    fingerprint TEXT COLLATE "C" NOT NULL,
    sandbox     TEXT COLLATE "C" NOT NULL,
    created_at  BIGINT NOT NULL,
    PRIMARY KEY (team, key)
);
CREATE INDEX idempotency_keys_by_age ON idempotency_keys (created_at);

CREATE TABLE audit (
    seq       BIGINT NOT NULL PRIMARY KEY,
    at        BIGINT NOT NULL,
    team      TEXT COLLATE "C",
    actor     TEXT COLLATE "C" NOT NULL,
    operation TEXT COLLATE "C" NOT NULL,
    object    TEXT COLLATE "C",
    outcome   TEXT COLLATE "C" NOT NULL,
    address   TEXT COLLATE "C",
    agent     TEXT COLLATE "C",
    trace     TEXT COLLATE "C",
    left_out  BIGINT NOT NULL DEFAULT 0
);
CREATE INDEX audit_by_team ON audit (team, seq);
-- Of any length, as clients may name what does not exist.
CREATE INDEX audit_by_object ON audit USING hash (object);

CREATE TABLE webhooks (
    id              TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    team            TEXT COLLATE "C" NOT NULL REFERENCES teams (id),
    name            TEXT COLLATE "C" NOT NULL,
    url             TEXT COLLATE "C" NOT NULL,
    kinds           TEXT COLLATE "C" NOT NULL,
    secret          TEXT COLLATE "C" NOT NULL,
    enabled         BIGINT NOT NULL,
    disabled_reason TEXT COLLATE "C",
    created_at      BIGINT NOT NULL,
    updated_at      BIGINT NOT NULL,
    version         BIGINT NOT NULL,
    seq             BIGINT NOT NULL,
    failing_since   BIGINT,
    last_error      TEXT COLLATE "C"
);
CREATE INDEX webhooks_by_team ON webhooks (team, created_at, id);

-- What is known of nodes before they join, and what their operator decided about them.
CREATE TABLE nodes (
    id         TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    name       TEXT COLLATE "C" NOT NULL,
    address    TEXT COLLATE "C",
    tags       TEXT COLLATE "C" NOT NULL,
    drain      TEXT COLLATE "C",
    joined_at  BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    descriptor TEXT COLLATE "C" NOT NULL DEFAULT '{"v":1}'
);

-- The processes of the control plane on this store; each counts its beats.
CREATE TABLE servers (
    id      TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    address TEXT COLLATE "C" NOT NULL,
    version TEXT COLLATE "C" NOT NULL,
    silent  TEXT COLLATE "C" NOT NULL,
    beats   BIGINT NOT NULL
) WITH (fillfactor = 20);

-- What only one of them may do. Free once its holder is no server any more.
CREATE TABLE leases (
    name   TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    holder TEXT COLLATE "C" NOT NULL,
    term   BIGINT NOT NULL
);

-- The newest repairs, of a bounded number.
CREATE TABLE corrections (
    seq        BIGINT NOT NULL PRIMARY KEY GENERATED BY DEFAULT AS IDENTITY,
    at         BIGINT NOT NULL,
    kind       TEXT COLLATE "C" NOT NULL,
    node       TEXT COLLATE "C",
    sandbox    TEXT COLLATE "C",
    generation BIGINT,
    reason     TEXT COLLATE "C" NOT NULL
);

-- One row: the newest cursor of events and the newest place in the audit that were ever given out.
-- Not sequences: those give numbers out before the commits that bring them, so a reader could see a
-- higher one first and never the lower one.
CREATE TABLE heads (
    id    BIGINT NOT NULL PRIMARY KEY CHECK (id = 1),
    event BIGINT NOT NULL,
    audit BIGINT NOT NULL
) WITH (fillfactor = 10);
INSERT INTO heads (id, event, audit) VALUES (1, 0, 0);

-- The newest group that each writer committed: what it looks for after it lost its connection
-- during a commit. `at` is when, by the database's clock, so that those of long ago can go.
CREATE TABLE writers (
    id    TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    batch BIGINT NOT NULL,
    at    TIMESTAMPTZ NOT NULL
) WITH (fillfactor = 10);
