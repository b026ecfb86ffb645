#!/usr/bin/env bash
# Installs what the local server needs: PostgreSQL with every extension, pgvector, Redis; and a browser, if there is one.
#
#   provision.sh STATE_DIR [PACKAGE...]
#
# and the packages named, such as memcached for the benchmarks.
# Quick when nothing is missing. Without root it only prints what to install, and exits 1. What it installs is left
# switched off: the tests start servers of their own, and a cluster or a Redis that was there before is not touched.
set -euo pipefail

state=${1:?usage: provision.sh STATE_DIR [PACKAGE...]}
also=("${@:2}")
apt=(apt-get -qq -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0)
export DEBIAN_FRONTEND=noninteractive

say() { printf 'provision: %s\n' "$*"; }
fail() { say "$*" >&2; exit 1; }
installed() { dpkg-query -W -f '${Status}' "$1" 2>/dev/null | grep -q 'ok installed'; }
packaged() { [ -n "$(apt-cache show --no-all-versions "$1" 2>/dev/null)" ]; }
has_browser() { command -v chromium-headless-shell || command -v chromium; } >/dev/null
vector_is_there() { [ -e "/usr/share/postgresql/$major/extension/vector.control" ]; }

# The oldest release that pgcache supports, of those that this system packages with pg_cron: 15 on Debian 12.
choose_major() {
    for major in 15 16 17 18; do
        if packaged "postgresql-$major-cron"; then return 0; fi
    done
    return 1
}

list_missing() {
    missing=()
    for package in "postgresql-$major" "postgresql-plpython3-$major" "postgresql-server-dev-$major" \
        "postgresql-$major"-{cron,plpgsql-check,pgtap,plproxy} redis-server python3-redis "${also[@]}"; do
        installed "$package" || missing+=("$package")
    done
    if ! has_browser && packaged chromium-headless-shell; then missing+=(chromium-headless-shell); fi
    if ! vector_is_there && packaged "postgresql-$major-pgvector"; then missing+=("postgresql-$major-pgvector"); fi
    if ! vector_is_there && ! packaged "postgresql-$major-pgvector"; then
        for package in build-essential dpkg-dev; do installed "$package" || missing+=("$package"); done
    fi
}

clusters() {
    if command -v pg_lsclusters >/dev/null; then pg_lsclusters --no-header | awk '{ print $1, $2 }' | sort; fi
}

install_packages() {
    say "installing ${missing[*]}"
    local before service new_services=() policy=/usr/sbin/policy-rc.d
    before=$(clusters)
    for service in redis-server memcached pgbouncer; do installed $service || new_services+=("$service"); done
    # Debian starts a service as it installs it, unless this file says no.
    if [ ! -e $policy ]; then
        printf '#!/bin/sh\nexit 101\n' >$policy
        chmod 755 $policy
        trap 'rm -f /usr/sbin/policy-rc.d' EXIT
    fi
    "${apt[@]}" install -y --no-install-recommends "${missing[@]}" >"$state/apt.log" 2>&1 ||
        { tail -n 20 "$state/apt.log" >&2; fail "apt-get install failed"; }
    # The empty cluster that the package has just made would start at the next boot, and so would the services.
    clusters | { grep -vxF -- "$before" || true; } | while read -r version name; do
        pg_dropcluster --stop "$version" "$name"
    done
    for service in "${new_services[@]}"; do
        if command -v systemctl >/dev/null; then systemctl disable "$service" >/dev/null 2>&1 || true; fi
    done
}

# Debian 12 has no pgvector for PostgreSQL 15. Debian 13's source package builds there, taken from the mirror that apt
# already uses, through lists of our own so that the system's apt never sees Debian 13.
build_vector() {
    local mirror work=$state/pgvector
    mirror=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' 'Label: Debian' | head -n 1)
    [ -n "$mirror" ] || fail "pgvector is not packaged for PostgreSQL $major: build github.com/pgvector/pgvector against it"
    say "building pgvector for PostgreSQL $major"
    rm -rf "$work"
    mkdir -p "$work"/lists/partial "$work"/cache "$work"/source
    echo "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror trixie main" >"$work/sources.list"
    local private=(-o "Dir::Etc::SourceList=$work/sources.list" -o Dir::Etc::SourceParts=-
        -o "Dir::State::Lists=$work/lists" -o "Dir::Cache=$work/cache" -o APT::Sandbox::User=root)
    (
        cd "$work/source"
        "${apt[@]}" "${private[@]}" update
        "${apt[@]}" "${private[@]}" source pgvector
        cd pgvector-*/
        make -j"$(nproc)" with_llvm=no "PG_CONFIG=/usr/lib/postgresql/$major/bin/pg_config"
        make install with_llvm=no "PG_CONFIG=/usr/lib/postgresql/$major/bin/pg_config"
    ) >"$work/build.log" 2>&1 || { tail -n 20 "$work/build.log" >&2; fail "pgvector did not build"; }
    rm -rf "$work/sources.list" "$work/lists" "$work/cache" "$work/source"
}

command -v apt-get >/dev/null || fail "needs Debian or Ubuntu; elsewhere, install PostgreSQL, pgvector and pg_cron yourself"
root=$([ "$(id -u)" = 0 ] && echo yes || echo '')
if ! choose_major; then
    if [ "$root" ]; then "${apt[@]}" update; fi
    choose_major || fail "no PostgreSQL 15 to 18 with pg_cron is packaged here"
fi
list_missing
if [ ${#missing[@]} = 0 ] && vector_is_there; then exit 0; fi
if [ -z "$root" ]; then
    vector_is_there || missing+=(pgvector)
    fail "needs root to install: ${missing[*]}"
fi
mkdir -p "$state"
if [ ${#missing[@]} -gt 0 ]; then
    "${apt[@]}" update
    list_missing # a name may have been unknown before the update
    install_packages
fi
vector_is_there || build_vector
say "PostgreSQL $major and its extensions are installed"
