-- Whether a notice stands that the machine is about to be taken away: it gets no more runs then.
ALTER TABLE machines ADD COLUMN reclaimed boolean NOT NULL DEFAULT false;
