"""Guidance nodes: one GUIDANCE node per rule of the engine's ``guidance.ALL``, and the Guider."""

from __future__ import annotations

from typing import Any

from ..schedulers.guidance import ALL, COND, UNCOND, Guidance, Rule
from .host import io, make_guider
from .types import GuidanceType
from .widgets import inputs_for, made, summary

CATEGORY = "Sampling Kit/guidance"


def rule_node(rule: type[Rule]) -> type[Any]:
    """The node of one rule: appends it to the chain that comes in."""

    def define_schema(cls: Any) -> Any:
        chain = GuidanceType.Input(
            "guidance", optional=True, tooltip="Rules that come before this one."
        )
        return io.Schema(
            node_id=f"SamplingKit{rule.__name__}",
            display_name=rule.title
            if rule.title.endswith("guidance")
            else f"{rule.title} Guidance",
            category=CATEGORY,
            description=summary(rule, rule.paper and f"{rule.paper}."),
            search_aliases=[*rule.aliases, "guidance"],
            inputs=[*inputs_for(rule), chain],
            outputs=[
                GuidanceType.Output(
                    display_name="guidance", tooltip="For the Guider, or another rule."
                )
            ],
        )

    def execute(cls: Any, guidance: Guidance | None = None, **knobs: Any) -> Any:
        return io.NodeOutput((guidance or Guidance()).then(made(rule, knobs)))

    methods = {"define_schema": classmethod(define_schema), "execute": classmethod(execute)}
    return type(f"{rule.__name__}Node", (io.ComfyNode,), {**methods, "__module__": __name__})


class Guider(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="SamplingKitGuider",
            display_name="Guider",
            category=CATEGORY,
            description="Runs a chain of guidance rules on a MODEL. Without rules it is the positive condition "
            "alone; a branch that no rule needs at a step is not evaluated.",
            search_aliases=["guider", "CFGGuider", "BasicGuider", "guidance"],
            inputs=[
                io.Model.Input("model"),
                io.Conditioning.Input("positive", tooltip="The condition."),
                io.Conditioning.Input("negative", optional=True, tooltip="The unconditional or negative condition; needed by CFG."),
                GuidanceType.Input("guidance", optional=True, tooltip="Rules in order; none: the condition alone."),
            ],
            outputs=[io.Guider.Output(display_name="guider", tooltip="For SamplerCustomAdvanced.")],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, model: Any, positive: Any, negative: Any = None, guidance: Guidance | None = None
    ) -> Any:
        guidance = guidance or Guidance()
        if not isinstance(guidance, Guidance):
            raise TypeError(f"guidance: expected a GUIDANCE, got {type(guidance).__name__}")
        conds = {COND: positive} | ({} if negative is None else {UNCOND: negative})
        for rule in guidance.rules:
            if UNCOND in rule.reads - set(conds):
                raise ValueError(
                    f"negative: the guidance ({rule.title}) needs it, but it is not connected"
                )
            if missing := sorted(rule.reads - {COND, UNCOND}):
                raise ValueError(
                    f"guidance: {rule.title} needs {', '.join(missing)}, which this Guider cannot supply"
                )
        return io.NodeOutput(make_guider(model, conds, guidance))


NODES = (*(rule_node(rule) for rule in ALL), Guider)
