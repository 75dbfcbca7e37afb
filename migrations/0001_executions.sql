-- Executions and the sandboxes that the server made for them. Times are microseconds since 1970.
CREATE TABLE executions (
    id TEXT PRIMARY KEY,
    owner TEXT NOT NULL,
    labels TEXT NOT NULL DEFAULT '{}',
    lang TEXT NOT NULL,
    status TEXT NOT NULL
        CHECK (status IN ('queued', 'running', 'success', 'error', 'timeout', 'killed')),
    idempotency_key TEXT,
    created_us INTEGER NOT NULL,
    started_us INTEGER,
    finished_us INTEGER,
    sandbox_id TEXT,
    outcome BLOB,
    expires_us INTEGER,
    UNIQUE (owner, idempotency_key)
) STRICT, WITHOUT ROWID;

CREATE INDEX executions_by_owner ON executions (owner, created_us DESC, id DESC);
CREATE INDEX executions_by_expiry ON executions (expires_us) WHERE expires_us IS NOT NULL;
CREATE INDEX executions_by_age ON executions (finished_us)
    WHERE expires_us IS NULL AND finished_us IS NOT NULL;
CREATE INDEX executions_unfinished ON executions (status) WHERE status IN ('queued', 'running');

CREATE TABLE sandboxes (
    id TEXT PRIMARY KEY,
    owner TEXT NOT NULL,
    engine TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('creating', 'ready', 'busy', 'destroying', 'gone')),
    created_us INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
