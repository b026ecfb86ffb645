-- audio: synthesized speech (table cache_audio_chunks). The bytes are stored out of line and uncompressed: audio is.

select pgcache_internal.declare_type(
    'audio', 'cache_audio_chunks', 'synthesized speech', ttl => '24 hours',
    fields => '{
        "audio_data": "base64!", "format": "string!", "duration_ms": "count", "sample_rate": "count",
        "channels": "count", "voice": "string"
    }',
    writer => 'write_audio'
);

create or replace function pgcache_internal.put_audio(
    key text, audio_data bytea, format text, duration_ms bigint, sample_rate bigint, channels bigint, voice text,
    ttl interval, overwrite boolean
) returns boolean
language plpgsql volatile parallel unsafe security definer  -- not pinned: hot path
as $$
#variable_conflict use_variable
declare
    scope constant pg_catalog.text := pgcache_internal.current_tenant();
    moment constant pg_catalog.timestamptz := pgcache_internal.cache_now();
    fits constant boolean := audio_data is not null and format is not null
        and coalesce(least(duration_ms, sample_rate, channels) operator(pg_catalog.>=) 0::bigint, true)
        and coalesce(greatest(duration_ms, sample_rate, channels) operator(pg_catalog.<=) 999999999::bigint, true);
    clock bigint;
begin
    insert into pgcache.cache_audio_chunks as t (
        tenant, cache_key, audio_data, format, duration_ms, sample_rate, channels, voice,
        created_at, expires_at, last_accessed_at, hit_weight
    )
    select
        scope, key, audio_data, format,
        case when fits then duration_ms end, case when fits then sample_rate end, case when fits then channels end,
        voice, moment, pgcache_internal.expires_at(moment, ttl, pgcache_internal.type_ttl('audio')), moment,
        pgcache_internal.type_hit_weight('audio')
    where pgcache_internal.may_write('audio', key, ttl, scope) and fits
    on conflict on constraint cache_audio_chunks_pkey do update
    set audio_data = excluded.audio_data, format = excluded.format, duration_ms = excluded.duration_ms,
        sample_rate = excluded.sample_rate, channels = excluded.channels, voice = excluded.voice,
        created_at = excluded.created_at, expires_at = excluded.expires_at,
        last_accessed_at = excluded.last_accessed_at,
        cache_tags = excluded.cache_tags, cache_epoch = excluded.cache_epoch,
        cache_stale_until = excluded.cache_stale_until, cache_compute_ms = excluded.cache_compute_ms
    where overwrite or t.expires_at operator(pg_catalog.<=) moment
    returning pg_catalog.nextval('pgcache_internal.writes_audio') into clock;
    if clock is null then
        return pgcache_internal.explain_refusal(
            'audio', key,
            pg_catalog.jsonb_build_object(
                'audio_data', case when audio_data is not null then '' end, 'format', format,
                'duration_ms', duration_ms, 'sample_rate', sample_rate, 'channels', channels
            ),
            ttl
        );
    end if;
    if clock operator(pg_catalog.=) 1::bigint
        or pg_catalog.octet_length(audio_data) operator(pg_catalog.>) pgcache_internal.large_value()
    then
        perform pgcache_internal.note_writes(
            'audio', clock operator(pg_catalog.=) 1::bigint, pg_catalog.octet_length(audio_data)
        );
    end if;
    return true;
end
$$;

comment on function pgcache_internal.put_audio(text, bytea, text, bigint, bigint, bigint, text, interval, boolean) is
'Upserts an audio entry. Errors: as cache_set.';

create or replace function pgcache_internal.write_audio(
    key text, value jsonb, ttl interval, overwrite boolean
) returns boolean
language sql volatile parallel unsafe  -- not pinned: hot path
as $$
    select pgcache_internal.put_audio(
        key, pg_catalog.decode(value operator(pg_catalog.->>) 'audio_data', 'base64'),
        value operator(pg_catalog.->>) 'format', (value operator(pg_catalog.->>) 'duration_ms')::bigint,
        (value operator(pg_catalog.->>) 'sample_rate')::bigint, (value operator(pg_catalog.->>) 'channels')::bigint,
        value operator(pg_catalog.->>) 'voice', ttl, overwrite
    )
$$;

comment on function pgcache_internal.write_audio(text, jsonb, interval, boolean) is
'put_audio of a JSON value that fits.';

create or replace function pgcache.audio_key(text text, voice text, provider text, settings jsonb) returns text
language sql immutable parallel safe  -- not pinned: inlined
as $$
    select case
        when text is not null and voice is not null then pgcache.cache_key(
            text, voice, coalesce(provider, ''), pgcache_internal.canonical_json(coalesce(settings, '{}'))
        )
    end
$$;

comment on function pgcache.audio_key(text, text, text, jsonb) is
'The key of speech: cache_key of text, voice, provider and canonical settings; NULL if text or voice is.';

create or replace function pgcache.cache_get_audio(
    text text, voice text, provider text default '', settings jsonb default '{}'
) returns table (audio_data bytea, format text, duration_ms integer, sample_rate integer, channels integer)
language plpgsql volatile parallel unsafe security definer  -- not pinned: hot path
as $$
#variable_conflict use_column
declare
    scope constant pg_catalog.text := pgcache_internal.current_tenant();
    key constant pg_catalog.text := pgcache.audio_key(text, cache_get_audio.voice, provider, settings);
    gathered pg_catalog.text;
begin
    if pgcache_internal.is_readable('audio') then
        select
            t.audio_data, t.format, t.duration_ms, t.sample_rate, t.channels,
            pgcache_internal.gather_hit(
                'pgcache_internal.hits_audio', t.hit_weight, 'pgcache.hits_audio', t.ctid
            )
        into audio_data, format, duration_ms, sample_rate, channels, gathered
        from pgcache.cache_audio_chunks t
        where t.tenant operator(pg_catalog.=) scope and t.cache_key operator(pg_catalog.=) key
            and pgcache_internal.is_live(
                t.expires_at, t.cache_tags, t.tenant, t.cache_epoch, pgcache_internal.cache_now()
            );
    end if;
    if not found then
        perform pgcache_internal.count_miss('audio', key);
        return;
    elsif pgcache_internal.are_enough(gathered) then
        perform pgcache_internal.log_gathered('audio', key, gathered);
    end if;
    return next;
end
$$;

comment on function pgcache.cache_get_audio(text, text, text, jsonb) is
'The cached speech of a text in a voice: one row, or none on a miss. duration_ms in milliseconds, sample_rate in'
' Hz. settings are compared as JSON values. Errors: as cache_get.';

create or replace function pgcache.cache_set_audio(
    text text, voice text, audio_data bytea, format text, duration_ms bigint default null,
    sample_rate bigint default null, channels bigint default null, provider text default '',
    settings jsonb default '{}', ttl interval default null
) returns boolean
language sql volatile parallel unsafe  -- not pinned: hot path
as $$
    select pgcache_internal.is_writable() and pgcache_internal.put_audio(
        pgcache.audio_key(text, voice, provider, settings), audio_data, format, duration_ms, sample_rate, channels,
        voice, ttl, true
    )
$$;

comment on function pgcache.cache_set_audio(
    text, text, bytea, text, bigint, bigint, bigint, text, jsonb, interval
) is
'Caches the speech of a text in a voice. settings: whatever else it depends on (speed, language). ttl: default of the'
' type, 24 hours. Errors: as cache_set.';
