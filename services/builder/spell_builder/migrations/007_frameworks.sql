-- What a framework stood for when a request was resolved (a fingerprint): one that stands for something else now is
-- resolved again.

ALTER TABLE requests ADD COLUMN framework text;
