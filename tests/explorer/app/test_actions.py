"""The registry of actions: complete, and the only source of keys."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator

import pytest
from rich.console import Console
from textual.dom import DOMNode

from explorer import actions, screens, widgets
from explorer.screens.application import NasrobApp
from explorer.screens.help import HelpScreen, help_text
from explorer.settings import Settings
from explorer.widgets.inks import inks_of
from tests.explorer.app.support import text_of, until

#: Keys that a terminal multiplexer or the terminal itself takes for its own.
TAKEN = {"ctrl+a", "ctrl+b", "ctrl+s", "ctrl+q", "ctrl+z", "ctrl+c"}

#: The class that carries out the actions of a scope.
PERFORMERS = {
    "app": "explorer.screens.application:NasrobApp",
    "table": "explorer.widgets.table:ResultTable",
    "choice": "explorer.widgets.choice:Choice",
    "home": "explorer.screens.home:HomeScreen",
    "details": "explorer.screens.details:DetailScreen",
    "architecture": "explorer.screens.architecture:ArchitectureScreen",
    "comparison": "explorer.screens.architecture:ComparisonScreen",
    "launch": "explorer.screens.launch:LaunchScreen",
    "jobs": "explorer.screens.jobs:JobsScreen",
    "log": "explorer.screens.log:LogScreen",
    "sql": "explorer.screens.sql:SqlScreen",
    "findings": "explorer.screens.findings:FindingsScreen",
    "ensembles": "explorer.screens.ensembles:EnsemblesScreen",
    "ensemble": "explorer.screens.ensemble:EnsembleScreen",
    "ensemble_builder": "explorer.screens.ensemble_builder:EnsembleBuilderScreen",
    "ensemble_attack": "explorer.screens.ensemble_attack:EnsembleAttackScreen",
    "export": "explorer.screens.export:ExportScreen",
    "choose": "explorer.screens.choose:ChooseScreen",
    "find": "explorer.screens.find:FindScreen",
    "help": "explorer.screens.help:HelpScreen",
}


def own_classes() -> Iterator[type[DOMNode]]:
    """Every screen, widget and app class of ours."""
    for package in (screens, widgets):
        for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
            for _, found in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
                if issubclass(found, DOMNode) and found.__module__ == module.name:
                    yield found


@pytest.mark.parametrize("action", actions.ACTIONS, ids=lambda a: a.name)
def test_every_action_is_complete(action: actions.Action) -> None:
    assert action.key
    assert action.label
    assert len(action.help) > 5
    assert not action.help.endswith(".")
    assert action.scope in actions.SCOPES
    assert not TAKEN & set(action.key.split(","))


@pytest.mark.parametrize("action", actions.ACTIONS, ids=lambda a: a.name)
def test_every_action_can_be_carried_out(action: actions.Action) -> None:
    module, _, name = PERFORMERS[action.scope].partition(":")
    assert callable(getattr(getattr(importlib.import_module(module), name), f"action_{action.id}"))


def test_names_are_unique_and_keys_of_a_scope_too() -> None:
    assert len({a.name for a in actions.ACTIONS}) == len(actions.ACTIONS)
    for scope in actions.SCOPES:
        for scopes in ((scope,), ("app", scope)):
            keys = [key for a in actions.of(*scopes) for key in a.key.split(",")]
            # Dialogs stand above the app's own keys.
            if scope not in ("app", "ensemble_attack", "export", "choose", "find", "help"):
                assert len(keys) == len(set(keys)), scope


def test_every_binding_of_ours_is_in_the_registry() -> None:
    names = {a.name for a in actions.ACTIONS}
    bound = set()
    for found in own_classes():
        for binding in found.__dict__.get("BINDINGS", ()):
            assert getattr(binding, "id", None) in names, f"{found.__name__}: {binding}"
            bound.add(binding.id)
    assert bound == names


def test_key_bars_show_what_there_is() -> None:
    for scope, names in actions.KEY_BARS.items():
        assert len(names) <= 6
        for name in names:
            assert actions.find(name).scope in (scope, "app")


async def test_help_lists_every_action(make_app: Callable[..., NasrobApp], settings: Settings) -> None:
    app = make_app()
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.press("question_mark")
        await until(pilot, lambda: "Everywhere" in text_of(app))
        console = Console(width=200)
        with console.capture() as captured:
            console.print(help_text(inks_of(app)))
        said = captured.get()
        for action in actions.ACTIONS:
            assert action.help in said
            assert action.shown_key in said
        await pilot.press("escape")
        assert len(app.screen_stack) == 1


@pytest.mark.parametrize(("keys", "scope"), [("", "home"), ("l", "launch"), ("2", "jobs"), ("A", "")])
async def test_help_begins_at_the_screen_it_is_asked_on(
    make_app: Callable[..., NasrobApp], settings: Settings, keys: str, scope: str
) -> None:
    app = make_app()
    async with app.run_test(size=(100, 60)) as pilot:
        await pilot.press(*keys)
        await pilot.pause()
        await pilot.press("f1")
        if not scope:  # a dialog on top: it has keys of its own
            assert not isinstance(app.screen, HelpScreen)
            return
        await until(pilot, lambda: isinstance(app.screen, HelpScreen))
        await until(pilot, lambda: "│ Everywhere" in text_of(app))
        lines = text_of(app).splitlines()
        first = next(i for i, line in enumerate(lines) if "─ keys ─" in line) + 1
        assert f"│ {actions.SCOPES[scope]} " in lines[first]


async def test_the_palette_holds_every_command_of_the_screen(make_app: Callable[..., NasrobApp]) -> None:
    app = make_app()
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.pause()
        commands = {command.help for command in app.get_system_commands(app.screen)}
        assert commands == {a.help for a in actions.of("app", "home") if a.palette}
        await pilot.press("ctrl+p")
        await until(pilot, lambda: "Search" in text_of(app))
