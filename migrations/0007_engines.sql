-- Several engines: which of an engine's runtimes a session has, and which engine keeps a layer. Those of before
-- were the native engine's, which had one. A key begins with the engine now, as two may have an image of one name.
ALTER TABLE sessions ADD COLUMN runtime TEXT NOT NULL DEFAULT '';
ALTER TABLE layers ADD COLUMN engine TEXT NOT NULL DEFAULT 'native';
UPDATE layers SET key = 'native ' || key;
