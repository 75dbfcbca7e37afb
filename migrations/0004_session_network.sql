-- Where a session may connect to: "none", "egress" (all that the operator allows), or "egress" and the
-- rules that it was narrowed to. network_env: bits of the proxy's variables that come with each run.
ALTER TABLE sessions ADD COLUMN network TEXT NOT NULL DEFAULT 'none';
ALTER TABLE sessions ADD COLUMN network_env INTEGER NOT NULL DEFAULT 0;
