# PostgreSQL 17 with pgcache in its database postgres, and all that it can use: pgvector, pg_cron, PL/Python; and its
# development tools.
#
#   docker build -t pgcache .
#   docker run -d --name pgcache -p 127.0.0.1:5432:5432 -e POSTGRES_PASSWORD=... -v pgcache:/var/lib/postgresql/data pgcache
#   psql postgresql://postgres:...@127.0.0.1/postgres -c "SELECT cache_set('store', 'k', '1'), cache_get('store', 'k')"
#
# In other databases: CREATE EXTENSION pgcache CASCADE. The commands: docker exec pgcache python3 -m pgcache_py status.
FROM debian:trixie-slim

# The packages come from this mirror, if it is given: lines as in /etc/apt/sources.list.
ARG APT_SOURCES=
RUN set -eu; \
    if [ -n "$APT_SOURCES" ]; then rm -f /etc/apt/sources.list.d/*; echo "$APT_SOURCES" >/etc/apt/sources.list; fi; \
    apt-get update; \
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        postgresql-17 postgresql-17-cron postgresql-17-pgvector postgresql-plpython3-17 python3-psycopg python3-redis \
        postgresql-17-plpgsql-check postgresql-17-pgtap postgresql-17-plproxy; \
    pg_dropcluster 17 main; \
    rm -rf /var/lib/apt/lists/*; \
    install -d -o postgres -g postgres -m 700 /var/lib/postgresql/data

# As the wheel has it.
COPY pgcache_py /usr/lib/python3/dist-packages/pgcache_py
COPY sql /usr/lib/python3/dist-packages/pgcache_py/_sql
COPY plpython /usr/lib/python3/dist-packages/pgcache_py/_plpython
RUN set -eu; \
    python3 -m pgcache_py extension /tmp/pgcache; \
    cp /tmp/pgcache/pgcache.control /tmp/pgcache/pgcache--*.sql /usr/share/postgresql/17/extension; \
    rm -r /tmp/pgcache

ENV PATH=/usr/lib/postgresql/17/bin:$PATH PGDATA=/var/lib/postgresql/data LANG=C.UTF-8 DATABASE_URL=dbname=postgres
USER postgres
VOLUME /var/lib/postgresql/data
EXPOSE 5432
STOPSIGNAL SIGINT
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s CMD ["pg_isready", "--quiet"]

# The first start makes the cluster. Arguments of docker run are the server's: -c work_mem=64MB.
ENTRYPOINT ["bash", "-euc", "\
    if [ ! -s $PGDATA/PG_VERSION ]; then \
        initdb --username=postgres --pwfile=<(echo \"${POSTGRES_PASSWORD:?is needed at the first start}\") \
            --auth-local=trust --auth-host=scram-sha-256 --encoding=UTF8; \
        echo 'host all all all scram-sha-256' >>$PGDATA/pg_hba.conf; \
        printf '%s\\n' \"listen_addresses = '*'\" 'shared_preload_libraries = pg_cron' \
            'cron.database_name = postgres' 'cron.use_background_workers = on' >>$PGDATA/postgresql.conf; \
        printf '%s;\\n\\n' 'CREATE EXTENSION pg_cron' 'CREATE EXTENSION plpython3u' \
            'CREATE EXTENSION pgcache CASCADE' 'SELECT pgcache.cache_schedule()' \
            'ALTER DATABASE postgres SET search_path = \"$user\", public, pgcache' | \
            postgres --single -j -c exit_on_error=on postgres >/dev/null || { rm -r $PGDATA/*; exit 1; }; \
    fi; \
    unset POSTGRES_PASSWORD; \
    exec postgres \"$@\"", "postgres"]
