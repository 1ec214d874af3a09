-- The processes of the control plane on this store; each counts its beats.
CREATE TABLE servers (
    id      TEXT   NOT NULL PRIMARY KEY,
    address TEXT   NOT NULL,
    version TEXT   NOT NULL,
    silent  TEXT   NOT NULL,
    beats   BIGINT NOT NULL
);

-- What only one of them may do. Free once its holder is no server any more.
CREATE TABLE leases (
    name   TEXT   NOT NULL PRIMARY KEY,
    holder TEXT   NOT NULL,
    term   BIGINT NOT NULL
);

-- The server that brings a sandbox where it should be.
ALTER TABLE sandboxes ADD COLUMN claimed_by TEXT;
