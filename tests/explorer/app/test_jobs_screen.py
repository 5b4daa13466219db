"""The jobs, live: progress, cancel, resume, and the log."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from explorer.jobs.folder import Job
from explorer.screens.application import NasrobApp
from explorer.screens.jobs import JobsScreen
from explorer.screens.log import LogScreen
from explorer.settings import Settings
from tests.explorer.app.support import add_job, begin, claim, text_of, until

MakeApp = Callable[..., NasrobApp]


@pytest.mark.parametrize("size", [(80, 24), (120, 40), (200, 60)])
async def test_progress_is_shown_as_it_comes(make_app: MakeApp, settings: Settings, size: tuple[int, int]) -> None:
    job = add_job(settings, "resnet18")
    claim(job)
    begin(job, done=40, robust=10)
    app = make_app(focus_job=job.number)
    async with app.run_test(size=size) as pilot:
        await until(pilot, lambda: "40/100" in text_of(app))
        shown = text_of(app)
        assert "▸ running" in shown
        assert "25.0 ± 13" in shown
        assert "0/2" in shown
        assert "· queued" in shown
        begin(job, done=80, robust=20)
        await until(pilot, lambda: "80/100" in text_of(app))
        await pilot.press("y")
        assert app.clipboard.startswith("nasrob-tui eval --headless --arch resnet18@width=16")
        await pilot.press("1")
        await until(pilot, lambda: "▸1" in text_of(app) and "pgd-10" in text_of(app))


async def test_no_job_yet(make_app: MakeApp) -> None:
    app = make_app()
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.press("2")
        await until(pilot, lambda: "no job yet" in text_of(app))
        await pilot.press("c", "r", "y", "enter", "down")
        assert isinstance(app.screen, JobsScreen)


async def test_cancel_and_resume(make_app: MakeApp, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, int]] = []

    def cancel(job: Job) -> bool:
        calls.append(("cancel", job.number))
        job.append("job_finished", state="cancelled", exit_code=130)
        return True

    monkeypatch.setattr(Job, "cancel", cancel)
    monkeypatch.setattr(Job, "start", lambda job: calls.append(("start", job.number)))
    job = add_job(settings, "resnet18")
    claim(job)
    begin(job)
    app = make_app()
    async with app.run_test(size=(120, 30)) as pilot:
        await pilot.press("2")
        await until(pilot, lambda: "▸ running" in text_of(app))
        await pilot.press("r")
        assert calls == []
        await pilot.press("c")
        await until(pilot, lambda: "■ cancelled" in text_of(app))
        assert "■ partial" in text_of(app)
        await pilot.press("c")
        await pilot.press("r")
        await until(pilot, lambda: calls == [("cancel", job.number), ("start", job.number)])
        await until(pilot, lambda: "· queued" in text_of(app).splitlines()[2])


async def test_the_log_shows_events_and_what_was_printed(make_app: MakeApp, settings: Settings) -> None:
    job = add_job(settings, "resnet18")
    begin(job)
    job.append("error", message="weights [/foo] have changed\x1b[31m")
    job.append("job_finished", state="failed", exit_code=1)
    (job.folder / "log.txt").write_text("Traceback [bold]of a bug[/]\n")
    app = make_app()
    async with app.run_test(size=(120, 30)) as pilot:
        await pilot.press("2")
        await until(pilot, lambda: "✗ failed" in text_of(app))
        assert "weights [/foo] have changed" in text_of(app)
        await pilot.press("enter")
        await until(pilot, lambda: "Traceback [bold]of a bug[/]" in text_of(app))
        assert isinstance(app.screen, LogScreen)
        assert "weights [/foo] have changed�[31m" in text_of(app)
        assert "progress" not in text_of(app)
        job.append("note", message="one more thing")
        await until(pilot, lambda: "one more thing" in text_of(app))
        await pilot.press("y", "escape")
        assert app.clipboard == str(job.folder)
        assert isinstance(app.screen, JobsScreen)
