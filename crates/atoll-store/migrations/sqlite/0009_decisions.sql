-- The decision of the scheduler that an event tells of, as JSON: node, score and its parts,
-- alternatives, how many nodes fell to which constraint. A column of the event, so that it costs no
-- statement of its own; null for every other event.
ALTER TABLE events ADD COLUMN decision TEXT;
