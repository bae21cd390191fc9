"""Data of many users at a time, from tables that may hold anything that Postgres accepts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import asyncpg
import pytest

from flowstate_daemon.database import app_database as border
from flowstate_daemon.database.app_data import NOTIFICATIONS, AppData, Focus, TimeWindow
from tests.support.app_tables import AppTables, stored

PARIS, NEW_YORK, TOKYO = (ZoneInfo(name) for name in ("Europe/Paris", "America/New_York", "Asia/Tokyo"))
ALL = frozenset(NOTIFICATIONS)


def day(user_id: str, number: int, zone: ZoneInfo = PARIS, *, item: str = "") -> TimeWindow:
    """One day of March 2026 where the person lives."""
    begins, ends = (datetime(2026, 3, at, tzinfo=zone).astimezone(UTC) for at in (number, number + 1))
    return TimeWindow(user_id, begins, ends, zone, item)


def week(user_id: str, zone: ZoneInfo = PARIS) -> TimeWindow:
    """The seven days before Sunday 15 March 2026, 17:00."""
    begins, ends = (datetime(2026, 3, at, 17, tzinfo=zone).astimezone(UTC) for at in (8, 15))
    return TimeWindow(user_id, begins, ends, zone)


@pytest.fixture
async def app(bare_pool: asyncpg.Pool) -> AsyncIterator[AppTables]:
    async with bare_pool.acquire() as connection:
        # The pool speaks JSON; the application's rows are written as text.
        await connection.reset_type_codec("jsonb", schema="pg_catalog")
        yield AppTables(connection)


@pytest.fixture
def facts(bare_pool: asyncpg.Pool) -> AppData:
    return AppData(border.AppDatabase(bare_pool))


async def test_users_are_read_as_stored(app: AppTables, facts: AppData) -> None:
    """Language, zone and notifications come from valid preferences; by default all are enabled."""
    refusing = {"timezone": "Asia/Tokyo", "language": "fr", "notifications": {"taskReminders": False}}
    await app.user("ada", refusing, fullName="Ada")
    await app.user("bob", isEmailVerified=False, deletedAt=stored(2026, 1, 2))
    recipients = await facts.users(["ada", "bob", "nobody"])
    assert set(recipients) == {"ada", "bob"}
    ada, bob = recipients["ada"], recipients["bob"]
    assert (ada.email, ada.full_name, ada.language, ada.zone) == ("ada@example.org", "Ada", "fr", "Asia/Tokyo")
    assert (ada.enabled_notifications, ada.verified, ada.deleted) == (ALL - {"task-reminder"}, True, False)
    assert (bob.enabled_notifications, bob.verified, bob.deleted, bob.language, bob.zone) == (
        ALL,
        False,
        True,
        None,
        None,
    )


@pytest.mark.parametrize(
    "preferences",
    [
        *("text", "false", 7, 1e300, 10**400, True, [], [["notifications", False]], {}),
        *({"language": 7, "timezone": ["Asia/Tokyo"], "notifications": ["taskReminders", False]},),
        *({"language": {"fr": 1}, "timezone": {}, "notifications": "none"},),
        *({"language": "fr" * 5000, "timezone": None, "notifications": {"taskReminders": {"taskReminders": False}}},),
        *({"language": "</html>", "notifications": {"taskReminders": None, "overdueSummary": 0}},),
    ],
    ids=lambda value: repr(value)[:40],
)
async def test_invalid_preferences_are_ignored(app: AppTables, facts: AppData, preferences: object) -> None:
    """Whatever JSON the preferences hold, the user is read; invalid values disable nothing."""
    await app.user("ada", preferences)
    ada = (await facts.users(["ada"]))["ada"]
    assert ada.language is None
    assert ada.enabled_notifications == ALL
    assert ada.zone is None or not ada.zone.startswith("Asia")


@pytest.mark.parametrize(
    ("preferences", "wants"),
    [
        ({"notifications": False}, frozenset()),
        ({"notifications": {"focusReport": "False"}}, ALL - {"focus-report"}),
        ({"notifications": {"focusReport": False, "overdueSummary": True}}, ALL - {"focus-report"}),
    ],
)
async def test_disabled_notification_is_read_in_any_spelling(
    app: AppTables, facts: AppData, preferences: object, wants: frozenset[str]
) -> None:
    """A refusal as text, or of all notifications at once, counts."""
    await app.user("ada", preferences)
    assert (await facts.users(["ada"]))["ada"].enabled_notifications == wants


async def test_tasks_due_are_limited_to_the_window(app: AppTables, facts: AppData) -> None:
    """Open tasks of the window ordered by due time, each with its project; nothing else."""
    await app.user("ada")
    project = await app.project("ada", "Autumn")
    await app.task("ada", "last ms", stored(2026, 3, 10, 22, 59, 59, 999_000))
    await app.task("ada", "first ms", stored(2026, 3, 9, 23), projectId=project, estimatedDuration=30, priority=1)
    for title, due, columns in (
        ("too early", stored(2026, 3, 9, 22, 59, 59, 999_000), {}),
        ("too late", stored(2026, 3, 10, 23), {}),
        ("done", stored(2026, 3, 10, 12), {"isCompleted": True}),
        ("deleted", stored(2026, 3, 10, 12), {"deletedAt": stored(2026, 3, 1)}),
        ("whenever", None, {}),
    ):
        await app.task("ada", title, due, **columns)
    found = await facts.tasks_due([day("ada", 10), day("ada", 12)])
    assert list(found) == [day("ada", 10)]
    tasks = found[day("ada", 10)]
    assert [(t.title, t.project, t.priority, t.minutes) for t in tasks.items] == [
        ("first ms", "Autumn", 1, 30),
        ("last ms", None, 3, None),
    ]
    assert tasks.total == 2


async def test_windows_belong_to_their_users(app: AppTables, facts: AppData) -> None:
    """For two users in two zones an instant is tomorrow for one only, and neither sees the other's tasks."""
    for name in ("ada", "bob"):
        await app.user(name)
        await app.task(name, f"{name}'s", stored(2026, 3, 9, 20))
    windows = [day("ada", 10, TOKYO), day("bob", 10, NEW_YORK)]
    found = await facts.tasks_due(windows)
    assert {window.user_id: [task.title for task in tasks.items] for window, tasks in found.items()} == {
        "ada": ["ada's"]
    }


async def test_window_can_be_limited_to_one_task(app: AppTables, facts: AppData) -> None:
    """With a task id the window holds that task, if it is still due then, and no other."""
    await app.user("ada")
    first, _ = [await app.task("ada", title, stored(2026, 3, 10, 12)) for title in ("one", "two")]
    moved = await app.task("ada", "moved", stored(2026, 3, 20))
    windows = [day("ada", 10, item=first), day("ada", 10, item=moved)]
    found = await facts.tasks_due(windows)
    assert [(window.task_id, tasks.total) for window, tasks in found.items()] == [(first, 1)]


async def test_overdue_tasks_are_limited_but_counted(app: AppTables, facts: AppData) -> None:
    """The list is limited in the database, the count is not; today is not overdue."""
    await app.user("ada")
    await app.connection.execute(
        """INSERT INTO tasks (id, "userId", title, "dueDate", "updatedAt")
        SELECT 'a' || n, 'ada', 'task ' || n, timestamp '2026-03-09 22:00' - n * interval '1 hour', now()
        FROM generate_series(0, 49_999) AS n"""
    )
    await app.task("ada", "today", stored(2026, 3, 9, 23))
    tasks = (await facts.tasks_overdue([day("ada", 9)]))["ada"]
    assert tasks.total == 50_000
    assert [task.title for task in tasks.items] == [f"task {n}" for n in range(49_999, 49_989, -1)]


@pytest.mark.parametrize(
    "due", ["-infinity", "0044-03-15 BC", "0001-01-01", "infinity", "9999-12-31 23:59", "294276-12-31"]
)
async def test_dates_beyond_datetime_are_read(app: AppTables, facts: AppData, due: str) -> None:
    """Dates that Python cannot represent raise nothing; the past is overdue, the far future is not."""
    await app.user("ada")
    await app.task("ada", "odd", due)
    found = await facts.tasks_overdue([day("ada", 9)])
    past = due.startswith(("-", "0"))
    assert (found["ada"].items[0].due_at if past else found) == (datetime(2, 1, 1, tzinfo=UTC) if past else {})
    assert await facts.tasks_due([day("ada", 10)]) == {}


async def test_titles_may_be_missing_or_huge(app: AppTables, facts: AppData) -> None:
    """A title of a megabyte is truncated in the database; an empty or missing one is None."""
    await app.user("ada")
    await app.connection.execute("ALTER TABLE tasks ALTER COLUMN title DROP NOT NULL")
    for number, title in enumerate(("x" * 1_000_000, "", None)):
        await app.task("ada", title, stored(2026, 3, 10, number))  # type: ignore[arg-type]
    first = (await facts.tasks_due([day("ada", 10)]))[day("ada", 10)].items
    assert [task.title for task in first] == ["x" * 500, None, None]


async def test_focus_week_totals(app: AppTables, facts: AppData) -> None:
    """Totals by local weekday, ratings of rated sessions only, the week before apart, and the top tasks."""
    await app.user("ada")
    tasks = {title: await app.task("ada", title, None) for title in ("a", "b", "c", "d")}
    for start, actual, columns in (
        (stored(2026, 3, 8, 15, 59), 500, {}),  # before the week
        (stored(2026, 3, 8, 16), 30, {"taskId": tasks["a"], "focusRating": 5}),  # Sunday, its first instant
        (stored(2026, 3, 9, 23, 30), 40, {"taskId": tasks["b"], "focusRating": 2}),  # Tuesday in Paris
        (stored(2026, 3, 10, 12), None, {"taskId": tasks["b"]}),
        (stored(2026, 3, 12, 12), 20, {"taskId": tasks["c"], "focusRating": 0}),
        (stored(2026, 3, 12, 13), 1, {"taskId": tasks["d"], "focusRating": 9}),
        (stored(2026, 3, 15, 15, 59), 50, {}),  # Sunday again, its last minute
        (stored(2026, 3, 15, 16), 600, {}),  # after the week
    ):
        await app.session("ada", start, actualDuration=actual, **columns)
    found = (await facts.focus_weeks([week("ada")]))["ada"]
    assert found.week == Focus(sessions=6, minutes=166, rated=2, ratings=7)
    assert found.before == Focus(sessions=1, minutes=500)
    assert {weekday: focus.minutes for weekday, focus in found.days.items()} == {7: 80, 2: 65, 4: 21}
    assert [(top.title, top.minutes) for top in found.top] == [("b", 65), (None, 50), ("a", 30)]


async def test_absurd_sessions_are_bounded(app: AppTables, facts: AppData) -> None:
    """Negative minutes count as none and huge ones as a day, so that one broken row does not spoil a week."""
    await app.user("ada")
    for actual, planned in ((-5, 25), (2**31 - 1, 25), (None, -(2**31)), (0, 25)):
        await app.session("ada", stored(2026, 3, 10, 12), planned, actualDuration=actual)
    await app.connection.execute("""UPDATE focus_sessions SET "startTime" = '-infinity' WHERE "actualDuration" = -5""")
    found = (await facts.focus_weeks([week("ada")]))["ada"]
    assert found.week == Focus(sessions=3, minutes=1440)
    assert [(top.title, top.minutes) for top in found.top] == [(None, 1440)]


async def test_hundreds_of_users_cost_one_query(app: AppTables, facts: AppData) -> None:
    """Every method reads five hundred users at once."""
    await app.connection.execute(
        """INSERT INTO users (id, email, password, "updatedAt") SELECT 'u' || n, n || '@x.example', '', now()
        FROM generate_series(1, 500) AS n"""
    )
    await app.connection.execute(
        """INSERT INTO tasks (id, "userId", title, "dueDate", "updatedAt")
        SELECT 't' || n, 'u' || n, 'x', '2026-03-10 12:00', now() FROM generate_series(1, 500) AS n"""
    )
    ids = [f"u{n}" for n in range(1, 501)]
    windows = [day(user_id, 10) for user_id in ids]
    later = [day(user_id, 10) for user_id in ids]
    assert (
        len(await facts.users(ids))
        == len(await facts.tasks_due(windows))
        == len(await facts.tasks_overdue(later))
        == 500
    )
    assert await facts.focus_weeks(windows) == {}


async def test_empty_batch_returns_nothing(facts: AppData) -> None:
    """An empty batch is answered without an error."""
    assert [await facts.users([]), await facts.tasks_due([]), await facts.tasks_overdue([])] == [{}, {}, {}]
    assert await facts.focus_weeks([]) == {}
