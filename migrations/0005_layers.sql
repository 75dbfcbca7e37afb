-- Library layers: what an installer made of a set of requirements, kept by the engine under a name. A row is
-- written when the layer stands there and removed before it is. Who asks for the same key gets the same layer.
CREATE TABLE layers (
    name TEXT PRIMARY KEY,
    owner TEXT NOT NULL,
    key TEXT NOT NULL UNIQUE,
    lang TEXT NOT NULL,
    image TEXT NOT NULL,
    requirements TEXT NOT NULL,
    resolved TEXT NOT NULL,
    size_bytes INTEGER NOT NULL,
    created_us INTEGER NOT NULL,
    used_us INTEGER NOT NULL,
    keep INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- What a session has: the layer may be gone for others by now, the requirements are what a further one begins with.
CREATE TABLE session_layers (
    session_id TEXT PRIMARY KEY,
    layer TEXT NOT NULL,
    requirements TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TRIGGER session_layers_end AFTER DELETE ON sessions BEGIN
    DELETE FROM session_layers WHERE session_id = old.id;
END;
