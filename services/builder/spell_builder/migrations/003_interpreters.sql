-- Which interpreter an environment is made for: a request may name another than the default one.

ALTER TABLE environments ADD COLUMN interpreter jsonb;
