-- Which node keeps what is paused, and what shared storage has of it.
ALTER TABLE sandboxes ADD COLUMN kept_on TEXT;
UPDATE sandboxes SET kept_on = node WHERE kept_at IS NOT NULL;
ALTER TABLE sandboxes ADD COLUMN snapshot_store TEXT;
ALTER TABLE sandboxes ADD COLUMN snapshot_generation BIGINT;
ALTER TABLE sandboxes ADD COLUMN snapshot_digest TEXT;
ALTER TABLE sandboxes ADD COLUMN snapshot_bytes BIGINT;
