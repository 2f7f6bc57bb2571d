-- Roles: a release may carry its submitter's own signature. `guard_release` lets nobody change it; those of before have none.

ALTER TABLE releases ADD COLUMN signature bytea CHECK (octet_length(signature) = 64);
