-- Events of sandboxes, of nodes and of the fleet: `sandbox` or `node` says of which, neither means
-- the fleet. `seq` is the cursor that subscribers keep.
CREATE TABLE events (
    seq     INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    sandbox TEXT,
    node    TEXT,
    team    TEXT,
    at      BIGINT  NOT NULL,
    kind    TEXT    NOT NULL,
    level   TEXT    NOT NULL,
    message TEXT    NOT NULL,
    fields  TEXT    NOT NULL
);
INSERT INTO events (seq, sandbox, team, at, kind, level, message, fields)
    SELECT seq, sandbox, team, at, kind, level, message, fields FROM sandbox_events ORDER BY seq;
DROP TABLE sandbox_events;
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
    name       TEXT   NOT NULL PRIMARY KEY,
    seq        BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
