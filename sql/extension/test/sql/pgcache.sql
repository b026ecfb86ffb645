-- What make installcheck runs.
\pset format unaligned
set client_min_messages = warning;
create extension pgcache cascade;
select e.extversion = i.version as same_version
from pg_extension as e cross join pgcache_internal.installed as i
where e.extname = 'pgcache' and i.component = 'pgcache';
select pgcache.cache_get('llm', 'k');
select pgcache.cache_set('llm', 'k', '{"response": "hi"}');
select pgcache.cache_get('llm', 'k');
select pgcache.cache_create_type('mine', max_entries => 10);
select pgcache.cache_set('mine', 'k', '[1, 2]', '1 hour', tags => '{a}');
select pgcache.cache_invalidate_tags('a');
select pgcache.cache_get('mine', 'k');
drop extension pgcache;
select pgcache.cache_get('llm', 'k');
create extension pgcache;
select pgcache.cache_get('llm', 'k');
drop extension pgcache;
drop schema pgcache cascade;
drop schema pgcache_internal cascade;
