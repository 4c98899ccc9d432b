-- Lists of one rule's alerts would look through all others, of which a flood leaves many.
CREATE INDEX alerts_by_rule ON alerts (rule, raised_at DESC, number DESC);
