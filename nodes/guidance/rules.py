"""Guidance nodes: one GUIDANCE node per rule of the engine's ``guidance.ALL``, and the Guider.

What a rule needs beyond the positive and the negative condition is wired to the rule's own node and
travels with the chain (see ``branches.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ...schedulers.guidance import (
    ALL,
    COND,
    NAG,
    NEGATIVE,
    UNCOND,
    WEAK,
    Autoguidance,
    Compose,
    Guidance,
    PerpNeg,
    Rule,
)
from .. import host
from ..host import io
from ..host.guidance_wire import brought_by, extended, next_condition, require_branches
from ..ui.inputs import inputs_for, made, summary
from ..ui.wire_types import GuidanceType

CATEGORY = "Sampling Kit/guidance"
Given = dict[str, Any]


@dataclass(frozen=True)
class Extra:
    """What the node of a rule takes beside the knobs: ``inputs``, in place of the knobs ``instead_of``.

    take(inputs, chain) → (inputs for the knobs, what the node brings for branches).
    """

    inputs: Callable[[], Sequence[Any]]
    take: Callable[[Given, Guidance | None], tuple[Given, Given]]
    instead_of: frozenset[str] = frozenset()


def brings(name: str, branch: str, kind: Any, tooltip: str) -> Extra:
    """One required input that is brought for one branch."""

    def take(given: Given, chain: Guidance | None) -> tuple[Given, Given]:
        value = given.pop(name, None)
        return given, ({} if value is None else {branch: value})

    return Extra(lambda: [kind.Input(name, tooltip=tooltip)], take)


def composition() -> list[Any]:
    """The growing inputs of Composition."""
    condition = io.Conditioning.Input("condition", tooltip="A further condition.")
    mask = io.Mask.Input("mask", tooltip="Where the condition of the same number counts.")
    grow = io.Autogrow
    return [
        grow.Input(
            "conditions",
            template=grow.TemplatePrefix(condition, prefix="condition", min=1, max=20),
            tooltip="Further conditions, one weight each.",
        ),
        grow.Input(
            "masks",
            template=grow.TemplatePrefix(mask, prefix="mask", min=0, max=20),
            tooltip="Mask i is for condition i; none: everywhere.",
            optional=True,
        ),
    ]


def numbered(given: Given | None, prefix: str) -> dict[int, Any]:
    """The connected inputs of an Autogrow by their number."""
    there = {key: value for key, value in (given or {}).items() if value is not None}
    return {int(key.removeprefix(prefix)): there[key] for key in there}


def composed(given: Given, chain: Guidance | None) -> tuple[Given, Given]:
    """Conditions and masks of Composition, numbered on from those the chain already has."""
    conditions = numbered(given.pop("conditions", None), "condition")
    masks = numbered(given.pop("masks", None), "mask")
    weights, order = Compose(given.get("weights", Compose().weights)).parts, sorted(conditions)
    if len(weights) != len(order):
        raise ValueError(
            f"weights = {given.get('weights')!r}: {len(weights)} for {len(order)} conditions; write one "
            "number for each, with commas"
        )
    if lost := sorted(set(masks) - set(order)):
        raise ValueError(f"masks.mask{lost[0]}: there is no conditions.condition{lost[0]}")
    first = next_condition(chain)
    given |= {"first": first, "masks": tuple(masks.get(i) for i in order) if masks else ()}
    return given, {f"{COND}.{n}": conditions[i] for n, i in enumerate(order, first)}


EXTRAS: dict[type[Rule], Extra] = {
    Autoguidance: brings(
        "weak_model", WEAK, io.Model,
        "A smaller or less trained model of the same latent space and noise levels, loaded on its own.",
    ),
    PerpNeg: brings(
        "negative_prompt", NEGATIVE, io.Conditioning,
        "What is not wanted; the Guider's negative is then the empty condition.",
    ),
    NAG: brings(
        "negative_prompt", NEGATIVE, io.Conditioning,
        "What is not wanted, for the whole picture; the Guider's negative is not needed.",
    ),
    Compose: Extra(composition, composed, frozenset({"masks", "first"})),
}  # fmt: skip
PLAIN = Extra(list, lambda given, chain: (given, {}))


def rule_node(rule: type[Rule]) -> type[Any]:
    """The node of one rule: appends it to the chain that comes in."""
    extra = EXTRAS.get(rule, PLAIN)

    def define_schema(cls: Any) -> Any:
        chain = GuidanceType.Input(
            "guidance", optional=True, tooltip="Rules that come before this one."
        )
        knobs = [item for item in inputs_for(rule) if item.id not in extra.instead_of]
        return io.Schema(
            node_id=f"SamplingKit{rule.__name__}",
            display_name=rule.title
            if rule.title.endswith("guidance")
            else f"{rule.title} Guidance",
            category=CATEGORY,
            description=summary(rule, rule.paper and f"{rule.paper}."),
            search_aliases=[*rule.aliases, "guidance"],
            inputs=[*extra.inputs(), *knobs, chain],
            outputs=[
                GuidanceType.Output(
                    display_name="guidance", tooltip="For the Guider, or another rule."
                )
            ],
        )

    def execute(cls: Any, guidance: Guidance | None = None, **given: Any) -> Any:
        knobs, brought = extra.take(given, guidance)
        return io.NodeOutput(extended(guidance, made(rule, knobs), brought))

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
            "alone; a branch that no rule needs at a step is not evaluated, and the log says how many network "
            "calls a run made and saved. Patches of the MODEL stay in force: one that replaces CFG "
            "(sampler_cfg_function, such as RescaleCFG) takes the place of the chain's CFG rule, and is not "
            "called where the chain has none.",
            search_aliases=["guider", "CFGGuider", "BasicGuider", "PerpNegGuider", "DualCFGGuider", "guidance"],
            inputs=[
                io.Model.Input("model", tooltip="Any MODEL, with its patches."),
                io.Conditioning.Input("positive", tooltip="The condition."),
                io.Conditioning.Input("negative", optional=True, tooltip="The unconditional or negative condition; needed by CFG."),
                GuidanceType.Input("guidance", optional=True, tooltip="Rules in order; none: the condition alone."),
                io.Boolean.Input(
                    "share_pure_noise", default=False, optional=True, advanced=True,
                    tooltip="On flow models at exactly t = 1 evaluate one image for the whole batch: there an exact model's "
                    "prediction does not depend on the noise. Needs the same condition for all images.",
                ),
            ],
            outputs=[io.Guider.Output(display_name="guider", tooltip="For SamplerCustomAdvanced.")],
        )  # fmt: skip

    @classmethod
    def execute(
        cls,
        model: Any,
        positive: Any,
        negative: Any = None,
        guidance: Guidance | None = None,
        share_pure_noise: bool = False,
    ) -> Any:
        guidance = guidance or Guidance()
        if not isinstance(guidance, Guidance):
            raise TypeError(f"guidance: expected a GUIDANCE, got {type(guidance).__name__}")
        conds = {COND: positive, **brought_by(guidance)}
        if negative is not None:
            conds[UNCOND] = negative
        require_branches(guidance, conds)
        weak = conds.pop(WEAK, None)
        guider = host.runs.make_guider(
            model, conds, guidance, weak=weak, share_pure_noise=share_pure_noise
        )
        return io.NodeOutput(guider)


NODES = (*(rule_node(rule) for rule in ALL), Guider)
