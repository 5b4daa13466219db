"""The picture in the README, drawn by the app itself: `python -m tests.screenshot HOME` (after `make demo`)."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from explorer.screens.application import NasrobApp
from explorer.settings import Settings

TARGET = Path(__file__).parents[1] / "docs" / "tradeoff.svg"


async def draw(home: Path) -> None:
    """The trade-off table of a home with results, beside its plot."""
    app = NasrobApp(Settings(home=home, store=home / "results.duckdb"))
    async with app.run_test(size=(150, 32)) as pilot:
        await pilot.pause(2.0)
        for key in sys.argv[2:]:
            await pilot.press(key)
            await pilot.pause(1.0)
        TARGET.write_text(app.export_screenshot(title="nasrob-tui"), encoding="utf-8")


if __name__ == "__main__":
    asyncio.run(draw(Path(sys.argv[1]).absolute()))
