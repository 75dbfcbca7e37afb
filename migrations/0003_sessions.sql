-- Sessions: a sandbox that outlives requests and servers. A row is written when its sandbox stands and
-- removed before the sandbox is. Times are microseconds since 1970; no time: it does not expire so.
CREATE TABLE sessions (
    id TEXT PRIMARY KEY,
    owner TEXT NOT NULL,
    labels TEXT NOT NULL DEFAULT '{}',
    idempotency_key TEXT,
    lang TEXT NOT NULL,
    image TEXT NOT NULL,
    profile TEXT NOT NULL,
    engine TEXT NOT NULL,
    sandbox_id TEXT NOT NULL UNIQUE,
    nonce BLOB NOT NULL,
    memory_bytes INTEGER NOT NULL,
    storage_bytes INTEGER NOT NULL,
    cpu_millis INTEGER NOT NULL,
    disk INTEGER NOT NULL,
    reserve_memory_bytes INTEGER NOT NULL,
    reserve_disk_bytes INTEGER NOT NULL,
    timeout_ms INTEGER NOT NULL,
    idle_ms INTEGER,
    created_us INTEGER NOT NULL,
    lifetime_us INTEGER,
    UNIQUE (owner, idempotency_key)
) STRICT, WITHOUT ROWID;

CREATE INDEX sessions_by_owner ON sessions (owner, created_us, id);

ALTER TABLE executions ADD COLUMN session_id TEXT;

-- What is kept of an outcome has another form now (a kernel's messages). Outcomes are kept for an
-- hour; those of before are not read any more.
UPDATE executions SET outcome = NULL, text = NULL, text_size = NULL, expires_us = NULL,
    idempotency_key = NULL WHERE outcome IS NOT NULL;
