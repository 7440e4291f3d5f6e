-- What the runtime holds and no record stands for, as the sweep saw it last.

CREATE TABLE orphans (
    uid TEXT NOT NULL,
    kind TEXT NOT NULL,
    record TEXT NOT NULL,
    PRIMARY KEY (uid, kind)
) WITHOUT ROWID;
