"""What a row of a task list says below the title: project, time of day, duration, priority. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from markupsafe import Markup

from flowstate_daemon.mail.i18n import Texts

MAX_PROJECT_LENGTH = 60
SEPARATOR = " · "
# The texts of the application's form; 3 is its default and has no text.
PRIORITY_TEXTS: Mapping[int, str] = {1: "high", 2: "medium", 4: "low", 5: "very_low"}


def task_fact_functions(
    texts: Texts, functions: Mapping[str, Callable[..., str]], user_text: Callable[[str, int], str], *, html: bool
) -> dict[str, Callable[[Any], str]]:
    """`priority_name(number)` and `task_facts(task)`, which templates may call; both are empty if there is nothing."""
    duration, time_of_day = functions["duration"], functions["time_of_day"]
    names = {number: texts.messages.get(name, "") for number, name in PRIORITY_TEXTS.items()}
    long_names = {number: texts.messages.get(f"{name}_priority", "") for number, name in PRIORITY_TEXTS.items()}

    def priority_name(number: int) -> str:
        return names.get(number, "")

    def task_facts(task: Any) -> str:
        found = []
        if task.project:
            found.append(user_text(task.project, MAX_PROJECT_LENGTH))
        if task.due_time:
            found.append(time_of_day(task.due_time))
        if task.minutes:
            found.append(duration(task.minutes))
        if task.priority in long_names:
            found.append(long_names[task.priority])
        text = SEPARATOR.join(found)
        return Markup(text) if html else text  # noqa: S704 - only the project is typed, and it is escaped

    return {"priority_name": priority_name, "task_facts": task_facts}


def longest_minutes(tasks: Iterable[Any]) -> int:
    """The largest duration of a list, at least one minute: the length of a full bar."""
    return max([task.minutes or 1 for task in tasks], default=1)
