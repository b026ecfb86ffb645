# PostgreSQL 17 with everything that pgcache can use: pgvector, pg_cron, PL/Python; and its development tools.
#
#   docker build -t pgcache .
#   docker run -d --name pgcache -p 127.0.0.1:5432:5432 -e POSTGRES_PASSWORD=... -v pgcache:/var/lib/postgresql/data pgcache
#   python -m pgcache_py install --dsn postgresql://postgres:...@127.0.0.1/postgres
FROM debian:trixie-slim

# The packages come from this mirror, if it is given: lines as in /etc/apt/sources.list.
ARG APT_SOURCES=
RUN set -eu; \
    if [ -n "$APT_SOURCES" ]; then rm -f /etc/apt/sources.list.d/*; echo "$APT_SOURCES" >/etc/apt/sources.list; fi; \
    apt-get update; \
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        postgresql-17 postgresql-17-cron postgresql-17-pgvector postgresql-plpython3-17 python3-redis \
        postgresql-17-plpgsql-check postgresql-17-pgtap postgresql-17-plproxy; \
    pg_dropcluster 17 main; \
    rm -rf /var/lib/apt/lists/*; \
    install -d -o postgres -g postgres -m 700 /var/lib/postgresql/data

ENV PATH=/usr/lib/postgresql/17/bin:$PATH PGDATA=/var/lib/postgresql/data LANG=C.UTF-8
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
    fi; \
    unset POSTGRES_PASSWORD; \
    exec postgres \"$@\"", "postgres"]
