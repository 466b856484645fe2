"""Solver nodes: one per entry of the engine's ``solver.ALL``, made from its fields and docstring."""

from __future__ import annotations

from typing import Any

from ...schedulers.solver import ALL, Solver
from .. import host
from ..host import io
from ..ui.inputs import inputs_for, made, summary
from ..ui.live_route import show_live
from ..ui.search_words import CHINESE, once, solver_words

CATEGORY = "Sampling Kit/solver"


def solver_node(solver: type[Solver]) -> type[Any]:
    """The node of one solver: its knobs in, SAMPLER out."""

    def define_schema(cls: Any) -> Any:
        return io.Schema(
            node_id=f"SamplingKit{solver.__name__}",
            display_name=solver.title if "Solver" in solver.title else f"{solver.title} Solver",
            category=CATEGORY,
            description=summary(
                solver, f"Elsewhere: {solver.equals}.", f"Reference: {solver.paper}."
            ),
            search_aliases=once(
                [
                    *solver.aliases,
                    "sampler",
                    "solver",
                    *solver_words(solver),
                    *CHINESE["solver"],
                    *CHINESE.get(solver.__name__, ()),
                ]
            ),
            inputs=inputs_for(solver),
            outputs=[
                io.Sampler.Output(
                    display_name="sampler", tooltip="For SamplerCustomAdvanced or SamplerCustom."
                )
            ],
        )

    def execute(cls: Any, **knobs: Any) -> Any:
        return io.NodeOutput(host.runs.make_sampler(solver(**knobs)))

    methods = {
        "define_schema": classmethod(define_schema),
        "execute": classmethod(execute),
        "solver": staticmethod(lambda **knobs: made(solver, knobs)),
    }
    return type(f"{solver.__name__}Node", (io.ComfyNode,), {**methods, "__module__": __name__})


NODES = tuple(solver_node(solver) for solver in ALL)

for _solver, _node in zip(ALL, NODES, strict=True):
    show_live(f"SamplingKit{_solver.__name__}", _node, _node.solver)
