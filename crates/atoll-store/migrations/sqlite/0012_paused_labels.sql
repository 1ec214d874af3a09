-- Those that carry a label and count as paused, in the order of pages: a walk meets no other.
ALTER TABLE sandbox_labels ADD COLUMN paused BIGINT NOT NULL DEFAULT 0;
UPDATE sandbox_labels SET paused = 1 WHERE sandbox IN
    (SELECT id FROM sandboxes WHERE state IN ('pausing', 'paused', 'resuming'));
CREATE INDEX sandbox_labels_paused ON sandbox_labels (team, name, value, created_at, sandbox)
    WHERE paused = 1;
