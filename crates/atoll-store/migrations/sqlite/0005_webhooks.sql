CREATE TABLE webhooks (
    id              TEXT   NOT NULL PRIMARY KEY,
    team            TEXT   NOT NULL REFERENCES teams (id),
    name            TEXT   NOT NULL,
    url             TEXT   NOT NULL,
    kinds           TEXT   NOT NULL,
    secret          TEXT   NOT NULL,
    enabled         BIGINT NOT NULL,
    disabled_reason TEXT,
    created_at      BIGINT NOT NULL,
    updated_at      BIGINT NOT NULL,
    version         BIGINT NOT NULL,
    seq             BIGINT NOT NULL,
    failing_since   BIGINT,
    last_error      TEXT
);
CREATE INDEX webhooks_by_team ON webhooks (team, created_at, id);
