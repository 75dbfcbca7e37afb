-- The text of an outcome is kept as bytes beside the object, so that the oldest can be dropped alone
-- when all together are too large. Outcomes of before keep their text in the object.
ALTER TABLE executions ADD COLUMN text BLOB;
ALTER TABLE executions ADD COLUMN text_size INTEGER;

CREATE INDEX executions_by_text ON executions (finished_us, text_size) WHERE text_size > 0;

-- A sandbox may be stopped. The table holds what the running server made: nothing to take over.
DROP TABLE sandboxes;
CREATE TABLE sandboxes (
    id TEXT PRIMARY KEY,
    owner TEXT NOT NULL,
    engine TEXT NOT NULL,
    state TEXT NOT NULL
        CHECK (state IN ('creating', 'ready', 'busy', 'stopped', 'destroying', 'gone')),
    created_us INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
