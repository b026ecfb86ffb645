"""The page of statistics, in a real browser: what it shows, to whom, and how it is used.

UPDATE_GOLDEN=1 takes the pictures for the documentation.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from decimal import Decimal
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser, Page
from psycopg.conninfo import make_conninfo

from pgcache_py.setup.install import install
from tests.conftest import NewRole
from tests.serve import world
from tests.tools.served import Serve, serving
from tests.tools.session import Session
from tests.tools.waiting import wait_until

pytestmark = pytest.mark.once

PICTURES = Path(__file__).parents[2] / "docs"
PERIODS = {"hour": "1 hour", "day": "1 day", "month": "30 days"}
# Of the rows of a table: the text of the header, and the values of the numbers, None for one that is missing.
NUMBERS = """table => Object.fromEntries([...table.querySelectorAll('tbody tr')].map(row => [
    row.querySelector('th').innerText + (row.querySelector('td:not(.number) bdi')?.innerText ?? ''),
    [...row.querySelectorAll('td.number')].map(cell => cell.querySelector('data')?.value ?? null),
]))"""
SHOWN = "() => [...document.querySelectorAll('data')].map(one => [one.value, one.textContent])"
UNITS = {"": 1.0, "B": 1, "kB": 1024, "MB": 1024**2, "GB": 1024**3, "TB": 1024**4, "%": 0.01}


@pytest.fixture(scope="module")
def month(shared_dsn: str) -> Iterator[Session]:
    """A session in a database that has been at work for a month."""
    ask = Session(shared_dsn)
    ask("SET timezone = 'UTC'")
    world.fill(ask)
    world.month(ask)
    yield ask
    ask.close()


@pytest.fixture(scope="module")
def address(month: Session, shared_dsn: str) -> Iterator[str]:
    """Where its statistics are served."""
    with serving() as serve:
        yield str(serve(make_conninfo(shared_dsn, options="-c timezone=UTC")).base_url)


@pytest.fixture
def tab(browser: Browser) -> Iterator[Page]:
    """A page of the browser's, which reports no error."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
    page = context.new_page()
    said: list[str] = []  # but that a server is not there, which tests make so
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    yield page
    context.close()
    assert [line for line in said if "Failed to load resource" not in line] == []


def rows(tab: Page, table: str) -> dict[str, list[Decimal | None]]:
    found: dict[str, list[str | None]] = tab.locator(f"table#{table}").evaluate(NUMBERS)
    return {name: [None if value is None else Decimal(value) for value in values] for name, values in found.items()}


def keyed(found: list[tuple[Any, ...]]) -> dict[str, list[Any]]:
    return {str(name): list(values) for name, *values in found}


# What it shows ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("period", PERIODS)
def test_every_number_is_the_views(month: Session, address: str, tab: Page, period: str) -> None:
    tab.goto(f"{address}/?last={period}")
    tab.locator("summary").click()
    number = 0

    def expect(table: str, query: str, *arguments: Any) -> None:
        nonlocal number
        expected = keyed(month.rows(query, *arguments))
        assert expected
        assert rows(tab, table) == expected
        number += sum(value is not None for values in expected.values() for value in values)

    sums = "round(sum(hits)::numeric / sum(hits + misses), 4), sum(money_saved), sum(tokens_saved), sum(hits)"
    sums += ", sum(misses), sum(evicted), sum(cleaned)"
    periods = [month.rows(f"SELECT {sums} FROM cache_stats_since(%s)", length)[0] for length in PERIODS.values()]
    periods += month.rows(f"SELECT {sums} FROM cache_stats")
    summary = rows(tab, "summary")
    assert list(summary.values()) == [list(values) for values in zip(*periods, strict=True)]
    assert all(summary["Hits"])
    number += sum(map(len, summary.values()))

    unit, since, form = ("day", "29 days", "FMDD Mon") if period == "month" else ("hour", "23 hours", "HH24:MI")
    expect("recorded", f"""
        SELECT to_char(begin, '{form}'), sum(hits), sum(misses), round(sum(hits) / nullif(sum(hits + misses), 0), 4),
            sum(tokens_saved), sum(money_saved), sum(evicted), sum(cleaned)
        FROM cache_stats_history, date_trunc('{unit}', hour) AS begin
        WHERE begin >= date_trunc('{unit}', now()) - interval '{since}' GROUP BY begin ORDER BY begin DESC
    """)  # fmt: skip
    expect("types", """
        SELECT type, n.hit_rate, n.hits, n.misses, n.money_saved, n.evicted,
            n.cleaned, s.entries, s.max_entries, s.bytes, s.max_bytes
        FROM cache_stats s JOIN cache_stats_since(%s) n USING (type)
    """, PERIODS[period])  # fmt: skip
    expect("top", "SELECT cache_key || type, hit_count, bytes FROM cache_top WHERE hit_count > 0")
    expect("latencies", "SELECT type || operation, samples, p50_ms, p95_ms, max_ms FROM cache_latency")
    expect("jobs", "SELECT job_name, extract(epoch FROM duration), removed FROM cache_jobs")

    used = tab.locator("table#types td:last-child data").evaluate_all("all => all.map(one => one.value)")
    limits = month.column("""
        SELECT greatest(entries::float8 / max_entries, bytes::float8 / max_bytes) FROM cache_stats
        WHERE max_entries IS NOT NULL OR max_bytes IS NOT NULL ORDER BY type
    """)
    assert [float(value) for value in used] == pytest.approx(limits)
    assert tab.locator("data").count() == number + len(used)  # and there is no other


def test_what_people_read_is_the_number(address: str, tab: Page) -> None:
    tab.goto(f"{address}/?last=month")
    found = tab.evaluate(SHOWN)
    assert len(found) > 100
    for exact, shown in found:
        amount, unit = re.fullmatch(r"\$?([\d,.]+) ?(\D*)", shown).groups()  # type: ignore[union-attr]
        assert float(amount.replace(",", "")) * UNITS[unit] == pytest.approx(float(exact), rel=0.06, abs=6e-3)


@pytest.mark.parametrize("period", ["day", "month"])
def test_charts_are_drawn_to_scale(month: Session, address: str, tab: Page, period: str) -> None:
    tab.goto(f"{address}/?last={period}")
    unit, since, form = ("day", "29 days", "FMDD Mon") if period == "month" else ("hour", "23 hours", "HH24:MI")
    recorded = month.rows(f"""
        SELECT to_char(begin, '{form}'), sum(hits), sum(misses) FROM cache_stats_history,
            date_trunc('{unit}', hour) AS begin
        WHERE begin >= date_trunc('{unit}', now()) - interval '{since}' GROUP BY begin ORDER BY begin
    """)
    drawn = tab.locator("svg[aria-labelledby^=requests] g").evaluate_all(
        "all => all.map(g => [g.querySelector('title').textContent,"
        " +g.querySelector('.hits').getAttribute('height'), +g.querySelector('.misses').getAttribute('height')])"
    )
    tips = [f"{name}: {hits:,} hits, {misses:,} misses" for name, hits, misses in recorded]
    assert [tip for tip, *_ in drawn] == tips
    most = max(hits + misses for _, hits, misses in recorded)
    scale = float(most) / max(one + other for _, one, other in drawn)
    for (_, hits, misses), (_, one, other) in zip(recorded, drawn, strict=True):
        assert (one * scale, other * scale) == pytest.approx((float(hits), float(misses)), abs=0.1 * scale)


def test_health_jobs_and_watches(month: Session, address: str, tab: Page) -> None:
    tab.goto(address)
    alerts = month.rows("SELECT status, check_name, detail, hint FROM cache_health() WHERE status <> 'ok'")[1:]
    shown = tab.locator(".alerts li").all_inner_texts()
    assert len(shown) == len(alerts) > 1
    for text, alert in zip(shown, alerts, strict=True):
        for part in alert:
            assert part in " ".join(text.split())
    assert tab.locator(".badge").inner_text() == "warning"
    watches = month.rows("SELECT relation::text, tag, state, detail FROM cache_watches ORDER BY state = 'ok', 1, 2")
    cells = "all => all.map(row => [...row.cells].map(cell => cell.innerText))"
    assert tab.locator("table#watches tbody tr").evaluate_all(cells) == [list(watch) for watch in watches]


def test_a_new_installation(dsn: str, serve: Serve, tab: Page) -> None:
    tab.goto(str(serve(dsn).base_url))
    text = tab.locator("main").inner_text()
    for part in ("Nothing is recorded yet", "No entry has hits", "No call was timed", "No table is watched", "checks."):
        assert part in text
    assert rows(tab, "summary")["Hit rate"] == [None] * 4
    assert tab.locator("figure").count() == 0


# How it is used -----------------------------------------------------------------------------------------------------


def test_without_javascript(address: str, browser: Browser, tab: Page) -> None:
    tab.goto(address)
    with_script = tab.locator("#page").inner_text()
    page = browser.new_context(java_script_enabled=False, viewport={"width": 1280, "height": 900}).new_page()
    page.goto(address)
    without = page.locator("#page").inner_text()
    time = re.compile(r"as of .*")
    assert time.sub("", without) == time.sub("", with_script)
    assert not page.locator("#pause").is_visible()
    page.get_by_role("link", name="Last 30 days").click()
    assert page.url.endswith("?last=month")
    assert page.get_by_role("heading", name="By day").is_visible()
    page.get_by_text("The same in figures").click()
    assert page.locator("table#recorded").is_visible()
    page.context.close()


def hits(tab: Page) -> Decimal | None:
    return rows(tab, "summary")["Hits"][-1]


def later(tab: Page) -> None:
    """Ten seconds and more, by the page's clock."""
    tab.clock.fast_forward(11_000)
    tab.wait_for_load_state("networkidle")


def test_it_refreshes_itself_and_leaves_the_reader_alone(dsn: str, ask: Session, serve: Serve, tab: Page) -> None:
    ask("SELECT cache_set('store', 'k', '1'), pgcache_internal.take_snapshot()")
    tab.clock.install()
    client = serve(dsn)
    tab.goto(str(client.base_url))
    tab.get_by_text("The same in figures").click()
    tab.locator("#last-month").focus()
    ask("SELECT cache_get('store', 'k') FROM generate_series(1, 5)")
    assert hits(tab) == 0
    wait_until(lambda: later(tab) or hits(tab) == 5)
    assert tab.evaluate("document.activeElement.id") == "last-month"
    assert tab.locator("table#recorded").is_visible()

    pause = tab.get_by_role("button", name="Pause refreshing")
    pause.focus()
    tab.keyboard.press("Space")
    assert pause.get_attribute("aria-pressed") == "true"
    asked: list[str] = []
    tab.on("request", lambda request: asked.append(request.url))
    later(tab)
    assert asked == []
    tab.keyboard.press("Space")
    wait_until(lambda: later(tab) or asked)

    client.process.terminate()
    client.process.wait(30)
    wait_until(lambda: later(tab) or "does not answer" in tab.get_by_role("status").inner_text())
    assert hits(tab) == 5
    serve(dsn, port=client.port)
    wait_until(lambda: later(tab) or tab.get_by_role("status").inner_text() == "")


def test_a_database_without_pgcache_and_then_with_it(empty_dsn: str, serve: Serve, tab: Page) -> None:
    tab.clock.install()
    answer = tab.goto(str(serve(empty_dsn).base_url))
    assert answer
    assert answer.status == 503
    assert "no statistics" in tab.locator("h2").inner_text()
    assert "python -m pgcache_py install" in tab.locator("main").inner_text()
    install(empty_dsn, cron=False)
    wait_until(lambda: later(tab) or tab.locator("table#summary").count())


def test_by_keyboard_alone(address: str, tab: Page) -> None:
    """Everything that can be used has its turn, and shows when it has."""
    tab.goto(address)
    places = tab.evaluate("document.querySelectorAll('a, button, summary, .scroll').length")
    hidden = tab.evaluate("document.querySelectorAll('details:not([open]) .scroll').length")
    seen = []
    for _ in range(places - hidden):
        tab.keyboard.press("Tab")
        seen.append(
            tab.evaluate("""() => {
            const style = getComputedStyle(document.activeElement);
            return [document.activeElement.id || document.activeElement.textContent, style.outlineStyle,
                document.activeElement.matches('.skip') || parseFloat(style.outlineWidth) >= 2];
        }""")
        )
    assert len({name for name, *_ in seen}) == len(seen)
    assert {(style, wide) for _, style, wide in seen} == {("solid", True)}
    tab.keyboard.press("Home")
    tab.reload()
    tab.keyboard.press("Tab")
    tab.keyboard.press("Enter")
    assert tab.evaluate("document.activeElement.id") == "content"


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 320)])
def test_everybody_can_read_it(address: str, browser: Browser, scheme: Any, width: int) -> None:
    """axe finds no fault: contrast, landmarks, headings, names, tables."""
    page = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 900}).new_page()
    page.goto(f"{address}/?last=month")
    page.get_by_text("The same in figures").click()
    found = Axe().run(page, options={"runOnly": ["wcag2a", "wcag2aa", "wcag21aa", "wcag22aa", "best-practice"]})
    assert found.violations_count == 0, found.generate_report()
    assert len(found.response["passes"]) > 20
    assert page.evaluate("document.documentElement.scrollWidth") == width  # it is tables that scroll, not the page
    for table in page.locator("table").all():
        assert table.locator("caption").inner_text()
        assert table.locator("th:not([scope])").count() == 0
    for drawn in page.locator("svg[role=img]").all():
        assert all(drawn.locator(f"> {part}").text_content() for part in ("title", "desc"))
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(18, 21, 26)"
    assert dark == (scheme == "dark")
    page.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pictures_for_the_documentation(address: str, browser: Browser, scheme: Any) -> None:
    picture = PICTURES / f"statistics-{scheme}.png"
    page = browser.new_context(color_scheme=scheme, viewport={"width": 1200, "height": 900}).new_page()
    page.goto(address)
    page.evaluate("document.querySelector('h1 bdi').textContent = 'app'")
    taken = page.screenshot(full_page=True)
    page.context.close()
    if os.environ.get("UPDATE_GOLDEN"):
        Image.open(BytesIO(taken)).convert("RGB").quantize(128, dither=Image.Dither.NONE).save(picture, optimize=True)
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size < 200_000


# Who sees what ------------------------------------------------------------------------------------------------------

STRANGE = (
    "<script>document.title = 'pwned'</script>", "<img src=x onerror=\"document.title='pwned'\">", "\"'><b>bold</b>",
    "\u202egnp.exe", "\x1b[31mred\x07\x01", "עברית", "{{ 7 * 7 }}", "</main></body>", "é" * 512,
)  # fmt: skip


def test_texts_of_strangers_stay_texts(dsn: str, ask: Session, serve: Serve, tab: Page) -> None:
    ask("SELECT cache_configure('store', hit_tracking => 'exact')")
    for number, text in enumerate(STRANGE):
        ask("SELECT set_config('pgcache.tenant', %s, false)", text)
        ask("SELECT cache_set('store', %s, '1')", text)
        ask("SELECT cache_get('store', %s) FROM generate_series(1, %s)", text, 20 - number)
    ask('CREATE TABLE public."<i>t</i>" ("<u>c</u>" text)')
    ask("SELECT cache_watch('public.\"<i>t</i>\"', tag => 'x:{<u>c</u>}'), pgcache_internal.fold_hits()")
    tab.goto(str(serve(dsn).base_url))
    assert tab.title() == f"pgcache: {ask('SELECT current_database()')}"
    assert tab.locator("#page b, #page img, #page script, #page i, #page u").count() == 0
    keys = tab.locator("table#top tbody th").all_inner_texts()
    assert len(keys) == len(STRANGE)
    assert keys[:3] == list(STRANGE[:3])
    assert keys[3:5] == ["\\u202egnp.exe", "\\x1b[31mred\\x07\\x01"]
    assert keys[5:8] == list(STRANGE[5:8])
    assert keys[8].endswith("...")
    assert len(keys[8]) < 100
    assert tab.locator("table#watches tbody th").inner_text() == 'public."<i>t</i>"'


def test_a_role_behind_a_wall_sees_its_own(dsn: str, ask: Session, role: NewRole, serve: Serve, tab: Page) -> None:
    theirs = role()
    name = theirs("SELECT current_user")
    ask("SELECT cache_grant(%s, 'read', '{acme}')", name)
    for tenant in ("acme", "other"):
        ask("SELECT set_config('pgcache.tenant', %s, false)", tenant)
        ask("SELECT cache_set('store', %s, '1')", f"of {tenant}")
        ask("SELECT cache_get('store', %s)", f"of {tenant}")
    ask("CALL cache_upkeep()")
    client = serve(make_conninfo(dsn, user=name, password="secret"))
    tab.goto(str(client.base_url))
    assert tab.locator("table#top tbody th").all_inner_texts() == ["of acme"]
    assert rows(tab, "tenants") == keyed(theirs.rows(
        "SELECT tenant || type, entries, bytes, hits, tokens_saved, money_saved FROM cache_tenant_stats()"
    ))  # fmt: skip
    assert tab.locator("table").count() == 2
    html = client.get("/").text
    assert "of other" not in html
    assert "secret" not in html
    assert client.get("/metrics").status_code == 403


def test_a_role_without_access_sees_nothing(dsn: str, role: NewRole, serve: Serve) -> None:
    client = serve(make_conninfo(dsn, user=role()("SELECT current_user"), password="secret"))
    answer = client.get("/")
    assert answer.status_code == 403
    assert "cache_grant" in answer.text
    assert "secret" not in answer.text


def test_with_a_token_the_browser_asks_for_it(dsn: str, serve: Serve, browser: Browser) -> None:
    client = serve(dsn, token="let-me-in")
    answer = client.get("/")
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"].startswith("Basic")
    for password in ("let-me-in2", "", "ключ"):
        assert client.get("/", auth=("me", password)).status_code == 401
    assert client.get("/", headers={"Authorization": "Basic !!"}).status_code == 401
    assert client.get("/metrics", auth=("me", "let-me-in")).status_code == 401  # no form of another page's gets further
    context = browser.new_context(http_credentials={"username": "me", "password": "let-me-in"})
    page = context.new_page()
    page.goto(str(client.base_url))
    assert page.locator("table#summary").count() == 1
    context.close()


def test_it_asks_nobody_else(address: str, browser: Browser) -> None:
    context = browser.new_context()
    page = context.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    answer = page.goto(address)
    assert answer
    assert asked == [f"{address}/"]
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert answer.headers["cache-control"] == "no-store"
    context.close()


def test_a_period_that_there_is_not(dsn: str, serve: Serve) -> None:
    client = serve(dsn)
    answer = client.get("/", params={"last": "<b>year"})
    assert answer.status_code == 400
    assert "hour, day, month" in answer.text
    assert "<b>" not in answer.text
    assert client.get("/", headers={"Host": "evil.example"}).status_code == 400
    assert client.get("/", headers={"Origin": "http://evil.example"}).status_code == 403
    assert client.head("/").status_code == 200
