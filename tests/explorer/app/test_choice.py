"""A row of choices where the line is too short for all of them."""

from __future__ import annotations

from textual.app import App, ComposeResult

from explorer.widgets.choice import Choice

WORDS = [f"attack-{i}" for i in range(9)]


class Row(App[None]):
    """One row of choices in a line of 40 cells."""

    CSS = "Choice { width: 40; height: 1; }"

    def __init__(self, choice: Choice) -> None:
        super().__init__()
        self.choice = choice

    def compose(self) -> ComposeResult:
        yield self.choice


async def test_without_the_focus_what_is_chosen_is_shown() -> None:
    choice = Choice(WORDS, chosen=["attack-2", "attack-7"], multiple=True)
    app = Row(choice)
    async with app.run_test() as pilot:
        app.set_focus(None)
        await pilot.pause()
        assert choice.render().plain == "[x] attack-2  [x] attack-7  +7"
        choice._chosen = set(WORDS)
        assert choice.render().plain == "[x] attack-0  [x] attack-1  +7"


async def test_with_the_focus_the_words_around_the_cursor_are_shown() -> None:
    choice = Choice(WORDS, multiple=True)
    app = Row(choice)
    async with app.run_test() as pilot:
        choice.focus()
        await pilot.pause()
        seen = []
        for i in range(len(WORDS)):
            shown = choice.render().plain
            assert f"attack-{i}" in shown
            assert len(shown) <= 40
            seen.append(shown.strip())
            await pilot.press("right")
        # It moves a page at a time, and says where there is more.
        assert list(dict.fromkeys(seen)) == [
            "[ ] attack-0  [ ] attack-1  ›",
            "‹ [ ] attack-2  [ ] attack-3  ›",
            "‹ [ ] attack-4  [ ] attack-5  ›",
            "‹ [ ] attack-6  [ ] attack-7  ›",
            "‹ [ ] attack-8",
        ]
        # From the last one the way leads to the first one, and back.
        assert "attack-0" in choice.render().plain
        await pilot.press("left", "space")
        assert choice.values == ["attack-8"]


async def test_a_click_means_the_word_that_is_drawn_there() -> None:
    choice = Choice(WORDS, multiple=True)
    app = Row(choice)
    async with app.run_test() as pilot:
        choice.focus()
        await pilot.press("right", "right")
        await pilot.pause()
        assert choice.render().plain.startswith("‹ [ ] attack-2  [ ] attack-3")
        await pilot.click(choice, offset=(20, 0))
        assert choice.values == ["attack-3"]
        await pilot.click(choice, offset=(14, 0))  # between two words
        assert choice.values == ["attack-3"]


async def test_where_there_is_room_everything_is_shown() -> None:
    choice = Choice(["worst", "last"])
    async with Row(choice).run_test() as pilot:
        await pilot.pause()
        assert choice.render().plain.strip() == "● worst  ○ last"
