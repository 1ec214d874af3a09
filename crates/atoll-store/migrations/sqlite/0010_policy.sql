-- What a node says of itself beside its name and its size. Those that joined before say it when
-- they join again.
ALTER TABLE nodes ADD COLUMN descriptor TEXT NOT NULL DEFAULT '{"v":1}';

-- What a team's sandboxes must and should have of their nodes; none: what the fleet's policy says.
ALTER TABLE teams ADD COLUMN policy TEXT;
