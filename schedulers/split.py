"""A run in parts: what one part leaves for the next, which goes on bit for bit as in one go.

A part covers some levels of SIGMAS of the whole run. Two latents and a list of levels do not say how a
multistep or stochastic solver goes on; its earlier predictions, the next stage and the place in the noise
stream do, and those are in a :class:`Stopped`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path as File
from typing import Any

import torch
from torch import Tensor

from .noise import BatchSeed, DrawNoise, NoiseRecipe, draws_of, from_facts, recipe_of, to_facts
from .path import Path
from .points import Points
from .solver import Progress, Run, Solver, State, drive
from .solver.base import host_plan, spans_of
from .solver.run import Program
from .store import Format

#: What guidance keeps between evaluations, by name.
Memory = Callable[[], Mapping[str, Tensor]]

FORMAT = Format(
    "sampling_kit_state",
    "sampler state",
    advice="Save State writes such files",
    diverged="the run that made it diverged",
)
SAME = 1e-5  # of the largest value: more than a host's scaling there and back rounds, less than an edit


@dataclass(frozen=True)
class Stopped:
    """A run that stopped at noise level number ``level`` of ``sigmas``.

    ``solver`` and ``path`` are the repr of what made it; ``extra`` holds tensors of the host that belong to
    the run, such as the picture under a noise mask, ``memory`` what guidance keeps between evaluations. All
    tensors are on the CPU. ``images``: image i of the batch has the noise of seed + images[i]; None: of seed + i.
    ``recipe``: how noise comes from the seed; None: from each image's own stream.
    """

    solver: str
    path: str
    sigmas: tuple[float, ...]
    level: int
    seed: int
    state: State
    extra: Mapping[str, Tensor] = field(default_factory=dict)
    memory: Mapping[str, Tensor] = field(default_factory=dict)
    images: tuple[int, ...] | None = None
    recipe: NoiseRecipe | None = None

    def draws(self, solver: Solver, path: Path) -> DrawNoise:
        """The noise that the solver draws on the way."""
        seed = BatchSeed(self.seed, self.images, self.recipe)
        return draws_of(seed, spans_of(solver, path, self.sigmas))

    @property
    def sigma(self) -> float:
        return self.sigmas[self.level]

    def describe(self) -> str:
        shape = "×".join(map(str, self.state.x.shape))
        where = f"level {self.level} of {len(self.sigmas) - 1} (σ = {self.sigma:g})"
        return f"{self.solver}, {where}, {shape}, {self.state.draws} noise draws made"


class Handover:
    """Where a part of a run leaves its state for the next part; empty until that part has run.

    ``brings_x``: the next part goes on from the state's own x, and the latent that it is given stands for the order alone.
    """

    brings_x = False

    def __init__(self, stopped: Stopped | None = None) -> None:
        self.stopped = stopped

    def get(self, who: str) -> Stopped:
        """Raises ValueError if the first part has not run."""
        if self.stopped is None:
            raise ValueError(
                f"{who}: there is no state yet. The first SamplerCustomAdvanced must have run with the sampler "
                "of Keep State in this session, before this: connect its LATENT to the second one. If ComfyUI "
                "took that LATENT from its cache and the state is gone, change the seed or use Load State"
            )
        return self.stopped


@dataclass(frozen=True)
class Part:
    """One part of a run of ``solver``: the beginning of ``sigmas``, or what follows ``after``.

    The state at its end goes to ``out``. ``edited``: x is not the state's own, but put in its place.
    """

    solver: Solver
    out: Handover
    sigmas: tuple[float, ...] = ()
    after: Handover | None = None
    edited: bool = False

    def __post_init__(self) -> None:
        if not self.solver.planned:
            raise ValueError(
                f"sampler: {self.solver.title} chooses its moves from the data as it goes and cannot be split; "
                "use another solver"
            )

    def begin(
        self,
        path: Path,
        x: Tensor,
        levels: Sequence[float],
        seed: int,
        noise_added: bool = False,
        extra: Mapping[str, Tensor] | None = None,
        images: tuple[int, ...] | None = None,
    ) -> Stopped:
        """The state this part starts from, on the device of x [B, …], which is the host's start at levels[0].

        Raises ValueError if ``levels`` is not the right part of the whole run, or the state is not one of
        this solver, path or shape.
        """
        self.out.stopped = None  # an interrupted run leaves nothing, not an earlier run's state
        if self.after is None:
            start = Stopped(
                repr(self.solver),
                repr(path),
                self.sigmas,
                0,
                int(seed),
                State((x,)),
                extra or {},
                images=images,
                recipe=recipe_of(seed),
            )
            self._check_levels(start, levels)
            return start
        start = self.after.get("Resume State")
        if x.shape[1:] == start.state.x.shape[1:] and len(x) < len(start.state.x):
            start = taken(start, rows_of(start, x, Points.from_sigmas(path, start.sigmas)))
        self._check_made(start, path, x)
        self._check_levels(start, levels)
        if noise_added:
            raise ValueError(
                "Resume State: noise was added to the latent; connect DisableNoise to this "
                "SamplerCustomAdvanced, since the state goes on in its own noise stream"
            )
        points = Points.from_sigmas(path, start.sigmas)
        if not fits(self.solver, points, start):
            raise ValueError(
                f"Resume State: the state is not one that {start.solver} has at level {start.level}; it was "
                "made by another version of the Sampling Kit, or changed. Run the first part again"
            )
        start = on(start, x.device)
        if self.after.brings_x:
            return start
        return replace(
            start, state=self._with(start.state, x, points.path.host.on(levels[0]).alpha)
        )

    def run(
        self, start: Stopped, path: Path, run: Run, levels: Sequence[float], memory: Memory = dict
    ) -> Tensor:
        """From ``start`` over ``levels``; returns x and leaves the state. The callback counts this part's steps.

        ``memory()`` is what guidance keeps by then.
        """
        points = Points.from_sigmas(path, start.sigmas)
        steps = len(levels) - 1

        def report(p: Progress) -> None:
            if run.callback is not None:
                run.callback(replace(p, step=p.step - start.level, steps=steps))

        level = start.level + steps
        state = self.solver.advance(points, replace(run, callback=report), start.state, level)
        stopped = replace(start, level=level, state=state, memory=memory())
        self.out.stopped = on(stopped, torch.device("cpu"))
        return state.x

    def _check_made(self, start: Stopped, path: Path, x: Tensor) -> None:
        for what, kept, here in (
            ("solver", start.solver, repr(self.solver)),
            ("noise schedule", start.path, repr(path)),
            ("latent", tuple(start.state.x.shape), tuple(x.shape)),
        ):
            if kept != here:
                raise ValueError(
                    f"Resume State: the {what} of the state is {kept}, but that of this run is {here}; "
                    "the two parts must agree"
                )

    def _check_levels(self, start: Stopped, levels: Sequence[float]) -> None:
        expected = start.sigmas[start.level : start.level + len(levels)]
        if tuple(levels) == expected:
            return
        got = f"{len(levels)} levels from σ = {levels[0]:g} to {levels[-1]:g}"
        if self.after is None:
            raise ValueError(
                f"Keep State: SIGMAS of SamplerCustomAdvanced ({got}) must be the beginning of those at Keep "
                f"State ({_span(start.sigmas)}): the whole run's there, high_sigmas of SplitSigmas here"
            )
        raise ValueError(
            f"Resume State: the state stopped at level {start.level} (σ = {start.sigma:g}) of {_span(start.sigmas)}, "
            f"but these SIGMAS are {got}: use low_sigmas of SplitSigmas with step = {start.level}"
        )

    def _with(self, state: State, x: Tensor, alpha: float) -> State:
        """``state`` going on from x. Its own x, if x is that within rounding, or cannot show it (α = 0)."""
        if alpha == 0:
            return state
        kept = state.x
        off, size = (x - kept).abs().max().item(), kept.abs().max().item()
        if off <= SAME * size:
            return state
        if not self.edited:
            raise ValueError(
                f"Resume State: the latent differs from the state by up to {off:.3g} (values up to {size:.3g}). "
                "Connect the output of the run that left this state, and give each run its own Keep State; if "
                "you changed the latent in between, set edited"
            )
        return state.moved(x)


@dataclass(frozen=True)
class Stepped:
    """A whole run of ``solver``, bit for bit the run in one go, that shows every step, and its state at every noise
    level if the solver is a plan."""

    solver: Solver
    seen: Callable[[Progress], None]
    passed: Callable[[Stopped], None]

    def begin(
        self,
        path: Path,
        x: Tensor,
        levels: Sequence[float],
        seed: int,
        noise_added: bool = False,
        extra: Mapping[str, Tensor] | None = None,
        images: tuple[int, ...] | None = None,
    ) -> Stopped:
        """The state the run starts from; see :meth:`Part.begin`."""
        state, name = State((x,)), repr(self.solver)
        made = name, repr(path), tuple(levels), 0, int(seed), state, extra or {}
        return Stopped(*made, images=images, recipe=recipe_of(seed))

    def run(
        self, start: Stopped, path: Path, run: Run, levels: Sequence[float], memory: Memory = dict
    ) -> Tensor:
        """From ``start`` over ``levels``; ``seen`` comes before the callback."""
        state = start.state
        if len(levels) < 2:
            return state.x
        points = Points.from_sigmas(path, levels)

        def report(p: Progress) -> None:
            self.seen(p)
            if run.callback is not None:
                run.callback(p)

        program = self._stepped(start, points, run.noise, memory)
        return drive(program, replace(run, callback=report)).x

    def _stepped(
        self, start: Stopped, points: Points, noise: DrawNoise | None, memory: Memory
    ) -> Program[State]:
        """The solver's own questions, with ``passed`` at every level of a plan."""
        state = start.state
        if not self.solver.planned:
            return (yield from self.solver.steps(points, state, noise))
        for level in range(len(points)):
            state = yield from self.solver.steps(points, state, noise, level)
            self.passed(replace(start, level=level, state=state, memory=memory()))
        return state


def fits(solver: Solver, points: Points, stopped: Stopped) -> bool:
    """Whether the state has the stage and the tensors that a run over ``points`` has at its level."""
    plan, state = host_plan(solver, points), stopped.state
    stages, level = plan.stages, stopped.level
    ahead = (i for i, s in enumerate(stages) if s.step >= level or not s.evaluate)
    stage = next(ahead, len(stages)) if level < len(points) - 1 else len(stages)
    done = stages[:stage]
    keep_x, keep_d = plan.reach
    return (
        (state.stage, len(state.anchors), len(state.history))
        == (
            stage,
            min(keep_x, 1 + sum(s.commit for s in done)),
            min(keep_d, sum(s.evaluate for s in done)),
        )
        and (state.y is None) == (stage == len(stages))
    )  # fmt: skip


def rows_of(stopped: Stopped, x: Tensor, points: Points) -> list[int]:
    """Which images of a state's batch x [fewer, …] are: a LATENT does not bring its batch_index here, but it is the
    state's own x. Raises ValueError where it is none of them, or cannot tell (pure noise on flow)."""
    batch = stopped.state.x
    if points.path.host.on(stopped.sigma).alpha == 0:
        raise ValueError(
            f"Resume State: the state has {len(batch)} images and the latent {len(x)}, at pure noise, where a latent does not "
            "say which; keep the state at a later step, or go on with all images"
        )
    off = [[float((image - own).abs().max()) for own in batch.to(x.device)] for image in x]
    rows = [min(range(len(batch)), key=row.__getitem__) for row in off]
    size = float(batch.abs().max())
    worst = max(row[i] for row, i in zip(off, rows, strict=True))
    if worst > SAME * size:
        raise ValueError(
            f"Resume State: the state has {len(batch)} images, the latent {len(x)}, which differ from each of them by up to "
            f"{worst:.3g}: go on with images of the run that left the state, unedited (LatentFromBatch), or with all"
        )
    return rows


def taken(stopped: Stopped, rows: Sequence[int]) -> Stopped:
    """The state of some images of its batch."""
    batch, images = len(stopped.state.x), stopped.images
    kept = tuple(images[i] if images is not None else i for i in rows)
    part = mapped(stopped, lambda t: t[list(rows)] if t.ndim and len(t) == batch else t)
    return replace(part, images=kept)


def on(stopped: Stopped, device: torch.device) -> Stopped:
    """The same with copies of its tensors on ``device``."""
    return mapped(stopped, lambda t: t.to(device, copy=True))


def mapped(stopped: Stopped, change: Callable[[Tensor], Tensor]) -> Stopped:
    """The same with ``change`` of each of its tensors."""
    return _with_tensors(stopped, {name: change(t) for name, t in _tensors(stopped).items()})


# ------------------------------------------------------------------------------------------- files


def save(stopped: Stopped, file: File, latent: Mapping[str, Tensor]) -> None:
    """Write a state and the host's ``latent``. Raises ValueError if a tensor holds NaN or infinity."""
    tensors = _tensors(stopped) | {f"latent.{name}": t for name, t in latent.items()}
    facts = {name: getattr(stopped, name) for name in ("solver", "path", "sigmas", "level", "seed")}
    if stopped.images is not None:
        facts["images"] = stopped.images
    if stopped.recipe is not None:
        facts["noise"] = to_facts(stopped.recipe)
    state = {name: getattr(stopped.state, name) for name in ("stage", "draws", "lift")}
    FORMAT.write(file, tensors, facts | state)


def load(file: File) -> tuple[Stopped, dict[str, Tensor]]:
    """(state, latent) of a file that :func:`save` wrote. Raises BadFile saying what is wrong with it."""
    with FORMAT.opened(file) as stored:
        tensors, latent = stored.tensors(), {}
        for name in [name for name in tensors if name.startswith("latent.")]:
            latent[name.removeprefix("latent.")] = tensors.pop(name)
        stopped = _with_tensors(_from_facts(stored.facts), tensors)
        beside = ("extra.", "memory.")
        inner = [t for name, t in _tensors(stopped).items() if not name.startswith(beside)]
        if (
            not stopped.state.anchors
            or any(t.shape != inner[0].shape for t in inner)
            or "samples" not in latent
        ):
            raise ValueError("tensors are missing or differ in shape")
    return stopped, latent


def _from_facts(facts: Mapping[str, Any]) -> Stopped:
    sigmas, level = tuple(map(float, facts["sigmas"])), int(facts["level"])
    if not 0 <= level < len(sigmas):
        raise ValueError(f"level {level} of {len(sigmas)}")
    state = State((), (), int(facts["stage"]), int(facts["draws"]), lift=float(facts["lift"]))
    images = tuple(map(int, facts["images"])) if "images" in facts else None
    recipe = from_facts(facts["noise"]) if "noise" in facts else None
    made = str(facts["solver"]), str(facts["path"])
    return Stopped(*made, sigmas, level, int(facts["seed"]), state, images=images, recipe=recipe)


def _tensors(stopped: Stopped) -> dict[str, Tensor]:
    """Every tensor by its name in a file; ``_with_tensors`` is the inverse."""
    s = stopped.state
    named = {f"anchor.{i}": t for i, t in enumerate(s.anchors)}
    named |= {f"history.{i}": t for i, t in enumerate(s.history)}
    named |= {name: t for name, t in (("y", s.y), ("x", s.arrived)) if t is not None}
    named |= {f"extra.{name}": t for name, t in stopped.extra.items()}
    return named | {f"memory.{name}": t for name, t in stopped.memory.items()}


def _with_tensors(stopped: Stopped, tensors: Mapping[str, Tensor]) -> Stopped:
    def series(kind: str) -> tuple[Tensor, ...]:
        count = sum(name.startswith(f"{kind}.") for name in tensors)
        return tuple(tensors[f"{kind}.{i}"] for i in range(count) if f"{kind}.{i}" in tensors)

    state = replace(
        stopped.state,
        anchors=series("anchor"),
        history=series("history"),
        y=tensors.get("y"),
        arrived=tensors.get("x"),
    )

    def beside(kind: str) -> dict[str, Tensor]:
        return {n.removeprefix(kind): t for n, t in tensors.items() if n.startswith(kind)}

    return replace(stopped, state=state, extra=beside("extra."), memory=beside("memory."))


def _span(sigmas: Sequence[float]) -> str:
    return f"{len(sigmas)} levels from σ = {sigmas[0]:g} to {sigmas[-1]:g}"
