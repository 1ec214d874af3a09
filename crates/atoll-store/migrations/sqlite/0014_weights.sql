-- How much of a fleet that is too small for all a team gets beside others.
ALTER TABLE teams ADD COLUMN weight BIGINT NOT NULL DEFAULT 1;

-- What the forecast of arrivals has learnt, as JSON: one row.
CREATE TABLE forecast (
    name TEXT   NOT NULL PRIMARY KEY,
    at   BIGINT NOT NULL,
    data TEXT   NOT NULL
);
