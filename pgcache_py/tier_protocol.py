"""What the hot tier keeps in Redis: the names of its keys, and the scripts that change it.

The client and the relay share this file; in PL/Python it is the beginning of a function's body. So it imports nothing
but the standard library.

All keys share a prefix, `pgcache` unless chosen otherwise (in a Redis Cluster: one with a hash tag, `{pgcache}`):

    prefix:alive         the epoch, for as long as the relay vouches that it has delivered what was committed
    prefix:asof          of what time it vouches, in ms: what was committed before is delivered
    prefix:epoch         the epoch, without expiry
    prefix:owner         whose it is: the database, and when its server was started
    prefix:e:type:n:tenant:key   an entry: 'epoch:version:json'; n is the length of the tenant
    prefix:l:type:n:tenant:key   its leases, a hash: token -> when it was taken; `after` -> the highest version that was
                                 delivered meanwhile
"""

ALIVE = "alive"
ASOF = "asof"
EPOCH = "epoch"
OWNER = "owner"
LEASE_MS = 10_000
LEASES = 256
"""How many leases of one key are given at a time; who gets none reads PostgreSQL, and puts nothing into Redis."""


def tier_key(prefix: str, name: str) -> str:
    """One of the keys that the whole tier has: ALIVE, ASOF, EPOCH or OWNER."""
    return f"{prefix}:{name}"


def entry_key(prefix: str, type: str, tenant: str, key: str) -> str:
    return f"{prefix}:e:{_of(type, tenant, key)}"


def lease_key(prefix: str, type: str, tenant: str, key: str) -> str:
    return f"{prefix}:l:{_of(type, tenant, key)}"


def _of(type: str, tenant: str, key: str) -> str:
    # No type has a colon in its name: who asks for store:1:b must not get what another tenant has in store.
    return f"{type.replace(':', '::')}:{len(tenant)}:{tenant}:{key}"


# The client's. -------------------------------------------------------------------------------------------------------

# KEYS: alive, leases. ARGV: token (any text but 'after').
# The epoch, or nil if there is no lease to be had: the relay does not vouch, or too many wait for this key.
# A lease must be taken before the statement in PostgreSQL begins. What is not pushed should be given back: HDEL.
# Once there is a tombstone, leases no longer prolong the record, so that it cannot keep a key out for good.
LEASE = f"""
local epoch = redis.call('GET', KEYS[1])
if not epoch or redis.call('HLEN', KEYS[2]) >= {LEASES} then return false end
local time = redis.call('TIME')
redis.call('HSET', KEYS[2], ARGV[1], string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000)))
if redis.call('HEXISTS', KEYS[2], 'after') == 0 then redis.call('PEXPIRE', KEYS[2], {LEASE_MS}) end
return epoch
"""

# KEYS: alive, leases, entry. ARGV: token, epoch, version, ttl in ms (counted from the lease), json.
# 'stored', or why not: 'epoch' (another one, or nobody vouches), 'lease' (lost or too old), 'version' (a newer one was
# delivered since the lease), 'newer' (the same or a newer one is there), 'expired'.
PUSH = """
if redis.call('GET', KEYS[1]) ~= ARGV[2] then return 'epoch' end
local lease = redis.call('HMGET', KEYS[2], ARGV[1], 'after')
if not lease[1] then return 'lease' end
local outcome = 'stored'
local epoch, version = string.match(redis.call('GETRANGE', KEYS[3], 0, 99), '^([^:]*):(%d+):')
local time = redis.call('TIME')
local left = math.floor(ARGV[4] - (time[1] * 1000 + math.floor(time[2] / 1000) - lease[1]))
if lease[2] and tonumber(lease[2]) > tonumber(ARGV[3]) then
    outcome = 'version'
elseif epoch == ARGV[2] and tonumber(version) >= tonumber(ARGV[3]) then
    outcome = 'newer'
elseif left <= 0 then
    outcome = 'expired'
else  -- before the first other change, or a Redis that is full would take it
    redis.call('SET', KEYS[3], ARGV[2] .. ':' .. ARGV[3] .. ':' .. ARGV[5], 'PX', string.format('%.0f', left))
end
redis.call('HDEL', KEYS[2], ARGV[1])
return outcome
"""

# The relay's, and whoever knows a new version. -----------------------------------------------------------------------

# KEYS: leases, entry, and so on for further keys. ARGV: epoch, then a version for each key.
# Afterwards no older version is there, and none can be put there. Where Redis is full it takes no tombstone: then the
# leases go, as does whatever else is under these names. Returns how many entries it removed.
# (Who does not know the version: UNLINK leases and entry.)
DELIVER = """
local removed = 0
for place = 2, #ARGV do
    local leases, entry, version = KEYS[2 * place - 3], KEYS[2 * place - 2], ARGV[place]
    if redis.call('EXISTS', leases) == 1 then
        local after = redis.pcall('HGET', leases, 'after')
        if type(after) ~= 'string' or (tonumber(after) or 0) < tonumber(version) then
            local noted = redis.pcall('HSET', leases, 'after', version)
            if type(noted) == 'table' then redis.call('DEL', leases) end
        end
    end
    local header = redis.pcall('GETRANGE', entry, 0, 99)
    local epoch, stored = string.match(type(header) == 'string' and header or '', '^([^:]*):(%d+):')
    if epoch ~= ARGV[1] or tonumber(stored) < tonumber(version) then
        removed = removed + redis.call('UNLINK', entry)
    end
end
return removed
"""

# What a Redis was when an epoch began: another run, or a copy that was promoted, may have brought back old entries.
_IDENTITY = """
local function identity()
    return string.match(redis.call('INFO', 'server'), 'run_id:(%x+)') .. '/'
        .. string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
"""

# KEYS: epoch, owner, alive. Returns time in ms, identity, epoch, owner, alive ('' for what is not there).
LOOK = (
    _IDENTITY
    + """
local found = {string.format('%.0f', now), identity()}
for place, key in ipairs(KEYS) do found[place + 2] = redis.call('GET', key) or '' end
return found
"""
)

# KEYS: alive, epoch, owner. ARGV: epoch, identity, owner, the owner before, an epoch left behind or ''.
# Begins an epoch: all entries are invisible from then on. 'begun', or why not: 'redis' (it is another one), 'owner'.
# The owner before gives way if nobody vouches, or only for the epoch that this server itself has left behind.
BEGIN = (
    _IDENTITY
    + """
if identity() ~= ARGV[2] then return 'redis' end
local owner, alive = redis.call('GET', KEYS[3]), redis.call('GET', KEYS[1])
if owner and owner ~= ARGV[3] and (owner ~= ARGV[4] or alive and alive ~= ARGV[5]) then return 'owner' end
redis.call('SET', KEYS[3], ARGV[3])
redis.call('SET', KEYS[2], ARGV[1])
redis.call('DEL', KEYS[1])
return 'begun'
"""
)

# KEYS: alive, epoch, asof. ARGV: epoch, identity, time in ms, max_staleness in ms.
# Vouches that all that was committed before that time is delivered. 'vouched', or why not: 'redis' (it is another
# one), 'epoch', 'late' (that was longer ago than max_staleness).
VOUCH = (
    _IDENTITY
    + """
if identity() ~= ARGV[2] then return 'redis' end
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 'epoch' end
local left = ARGV[3] + ARGV[4] - now
if left <= 0 then return 'late' end
left = string.format('%.0f', left)
if redis.call('GET', KEYS[1]) == ARGV[1] then
    redis.call('PEXPIRE', KEYS[1], left) -- which Redis takes even where it is full
else
    redis.call('SET', KEYS[1], ARGV[1], 'PX', left)
end
redis.pcall('SET', KEYS[3], ARGV[3], 'PX', left) -- for clients that wait for it; not where Redis is full
return 'vouched'
"""
)
