"""From the registry of actions to textual's key bindings."""

from __future__ import annotations

from textual.binding import Binding, BindingType

from explorer import actions


def bindings(*scopes: str) -> list[BindingType]:
    """The bindings of these scopes. Textual's own footer shows none: the key bar is made from the registry too."""
    return [Binding(a.key, a.id, a.label, show=False, tooltip=a.help, id=a.name) for a in actions.of(*scopes)]
