-- Counts the writes of the row, so that of two copies the newer is known.
ALTER TABLE sandboxes ADD COLUMN revision BIGINT NOT NULL DEFAULT 0;
-- How long it was asked to serve, in microseconds.
ALTER TABLE sandboxes ADD COLUMN timeout BIGINT NOT NULL DEFAULT 0;
ALTER TABLE sandboxes ADD COLUMN keep_memory BIGINT NOT NULL DEFAULT 1;
-- Under which generation and when it was paused; both or none.
ALTER TABLE sandboxes ADD COLUMN kept_generation BIGINT;
ALTER TABLE sandboxes ADD COLUMN kept_at BIGINT;
ALTER TABLE sandboxes ADD COLUMN restarting BIGINT NOT NULL DEFAULT 0;

UPDATE sandboxes SET timeout = MAX(0, deadline - COALESCE(started_at, created_at));
