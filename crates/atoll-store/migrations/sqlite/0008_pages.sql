-- A page is one walk along an index, in an order that nothing changes: by when a sandbox was made.
-- When it last began to serve is carried along for the filter by it.
DROP INDEX sandboxes_listed;
CREATE INDEX sandboxes_listed ON sandboxes (team, created_at, id, started_at)
    WHERE state IN ('running', 'pausing', 'paused', 'resuming');
CREATE INDEX sandboxes_paused ON sandboxes (team, created_at, id, started_at)
    WHERE state IN ('pausing', 'paused', 'resuming');

-- Those that carry a label, in the order of pages.
ALTER TABLE sandbox_labels ADD COLUMN created_at BIGINT NOT NULL DEFAULT 0;
UPDATE sandbox_labels SET created_at = COALESCE(
    (SELECT created_at FROM sandboxes WHERE sandboxes.id = sandbox_labels.sandbox), 0
);
DROP INDEX sandbox_labels_by_value;
CREATE INDEX sandbox_labels_listed ON sandbox_labels (team, name, value, created_at, sandbox);
