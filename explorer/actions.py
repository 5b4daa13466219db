"""The one registry of what a person can do in the app: key, label and help of every action.

Key bindings, the key bar, the help screen and the command palette are all made from it, so a new action is one entry
here and one `action_<id>` method on its screen. Free of textual, so that documentation and tests read it at no cost.
"""

from __future__ import annotations

from dataclasses import dataclass

#: Where an action lives, and what the help screen calls the place. The order is that of the help screen.
SCOPES: dict[str, str] = {
    "app": "Everywhere",
    "table": "In every table",
    "choice": "In a row of choices",
    "home": "Trade-off",
    "details": "Details of a row",
    "architecture": "Architecture",
    "comparison": "Two architectures compared",
    "launch": "Launch",
    "jobs": "Jobs",
    "log": "Log of a job",
    "sql": "SQL",
    "ensembles": "Ensembles",
    "ensemble": "Results of an ensemble",
    "ensemble_builder": "A new ensemble",
    "ensemble_attack": "Attack on an ensemble",
    "findings": "Findings",
    "export": "Export",
    "choose": "A list to choose from",
    "find": "A list to search",
    "help": "This help",
}


@dataclass(frozen=True)
class Action:
    """Something a person can do. `key` is a key name of textual, or several with commas; the first is shown."""

    scope: str
    id: str
    key: str
    label: str
    help: str
    #: Moving a cursor is no command: the palette leaves such actions out.
    palette: bool = True

    @property
    def name(self) -> str:
        """The identifier under which a person could give the action another key: `home.filter`."""
        return f"{self.scope}.{self.id}"

    @property
    def shown_key(self) -> str:
        """The first key as it is printed on a keyboard."""
        return _shown(self.key.partition(",")[0])

    @property
    def shown_keys(self) -> str:
        return " ".join(_shown(key) for key in self.key.split(","))


#: None of these is a prefix key of tmux or screen (ctrl+b, ctrl+a) or stops a terminal (ctrl+s).
ACTIONS: tuple[Action, ...] = (
    Action("app", "help", "question_mark,f1", "keys", "Show every key and what it does"),
    Action("app", "palette", "ctrl+p", "find", "Find any action by its name", palette=False),
    Action("app", "tradeoff", "1", "trade-off", "Go to the trade-off table"),
    Action("app", "jobs", "2", "jobs", "Go to the jobs"),
    Action("app", "sql", "3", "sql", "Ask the results store in SQL"),
    Action("app", "ensembles", "4", "ensembles", "Go to the ensembles: build, train, attack and understand them"),
    Action("app", "findings", "5", "findings", "Go to the findings: the study's claims and what was measured here"),
    Action("app", "launch", "l", "launch", "Attack models: choose architectures, attacks and device, and start a job"),
    Action("app", "architecture", "A", "architectures", "Show an architecture: its cells, size, weights and results"),
    Action("app", "theme", "T", "light/dark theme", "Switch between the light and the dark colours"),
    Action("app", "back", "escape", "back", "Go back; in the trade-off table, clear the filter", palette=False),
    Action("app", "quit", "q", "quit", "Leave the app; jobs go on"),
    Action("table", "cursor_down", "down,j", "down", "Next row", palette=False),
    Action("table", "cursor_up", "up,k", "up", "Previous row", palette=False),
    Action("table", "page_down", "pagedown,ctrl+d", "page down", "One screen down", palette=False),
    Action("table", "page_up", "pageup,ctrl+u", "page up", "One screen up", palette=False),
    Action("table", "scroll_home", "home,g", "first", "First row", palette=False),
    Action("table", "scroll_end", "end,G", "last", "Last row", palette=False),
    Action("choice", "previous", "left", "previous", "The choice to the left", palette=False),
    Action("choice", "next", "right", "next", "The choice to the right", palette=False),
    Action("choice", "choose", "space", "choose", "Choose or leave out, where several may be chosen", palette=False),
    Action("home", "filter", "slash", "filter", "Filter rows, such as family:nas clean>90 params<5M"),
    Action("home", "sort", "s", "sort", "Choose the column to sort by; a click on a header does the same"),
    Action("home", "reverse", "r", "reverse", "Reverse the order of the rows"),
    Action(
        "home",
        "pivot",
        "v",
        "view",
        "Switch between one row an evaluation and one row a model with its attacks side by side",
    ),
    Action("home", "plot", "p", "plot", "Show or hide the plot of clean against robust accuracy with its Pareto front"),
    Action("home", "details", "enter", "open", "Show everything about the row under the cursor"),
    Action("home", "architecture", "a", "architecture", "Show the architecture of the row under the cursor"),
    Action("home", "pane", "d", "details", "Show or hide the details beside the table, where there is room"),
    Action("home", "export", "e", "export", "Write the rows that are shown to a file, as CSV or Markdown"),
    Action("home", "copy", "y", "copy", "Copy the row under the cursor"),
    Action("details", "copy", "y", "copy", "Copy the command that reproduces the row, or the citation"),
    Action("architecture", "compare", "c", "compare", "Compare it with another architecture, edge by edge"),
    Action("architecture", "results", "enter", "results", "Show its rows in the trade-off table"),
    Action("architecture", "copy", "y", "copy", "Copy the command line that shows the same"),
    Action("architecture", "definition", "Y", "copy definition", "Copy what the search found, as text"),
    Action("comparison", "compare", "c", "compare", "Compare the first one with another architecture"),
    Action("comparison", "copy", "y", "copy", "Copy the command line that shows the same"),
    Action("launch", "start", "enter", "start", "Start the job"),
    Action(
        "launch", "train", "ctrl+t", "train first", "Train the models chosen that have no weights, then attack them"
    ),
    Action("launch", "choose", "space", "choose", "Choose or leave out what is under the cursor", palette=False),
    Action(
        "launch",
        "find",
        "slash",
        "find",
        "Find a model; or type any architecture, and its weights in the field beside it: a file, a SHA-256, DEFAULT",
    ),
    Action("launch", "next_field", "down", "next", "Next line of the form", palette=False),
    Action("launch", "previous_field", "up", "previous", "Line before of the form", palette=False),
    Action("launch", "copy", "ctrl+y", "copy command", "Copy the command line that does the same"),
    Action("jobs", "log", "enter", "log", "Show the events and the log of the job under the cursor"),
    Action("jobs", "cancel", "c", "cancel", "Stop the job under the cursor; what is finished stays"),
    Action("jobs", "resume", "r", "resume", "Go on with the job under the cursor where it was stopped"),
    Action("jobs", "copy", "y", "copy", "Copy the command line of the job under the cursor"),
    Action("log", "copy", "y", "copy", "Copy the path of the job's folder"),
    Action("sql", "run", "f5,ctrl+r", "run", "Run the query"),
    Action("sql", "copy", "y", "copy", "Copy the result as CSV; in the query, tab leads to the result"),
    Action("ensembles", "new", "n", "new", "Build an ensemble: sample its members, or pick them from trained models"),
    Action("ensembles", "results", "enter", "results", "Open the results of the ensemble under the cursor"),
    Action("ensembles", "cells", "a", "architecture", "Show its architecture: the cells of every member"),
    Action(
        "ensembles", "train", "t", "train", "Go on with a training that stopped; build a trained one anew, another seed"
    ),
    Action("ensembles", "copy", "y", "copy", "Copy the command line that says its results, or makes it"),
    Action("ensemble", "previous", "left", "previous", "The evaluation before", palette=False),
    Action("ensemble", "next", "right", "next", "The next evaluation", palette=False),
    Action("ensemble", "members", "m", "members", "Attack the members alone that have not been, on the same examples"),
    Action("ensemble", "transfer", "x", "transfer", "Make the attack on each part and judge it on each other part"),
    Action("ensemble", "gradients", "g", "gradients", "Measure the angles between the gradients of the members"),
    Action("ensemble", "cells", "a", "architecture", "Show its architecture: the cells of every member"),
    Action("ensemble", "copy", "y", "copy", "Copy the command line that says the same"),
    Action(
        "ensemble_builder", "start", "enter", "start", "Make the ensemble: train its members, or put models together"
    ),
    Action("ensemble_builder", "choose", "space", "choose", "Choose or leave out a model", palette=False),
    Action("ensemble_builder", "find", "slash", "find", "Find a model to pick, by a part of its name or its SHA-256"),
    Action("ensemble_builder", "next_field", "down", "next", "Next line of the form", palette=False),
    Action("ensemble_builder", "previous_field", "up", "previous", "Line before of the form", palette=False),
    Action("ensemble_builder", "page_down", "pagedown", "page down", "Further down the cells", palette=False),
    Action("ensemble_builder", "page_up", "pageup", "page up", "Further up the cells", palette=False),
    Action("ensemble_builder", "copy", "ctrl+y", "copy command", "Copy the command line that does the same"),
    Action("ensemble_attack", "start", "enter", "start", "Start the attack"),
    Action("ensemble_attack", "next_field", "down", "next", "Next line of the form", palette=False),
    Action("ensemble_attack", "previous_field", "up", "previous", "Line before of the form", palette=False),
    Action("ensemble_attack", "copy", "ctrl+y", "copy command", "Copy the command line that does the same"),
    Action("ensemble_attack", "leave", "escape", "back", "Attack nothing", palette=False),
    Action("findings", "open", "enter", "open", "Open what a claim rests on; of a comparison, the rows behind it"),
    Action("findings", "copy", "y", "copy", "Copy the command line that says the same"),
    Action("findings", "decide", "n", "copy next", "Copy the command that would bring a verdict nearer"),
    Action("export", "write", "enter", "write", "Write the file"),
    Action("export", "leave", "escape", "back", "Write nothing", palette=False),
    Action("choose", "leave", "escape", "back", "Choose nothing", palette=False),
    Action("find", "choose", "enter", "choose", "Choose what is under the cursor", palette=False),
    Action("find", "next", "down", "next", "Next line of the list", palette=False),
    Action("find", "previous", "up", "previous", "Line before in the list", palette=False),
    Action("find", "page_down", "pagedown", "page down", "One page down the list", palette=False),
    Action("find", "page_up", "pageup", "page up", "One page up the list", palette=False),
    Action("find", "leave", "escape", "back", "Choose nothing", palette=False),
    Action("help", "leave", "escape,question_mark,q", "back", "Back to where you were", palette=False),
)

#: The keys that matter on each screen, in the order of the key bar; a narrow terminal drops some, never the last.
KEY_BARS: dict[str, tuple[str, ...]] = {
    "home": ("app.launch", "home.filter", "home.sort", "home.plot", "home.details", "app.help"),
    "details": ("details.copy", "app.back", "app.help"),
    "architecture": (
        "architecture.compare",
        "architecture.results",
        "architecture.copy",
        "architecture.definition",
        "app.back",
        "app.help",
    ),
    "comparison": ("comparison.compare", "comparison.copy", "app.back", "app.help"),
    "launch": ("launch.start", "launch.choose", "launch.find", "launch.copy", "app.back", "app.help"),
    "jobs": ("jobs.log", "jobs.cancel", "jobs.resume", "app.launch", "app.back", "app.help"),
    "log": ("log.copy", "app.back", "app.help"),
    "sql": ("sql.run", "sql.copy", "app.back"),
    "ensembles": (
        "ensembles.new",
        "ensembles.results",
        "ensembles.cells",
        "app.launch",
        "ensembles.train",
        "app.help",
    ),
    "ensemble": ("ensemble.next", "ensemble.transfer", "ensemble.gradients", "app.launch", "app.back", "app.help"),
    "ensemble_builder": (
        "ensemble_builder.start",
        "ensemble_builder.choose",
        "ensemble_builder.find",
        "ensemble_builder.copy",
        "app.back",
        "app.help",
    ),
    "ensemble_attack": ("ensemble_attack.start", "ensemble_attack.copy", "ensemble_attack.leave"),
    "findings": ("findings.open", "findings.copy", "findings.decide", "app.back", "app.help"),
    "export": ("export.write", "export.leave"),
    "find": ("find.choose", "find.next", "find.previous", "find.leave"),
    "help": ("help.leave",),
}


def of(*scopes: str) -> list[Action]:
    """The actions of these scopes, in the order of the registry."""
    return [action for action in ACTIONS if action.scope in scopes]


def find(name: str) -> Action:
    """The action with this name (`home.filter`); raises `KeyError`."""
    for action in ACTIONS:
        if action.name == name:
            return action
    raise KeyError(name)


def _shown(key: str) -> str:
    named = {
        "question_mark": "?",
        "slash": "/",
        "escape": "esc",
        "down": "↓",
        "up": "↑",
        "left": "←",
        "right": "→",
        "pagedown": "pgdn",
        "pageup": "pgup",
    }
    return named.get(key, key.replace("ctrl+", "^") if key.startswith("ctrl+") else key)
