-- What a team has: sums over its sandboxes, moved with each change of a state.
ALTER TABLE teams ADD COLUMN cpu_millis BIGINT NOT NULL DEFAULT 0;
ALTER TABLE teams ADD COLUMN memory_mib BIGINT NOT NULL DEFAULT 0;
ALTER TABLE teams ADD COLUMN disk_mib   BIGINT NOT NULL DEFAULT 0;
ALTER TABLE teams ADD COLUMN disabled   BIGINT NOT NULL DEFAULT 0;
-- Its own limits; NULL: the installation's default.
ALTER TABLE teams ADD COLUMN max_concurrent      BIGINT;
ALTER TABLE teams ADD COLUMN max_cpu_millis      BIGINT;
ALTER TABLE teams ADD COLUMN max_memory_mib      BIGINT;
ALTER TABLE teams ADD COLUMN max_disk_mib        BIGINT;
ALTER TABLE teams ADD COLUMN creates_per_second  BIGINT;
ALTER TABLE teams ADD COLUMN creates_burst       BIGINT;
ALTER TABLE teams ADD COLUMN requests_per_second BIGINT;
ALTER TABLE teams ADD COLUMN requests_burst      BIGINT;

UPDATE teams SET (cpu_millis, memory_mib, disk_mib) = (
    SELECT COALESCE(SUM(json_extract(config, '$.cpu_millis')), 0),
           COALESCE(SUM(json_extract(config, '$.memory_mib')), 0),
           COALESCE(SUM(json_extract(config, '$.disk_mib')), 0)
    FROM sandboxes
    WHERE team = teams.id
      AND state IN ('pending', 'creating', 'running', 'pausing', 'resuming')
);
-- A paused one holds its memory and its disk.
UPDATE teams SET (memory_mib, disk_mib) = (
    SELECT teams.memory_mib + COALESCE(SUM(json_extract(config, '$.memory_mib')), 0),
           teams.disk_mib + COALESCE(SUM(json_extract(config, '$.disk_mib')), 0)
    FROM sandboxes
    WHERE team = teams.id AND state = 'paused'
);

ALTER TABLE api_keys ADD COLUMN created_by   TEXT;
ALTER TABLE api_keys ADD COLUMN last_used_at BIGINT;

ALTER TABLE sandboxes ADD COLUMN created_by TEXT;

CREATE TABLE audit (
    seq       INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    at        BIGINT  NOT NULL,
    team      TEXT,
    actor     TEXT    NOT NULL,
    operation TEXT    NOT NULL,
    object    TEXT,
    outcome   TEXT    NOT NULL,
    address   TEXT,
    agent     TEXT,
    trace     TEXT,
    left_out  BIGINT  NOT NULL DEFAULT 0
);
CREATE INDEX audit_by_team ON audit (team, seq);
CREATE INDEX audit_by_object ON audit (object, seq);
