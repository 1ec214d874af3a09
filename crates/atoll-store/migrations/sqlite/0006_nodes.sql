-- What is known of nodes before they join, and what their operator decided about them.
CREATE TABLE nodes (
    id         TEXT   NOT NULL PRIMARY KEY,
    name       TEXT   NOT NULL,
    address    TEXT,
    tags       TEXT   NOT NULL,
    drain      TEXT,
    joined_at  BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);

-- The newest repairs, of a bounded number.
CREATE TABLE corrections (
    seq        INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    at         BIGINT  NOT NULL,
    kind       TEXT    NOT NULL,
    node       TEXT,
    sandbox    TEXT,
    generation BIGINT,
    reason     TEXT    NOT NULL
);
