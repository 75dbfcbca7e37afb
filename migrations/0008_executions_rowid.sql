-- The same table with rows in the order of their insertion: a row is over a kilobyte and its id is random, so that
-- a table kept in the order of ids (WITHOUT ROWID) touched three far pages for each execution. Most have no key:
-- only those that do are in the index of keys. Old rows come over in the order of their ids, as they lie: to sort
-- them wants room in /tmp for all of them, and fills the index of ids at random.
CREATE TABLE executions_new (
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
    session_id TEXT,
    expires_us INTEGER,
    text_size INTEGER,
    outcome BLOB,
    text BLOB
) STRICT;

INSERT INTO executions_new (id, owner, labels, lang, status, idempotency_key, created_us, started_us,
                            finished_us, sandbox_id, session_id, expires_us, text_size, outcome, text)
    SELECT id, owner, labels, lang, status, idempotency_key, created_us, started_us,
           finished_us, sandbox_id, session_id, expires_us, text_size, outcome, text
    FROM executions;
DROP TABLE executions;
ALTER TABLE executions_new RENAME TO executions;

CREATE UNIQUE INDEX executions_by_key ON executions (owner, idempotency_key)
    WHERE idempotency_key IS NOT NULL;
CREATE INDEX executions_by_owner ON executions (owner, created_us DESC, id DESC);
CREATE INDEX executions_by_expiry ON executions (expires_us) WHERE expires_us IS NOT NULL;
CREATE INDEX executions_by_age ON executions (finished_us)
    WHERE expires_us IS NULL AND finished_us IS NOT NULL;
CREATE INDEX executions_unfinished ON executions (status) WHERE status IN ('queued', 'running');
CREATE INDEX executions_by_text ON executions (finished_us, text_size) WHERE text_size > 0;
