-- What owners with a limit have saved, as far as somebody has added it up lately: changed by every save, forgotten where
-- something is named no more, or again.
CREATE TABLE owner_use (
    owner_id bigint      PRIMARY KEY,
    files    bigint      NOT NULL,
    bytes    bigint      NOT NULL,
    at       timestamptz NOT NULL DEFAULT now()
);
