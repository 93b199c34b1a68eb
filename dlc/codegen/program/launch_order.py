"""Updates as soon as what they need is there, copies of parameters as late as they can be: so that nothing is in memory
longer than necessary.

Groups come in the order in which their operations were traced, and an optimizer's updates, with the gradients of the
weights that are fused into them, are traced last: every activation and every gradient of one would be kept until the
end of the step. A launch whose results nobody in the step reads is therefore moved up, with what is computed for such
launches alone (packed operands): behind the last launch that it depends on, and behind all that read a parameter that
it overwrites. A launch that reads inputs of the program alone (it packs a weight) is moved down: before the first that
reads its result, or that overwrites what it reads. Small ones stay where they are: neighbours among them may run side
by side.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import TypeVar

from dlc.ir.program.program import Launch, Repeat, Slot

LARGE = 1 << 20  # bytes of temporary memory read, or written, by a launch that is worth moving

Step = TypeVar("Step", bound=Launch | Repeat)


def reorder(steps: Sequence[Step], donated: Sequence[tuple[Slot, Slot]], large: int = LARGE) -> list[Step]:
    """The steps in an order in which large updates come early, and large copies of inputs late. `donated` has pairs
    (input, output): the output is to take the input's memory."""
    slots, writes = [s.touched for s in steps], [s.written for s in steps]
    before, users = _dependencies(slots, writes)
    early = {k for k in range(len(steps)) if not users[k] and all(s.kind == "output" for s in writes[k])
             and sum(s.nbytes for s in slots[k] - writes[k] if s.kind == "arena") >= large}
    only_for: dict[int, set[int]] = {k: {k} for k in early}  # what leads to one update alone waits for it
    for k in range(len(steps) - 1, -1, -1):
        goals = [only_for.get(u) for u in users[k]]
        if goals and all(g is not None and g == goals[0] for g in goals):
            only_for[k] = goals[0]
    with_them = only_for.keys() - early
    late = {k for k in range(len(steps)) if k not in only_for
            and all(s.kind == "arena" for s in writes[k]) and sum(s.nbytes for s in writes[k]) >= large
            and {s.kind for s in slots[k] - writes[k]} | {"const"} == {"input", "const"}}
    touching: dict[Slot, list[int]] = {}
    for k, touched in enumerate(slots):
        for s in touched:
            touching.setdefault(s, []).append(k)
    for source, goal in donated:
        writers = [k for k in touching.get(goal, ()) if goal in writes[k]]
        readers = [k for k in touching.get(source, ()) if k not in writers]
        if writers and all(k < writers[0] for k in readers):  # otherwise a copy is made in any case
            for k in writers:
                before[k].update(readers)
    waits: dict[int, set[int]] = {k: _needed(k, before, with_them | late) for k in sorted(early)}
    out: list[Step] = []
    done: set[int] = set()

    def place(k: int) -> None:
        """The step, after what it depends on."""
        stack = [k]
        while stack:
            top = stack[-1]
            missing = sorted(before[top] - done, reverse=True) if top not in done else []
            stack += missing
            if not missing:
                stack.pop()
                if top not in done:
                    done.add(top)
                    out.append(steps[top])

    for k in range(len(steps)):
        if k not in early and k not in with_them and k not in late:
            place(k)
            for ready in [e for e, needs in waits.items() if needs <= done]:
                place(ready)
                del waits[ready]
    for k in range(len(steps)):
        place(k)
    return out


def _dependencies(slots: Sequence[set[Slot]], writes: Sequence[set[Slot]]) -> tuple[list[set[int]], list[set[int]]]:
    """For each step the earlier ones that must stay before it, and the later ones that must stay behind it."""
    before: list[set[int]] = [set() for _ in slots]
    users: list[set[int]] = [set() for _ in slots]
    writer: dict[Slot, int] = {}
    readers: dict[Slot, list[int]] = {}
    for k, (touched, written) in enumerate(zip(slots, writes, strict=True)):
        for s in touched:
            if s in writer:
                before[k].add(writer[s])
            if s in written:
                before[k].update(readers.pop(s, ()))
                writer[s] = k
            else:
                readers.setdefault(s, []).append(k)
        for other in before[k]:
            users[other].add(k)
    return before, users


def _needed(k: int, before: Sequence[set[int]], with_them: Set[int]) -> set[int]:
    """The steps that must be done before `k` and what is computed for it can be."""
    needed: set[int] = set()
    seen, stack = {k}, [k]
    while stack:
        for other in before[stack.pop()] - seen:
            seen.add(other)
            if other in with_them:
                stack.append(other)
            else:
                needed.add(other)
    return needed
