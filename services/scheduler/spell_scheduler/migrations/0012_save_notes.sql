-- How many saved files were written to meanwhile, and lines about them and about what was left out.
ALTER TABLE runs ADD COLUMN saved_changed int, ADD COLUMN save_notes text[] NOT NULL DEFAULT '{}';
