"""The parts of docs/protocol/ that are made from the code: tables of who may say what when, and a diagram.

`python -m tests.protocol.pages` writes them into the pages between their marks; tests assert that they are there.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from protocol import dialogue, hello, history, load, membership, reach
from protocol.dialogue import Script
from protocol.inference import SENDER, TABLE, Move, Role, State

PAGES: Final = Path(__file__).parents[2] / "docs" / "protocol"


def inference_table() -> str:
    """Return the transition table: a row per state, a column per end that speaks."""
    lines = ["| state | the asker says | the server says |", "|---|---|---|"]
    for state in State:
        cells = [_cell(state, role) for role in (Role.ASKER, Role.SERVER)]
        lines.append(f"| {state.value} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines)


def _cell(state: State, role: Role) -> str:
    steps = [(move, step) for move, step in TABLE[state].items() if SENDER[move] is role]
    said = [f"{move.value} → {step.to.value}{' ×' if step.crossing else ''}" for move, step in steps]
    return "<br>".join(said) or "–"


def inference_diagram() -> str:
    """Return the same as a Mermaid state diagram; crossing steps are marked ×."""
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {_node(State.IDLE)}"]
    lines += [f'    state "{state.value}" as {_node(state)}' for state in State]
    for state in State:
        for target in State:
            moves = [_label(state, move) for move, step in TABLE[state].items() if step.to is target]
            if moves:
                lines.append(f"    {_node(state)} --> {_node(target)}: {', '.join(moves)}")
    return "\n".join([*lines, "```"])


def _label(state: State, move: Move) -> str:
    return move.value.replace(",", "") + (" ×" if TABLE[state][move].crossing else "")


def _node(state: State) -> str:
    return state.value.replace(" ", "_")


def dialogue_table(script: Script[Any, Any]) -> str:
    """Return the table of a protocol whose ends take turns."""
    lines = ["| state | the opener says | the answerer says |", "|---|---|---|"]
    kinds = {cls: kind for kind, cls in script.vocabulary.kinds.items()}
    for state, turns in script.table.items():
        cells = [
            "<br>".join(f"`{kinds[said]}` → {turn.to.value}" for said, turn in turns.items() if turn.by is role) or "–"
            for role in dialogue.Role
        ]
        rest = " (may end)" if state in script.rests else ""
        lines.append(f"| {state.value}{rest} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines)


Part = Callable[[], str]
PARTS: Final[Mapping[str, Mapping[str, Part]]] = {
    "inference.md": {"table": inference_table, "diagram": inference_diagram},
    "hello.md": {"table": lambda: dialogue_table(hello.SCRIPT)},
    "load.md": {"table": lambda: dialogue_table(load.SCRIPT)},
    "reach.md": {"table": lambda: dialogue_table(reach.SCRIPT)},
    "history.md": {"table": lambda: dialogue_table(history.SCRIPT)},
    "membership.md": {"table": lambda: dialogue_table(membership.SCRIPT)},
}


def filled(page: str, name: str = "inference.md") -> str:
    """Return the text of the page with its generated parts as the code has them."""
    for part, make in PARTS[name].items():
        mark = re.compile(rf"(<!-- begin {part} -->\n).*?(<!-- end {part} -->)", re.DOTALL)
        page, found = mark.subn(lambda match, make=make: f"{match[1]}{make()}\n{match[2]}", page)
        assert found == 1, f"the page has {found} places for the {part}"
    return page


if __name__ == "__main__":
    for page_name in PARTS:
        made = PAGES / page_name
        made.write_text(filled(made.read_text(), page_name))
        print(made)
