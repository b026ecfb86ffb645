-- What writers of hot types pay for.

-- Whether the relay sleeps, so that who changes an entry has to wake it. A sequence: whoever looks sees what is now.
create sequence pgcache_internal.hot_asleep minvalue 0 start 0;
comment on sequence pgcache_internal.hot_asleep is
'Whether the relay waits for NOTIFY: 1 if so; 0 or never set if it looks by itself, or if there is none.';
