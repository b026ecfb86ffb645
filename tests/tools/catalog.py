"""Everything that an installation leaves in the catalog, to compare an upgraded database with a fresh one."""

from __future__ import annotations

from tests.static.test_catalog import OURS, listing
from tests.tools.session import Session

# The definition of each object. What a role may do is named by the role, so that databases can be compared.
DEFINITIONS = f"""
    SELECT format('%s: %s', p.oid::regprocedure, pg_get_functiondef(p.oid)) FROM pg_proc p WHERE pronamespace IN {OURS}
    UNION ALL
    SELECT format('%s: %s', c.oid::regclass, pg_get_viewdef(c.oid)) FROM pg_class c
    WHERE relnamespace IN {OURS} AND relkind = 'v'
    UNION ALL
    SELECT format('%s %s: %s %s', c.oid::regclass, c.relkind, c.relpersistence, c.reloptions) FROM pg_class c
    WHERE relnamespace IN {OURS}
    UNION ALL
    SELECT format('%s.%s: default %s, identity %s, storage %s, compression %s, statistics %s', c.oid::regclass,
        a.attname, pg_get_expr(d.adbin, d.adrelid), a.attidentity, a.attstorage, a.attcompression, a.attstattarget)
    FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
    LEFT JOIN pg_attrdef d ON (d.adrelid, d.adnum) = (a.attrelid, a.attnum)
    WHERE relnamespace IN {OURS} AND relkind IN ('r', 'p') AND a.attnum > 0 AND NOT a.attisdropped
    UNION ALL
    SELECT format('%s: %s', conrelid::regclass, pg_get_constraintdef(oid)) FROM pg_constraint
    WHERE connamespace IN {OURS}
    UNION ALL
    SELECT format('%s: %s', tgname, pg_get_triggerdef(t.oid)) FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
    WHERE relnamespace IN {OURS} AND NOT tgisinternal
    UNION ALL
    SELECT format('%s: %s', s.seqrelid::regclass, (to_jsonb(s) - 'seqrelid')::text) FROM pg_sequence s
    JOIN pg_class c ON c.oid = s.seqrelid WHERE relnamespace IN {OURS}
    UNION ALL
    SELECT format('%s: %s', pg_describe_object(classoid, objoid, objsubid), description) FROM pg_description d
    WHERE (classoid = 'pg_proc'::regclass AND objoid IN (SELECT oid FROM pg_proc WHERE pronamespace IN {OURS}))
        OR (classoid = 'pg_class'::regclass AND objoid IN (SELECT oid FROM pg_class WHERE relnamespace IN {OURS}))
    UNION ALL
    SELECT format('%s: %s may %s%s', object, CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END,
        a.privilege_type, CASE WHEN a.is_grantable THEN ' and grant it' END)
    FROM (
        SELECT p.oid::regprocedure::text, proacl, proowner FROM pg_proc p WHERE pronamespace IN {OURS}
        UNION ALL SELECT c.oid::regclass::text, relacl, relowner FROM pg_class c WHERE relnamespace IN {OURS}
        UNION ALL SELECT c.oid::regclass || '.' || attname, attacl, relowner
        FROM pg_attribute JOIN pg_class c ON c.oid = attrelid WHERE relnamespace IN {OURS}
        UNION ALL SELECT nspname, nspacl, nspowner FROM pg_namespace WHERE oid IN {OURS}
    ) o (object, acl, owner) CROSS JOIN LATERAL aclexplode(acl) a WHERE a.grantee <> owner
    UNION ALL
    SELECT 'owner: ' || owner::regrole FROM (
        SELECT proowner FROM pg_proc WHERE pronamespace IN {OURS}
        UNION SELECT relowner FROM pg_class WHERE relnamespace IN {OURS}
    ) o (owner)
    UNION ALL
    SELECT 'type: ' || (to_jsonb(t) - 'created_at')::text FROM pgcache_internal.types t
    UNION ALL
    SELECT 'template: ' || (to_jsonb(t))::text FROM pgcache_internal.templates t
    UNION ALL
    SELECT 'setting: ' || (to_jsonb(s))::text FROM pgcache_internal.settings s
    UNION ALL
    SELECT 'own: ' || (to_jsonb(m) - 'made_at')::text FROM pgcache_internal.made_objects m
"""


def _without_order(line: str) -> str:
    """A column that an upgrade adds comes last."""
    kind, colon, columns = line.partition(": ")
    return kind + colon + ", ".join(sorted(columns.split(", "))) if "table " in kind else line


def catalog(ask: Session) -> list[str]:
    """A line, or a few, for each fact."""
    facts = [_without_order(line) for line in listing(ask).splitlines()]
    ask("SET search_path = public")  # so that all names are written out
    facts += ask.column(DEFINITIONS)
    ask('SET search_path = "$user", public, pgcache')
    return sorted(facts)
