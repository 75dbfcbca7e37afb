-- Variables of a session whose language has no kernel that holds them: each "NAME=value" and a NUL. They go
-- with the session's row.
ALTER TABLE sessions ADD COLUMN env BLOB;
