-- Whether the relay sleeps, so that who changes an entry has to wake it. A sequence: whoever looks sees what is now.
create sequence pgcache_internal.hot_asleep minvalue 0 start 1;
comment on sequence pgcache_internal.hot_asleep is
'Whether the relay waits for NOTIFY: 0 if it looks by itself; 1 or never set, if not.';
