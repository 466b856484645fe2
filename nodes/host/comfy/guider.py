"""A guidance chain as GUIDER: a subclass of CFGGuider, so that the host's hooks are respected."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, TypeGuard

import comfy.samplers
import torch
from torch import Tensor

from ....schedulers.guidance import (
    CFG,
    COND,
    NEGATIVE,
    UNCOND,
    WEAK,
    Call,
    Guidance,
    GuidanceRun,
    InAttention,
    Rule,
    Scaled,
    differentiable,
    ordinary,
)
from ....schedulers.path import VE, Flow
from ....schedulers.several_levels import level_by_level
from ..conditioning import Conditioning
from ..guidance_wire import Holder, conclude, log, one_condition, placed
from .conditions import image_rows, readable
from .missing import needed_by
from .model import is_flow, names, wants_vp
from .step_level import level_of, noted


@dataclass(frozen=True)
class HostCFG(CFG):
    """The chain's CFG, done by the MODEL's own ``sampler_cfg_function``: (D_c, D_u, weight) → D."""

    function: Callable[[Tensor, Tensor, float], Tensor] | None = None

    def apply(self, d: Tensor, call: Call) -> Tensor:
        assert self.function is not None
        return self.function(d, call[UNCOND], self.weight(call.level))


def guides(rule: Rule) -> TypeGuard[Scaled]:
    """Whether the host's CFG scale is the rule's."""
    return isinstance(rule, Scaled) and rule.guides


class Held:
    """SAMPLER that samples nothing: calls ``then`` while its guider's MODEL is loaded and ready."""

    def __init__(self, then: Callable[[dict[str, Any]], Any]) -> None:
        self.then = then
        self.out: Any = None

    def sample(
        self, model_wrap: Any, sigmas: Tensor, extra_args: dict[str, Any], callback: Any, noise: Tensor,
        latent_image: Tensor, denoise_mask: Any = None, disable_pbar: bool = False,
    ) -> Tensor:  # fmt: skip
        self.out = self.then(extra_args["model_options"])
        return latent_image


class Guider(comfy.samplers.CFGGuider):
    """A guidance chain as GUIDER: the branches of a step that share a model and its options in one call of
    the host, whose hooks are respected.

    What the MODEL's functions are given: before CFG, after CFG and in place of the batch call the pair
    (cond, uncond) that they know; branches beyond it pass them by.
    """

    #: Branch → what the host calls its condition; others keep their name.
    names: ClassVar = {COND: "positive", UNCOND: "negative", NEGATIVE: "negative prompt"}

    original_conds: Any  # CFGGuider's
    guidance = Guidance()
    weak_model: Any = None
    share_pure_noise = False
    holder: Holder | None = None

    run: GuidanceRun | None = None
    state_level: float | None = None  # during a call by our solvers: σ of the state, see sampler.py
    warned = False  # that a scale has nothing to act on
    unplaced = False  # that a patch's CFG function has none
    ready: Guidance | None = None  # the chain on the run's device
    weak: tuple[Any, dict[str, Any]] | None = None  # during a run: its guider and model options

    def set_guidance(self, guidance: Guidance) -> None:
        self.guidance, self.run = guidance, None
        self.scale = next((rule.cfg for rule in guidance.rules if guides(rule)), 1.0)
        self.cfg = self.scale

    def set_branches(self, conds: Mapping[str, Conditioning]) -> None:
        """Conditionings by branch."""
        kinds = {UNCOND: "negative", NEGATIVE: "negative"}  # what the host is told they are
        self.inner_set_conds(
            {
                self.names.get(name, name): [
                    [text, {"prompt_type": kinds.get(name, "positive"), **more}]
                    for text, more in cond
                ]
                for name, cond in conds.items()
            }
        )

    # ------------------------------------------------------------------------------- a run

    @needed_by("Guider")
    def sample(
        self, noise: Any, latent_image: Any, sampler: Any, sigmas: Tensor, *args: Any, **kwargs: Any
    ) -> Any:
        """CFGGuider's, with a new run of the guidance, and a weaker model loaded beside the MODEL."""
        self.run, self.ready = self.new_run(sigmas.tolist()), None
        self.warned = self.unplaced = False
        sample = partial(super().sample, noise, latent_image, sampler, sigmas, *args, **kwargs)
        try:
            if self.weak_model is None or WEAK not in self.guidance.reads or not len(sigmas):
                out = sample()
            else:
                out = self.beside_weak(sample, noise, latent_image, sigmas, *args, **kwargs)
        finally:
            self.weak = self.ready = None
            for name in ("inner_model", "loaded_models", "conds"):  # an interrupted run leaves them
                self.__dict__.pop(name, None)
        conclude(self.run, self.holder)
        return out

    def beside_weak(
        self, sample: Callable[[], Any], noise: Any, latent_image: Any, sigmas: Tensor,
        denoise_mask: Any = None, callback: Any = None, disable_pbar: bool = False, seed: int | None = None,
    ) -> Any:  # fmt: skip
        """``sample`` while the host holds the weak model, prepared as for a run of its own.

        For the MODEL it is one of the additional models of its condition, so that both are loaded
        together.
        """
        weak = comfy.samplers.CFGGuider(self.weak_model)
        plain = self.original_conds
        weak.original_conds = {"positive": [dict(cond) for cond in plain["positive"]]}
        together = [
            cond | {"additional_models": [weak.model_patcher]} for cond in plain["positive"]
        ]

        def main(options: dict[str, Any]) -> Any:
            self.weak = weak, options
            return sample()

        held = Held(main)
        self.original_conds = plain | {"positive": together}
        try:
            weak.sample(noise, latent_image, held, sigmas, denoise_mask, None, disable_pbar, seed)
        finally:
            self.original_conds = plain
        return held.out

    def new_run(self, sigmas: list[float]) -> GuidanceRun:
        flow = is_flow(self.model_patcher.get_model_object("model_sampling"))
        share, probe = self.share_pure_noise, self.holder is not None
        path = Flow() if flow else VE()
        return self.guidance.begin(path, sigmas, share_pure_noise=share, probe=probe)

    def guidance_now(self, x: Tensor, cfg_function: Any) -> Guidance:
        """The chain on x's device, with the CFG scale that the host may set for a step (CFG Override, ``set_cfg``) in
        every rule that has one, and the MODEL's own function in the place of CFG."""
        if self.ready is None:
            self.ready = placed(self.guidance, x)
        rules, changed = list(self.ready.rules), self.cfg != self.scale
        if cfg_function and not any(isinstance(rule, CFG) for rule in rules):
            self.say_unplaced()
        if changed:
            self.require_scale()
        for i, rule in enumerate(rules):
            if changed and guides(rule):
                rules[i] = rule = rule.with_cfg(self.cfg)
            if isinstance(rule, CFG) and cfg_function:
                rules[i] = HostCFG(rule.scale, rule.curve, cfg_function)
        return Guidance(tuple(rules))

    def say_unplaced(self) -> None:
        """One warning a run that the MODEL's own CFG function has no rule to take the place of."""
        if not self.unplaced:
            log.warning(
                "model: a patch brings a CFG function (Dynamic Thresholding and its kind), which takes the place of CFG; the "
                "guidance has no CFG, so it does nothing. Use CFG for the rule that it has, or leave that patch out"
            )
        self.unplaced = True

    def require_scale(self) -> None:
        """Whether a scale that the host set can act: a warning if no rule has one, ValueError if it lacks its branch."""
        if not any(guides(rule) for rule in self.guidance.rules):
            if not self.warned:
                log.warning(
                    "Guider: something sets cfg to %g (CFG Override, set_cfg), but no rule of the guidance has a CFG scale: "
                    "it does nothing. Connect CFG or one of its relatives",
                    self.cfg,
                )
            self.warned = True
        elif self.cfg != 1 and self.conds.get("negative") is None:
            raise ValueError(
                f"negative: something sets cfg to {self.cfg:g} (CFG Override, set_cfg), which needs it, but it is not "
                "connected"
            )

    def predict_noise(
        self, x: Tensor, timestep: Tensor, model_options: dict[str, Any] | None = None,
        seed: int | None = None, **kwargs: Any,
    ) -> Tensor:  # fmt: skip
        options = model_options or {}
        sigma = level_of(timestep) if self.state_level is None else self.state_level
        run = self.run or self.new_run([])
        shared: dict[str, Any] = {
            "sigma": timestep, "timestep": timestep, "input": x, "model": self.inner_model,
            "model_options": options,
        }  # fmt: skip
        own: Any = options.get("sampler_cfg_function")
        conds = [self.conds.get("positive"), None]

        def host_cfg(d: Tensor, uncond: Tensor, weight: float) -> Tensor:
            """The MODEL's function, which takes and gives x − D."""
            named = {"cond_denoised": d, "uncond_denoised": uncond, "cond_scale": weight}
            pair = {
                "cond": y - d,
                "uncond": y - uncond,
                "input_cond": conds[0],
                "input_uncond": conds[1],
            }
            return y - own({**shared, "input": y, **named, **pair})

        run.guidance = self.guidance_now(x, own and host_cfg)
        always = options.get("disable_cfg1_optimization", False)
        also = (UNCOND,) if always and self.conds.get("negative") is not None else ()
        here = run.ladder.at(sigma)
        weights = [r.weight(here) for r in run.guidance.rules if guides(r)]
        shared["cond_scale"] = weights[0] if weights else self.cfg

        def evaluate(y: Tensor, level: float, names: Sequence[str]) -> dict[str, Tensor]:
            at = timestep if level == sigma else torch.full_like(timestep, level)
            if len(y) < len(x):
                self.require_one_condition(names)
            known = shared | {"sigma": at[: len(y)], "timestep": at[: len(y)], "input": y}
            inside = run.guidance.in_attention(run.ladder.at(level))
            return self.predictions(known, options, names, inside)

        with run.scope(x, sigma) as y, self.with_gradients(y):
            if y.requires_grad:
                shared |= {"sigma": ordinary(timestep), "timestep": ordinary(timestep)}
            preds = run.predict(y, sigma, evaluate, also)
            if UNCOND in preds:
                conds[1] = self.conds.get("negative")
            d = run.combine(y, sigma, preds, evaluate)
            cond = preds[COND].detach()
            uncond = preds[UNCOND].detach() if UNCOND in preds else torch.zeros_like(cond)
        named = {"cond_denoised": cond, "uncond_denoised": uncond}  # zeros: as the host itself
        for fn in options.get("sampler_post_cfg_function", []):
            d = fn(shared | named | {"denoised": d, "cond": conds[0], "uncond": conds[1]})
        return d

    def same_at_levels(self, batch: int, parts: Sequence[str]) -> bool:
        """Whether every condition holds none of ``parts``, and is of one image or of all ``batch``."""
        every = [cond for conds in self.conds.values() for cond in conds]
        rows = {len(t) for cond in every for _, t in image_rows(cond)}
        return rows <= {1, batch} and all(c.get(name) is None for c in every for name in parts)

    def predict_levels(
        self, x: Tensor, levels: tuple[float, ...], options: dict[str, Any], batch: int
    ) -> Tensor:
        """D of states x [len(levels)·B, …] at several levels, level by level, or of rows at levels of their own. One call
        where the rules permit it, else a call for each."""
        run = self.run or self.new_run([])
        told = x.new_tensor(levels).repeat_interleave(len(x) // len(levels))
        run.guidance = self.guidance_now(x, None)
        known = {"model": self.inner_model, "model_options": options}

        def every(y: Tensor, sigmas: Sequence[float], names: Sequence[str]) -> dict[str, Tensor]:
            shared = known | {"sigma": told, "timestep": told, "input": y}
            return self.predictions(shared, options, names)

        def one(y: Tensor, sigma: float, names: Sequence[str]) -> dict[str, Tensor]:
            at = y.new_full((len(y),), sigma)
            return self.predictions(
                known | {"sigma": at, "timestep": at, "input": y}, options, names
            )

        if run.together(levels):
            return run.several(x, levels, one, every, batch)

        def alone(y: Tensor, sigma: float) -> Tensor:
            return self.predict_noise(y, noted(y.new_full((len(y),), sigma), sigma), options)

        out = level_by_level(alone, x, levels, batch)
        run.require_no_memory()
        return out

    # -------------------------------------------------------------------------- the network

    def predictions(
        self, known: dict[str, Any], options: dict[str, Any], names: Sequence[str],
        inside: InAttention | None = None,
    ) -> dict[str, Tensor]:  # fmt: skip
        """D of every branch at ``known["input"]``: one call for each model and set of options.

        ``known`` is what the host tells its functions; ``inside`` is done in the attention of ``cond``'s call.
        """
        y, at, special = known["input"], known["timestep"], self.guidance.perturbations
        if y.requires_grad:
            at, options = ordinary(at), on_one_device(options)
            known = known | {"timestep": at, "sigma": at, "model_options": options}
        plain = [name for name in names if name != WEAK and name not in special]
        ours = options
        if inside is not None and COND in plain:
            from .nag import with_negative

            ours = with_negative(options, self.condition(NEGATIVE, y.requires_grad), inside)
        found = self.plain(known | {"model_options": ours}, ours, plain) if plain else {}
        for name in (n for n in names if n in special):
            from .perturb import perturbed

            changed = perturbed(options, special[name])
            conds = [self.condition(COND, y.requires_grad)]
            (found[name],) = comfy.samplers.calc_cond_batch(self.inner_model, conds, y, at, changed)
        if WEAK in names:
            assert self.weak is not None
            guider, own = self.weak
            own = on_one_device(own) if y.requires_grad else own
            conds = [readable(guider.conds["positive"], y.requires_grad)]
            model = guider.inner_model
            (found[WEAK],) = comfy.samplers.calc_cond_batch(model, conds, y, at, own)
        return found

    def plain(
        self, known: dict[str, Any], options: dict[str, Any], names: Sequence[str]
    ) -> dict[str, Tensor]:
        """The branches of the MODEL as it is, with the host's functions before CFG."""
        y, at = known["input"], known["timestep"]
        order = [COND, UNCOND, *sorted(set(names) - {COND, UNCOND})]
        conds = [self.condition(n, y.requires_grad) if n in names else None for n in order]

        def call(some: list[Any]) -> list[Tensor]:
            return comfy.samplers.calc_cond_batch(self.inner_model, some, y, at, options)

        own, pair = options.get("sampler_calc_cond_batch_function"), conds[:2]
        if own is None:
            preds = call(conds)
        else:
            preds = [*own(known | {"conds": pair}), *(call(conds[2:]) if conds[2:] else ())]
        for fn in options.get("sampler_pre_cfg_function", []):
            preds[:2] = fn(known | {"conds": pair, "conds_out": preds[:2]})
        return {name: d for name, d in zip(order, preds, strict=True) if name in names}

    def condition(self, branch: str, gradient: bool) -> Any:
        """The host's conditions of a branch."""
        return readable(self.conds[self.names.get(branch, branch)], gradient)

    @contextmanager
    def with_gradients(self, y: Tensor) -> Iterator[None]:
        """Where D is needed as a function of y, everything loaded for the run can be differentiated."""
        if not y.requires_grad:
            yield
            return
        models = [getattr(patcher, "model", patcher) for patcher in self.loaded_models]
        try:
            with differentiable(self.inner_model, *models):
                yield
        except RuntimeError as error:
            if not any(words in str(error) for words in ("nference tensor", "inplace operation")):
                raise
            titles = ", ".join(rule.title for rule in self.guidance.rules if rule.gradient)
            raise ValueError(
                f"guidance: {titles} needs the gradient of the MODEL, which a patch, a part of it or weights "
                f"that do not fit in memory do not give: {error}"
            ) from error

    def require_one_condition(self, names: Sequence[str]) -> None:
        """Raises ValueError unless every image of the batch has the same condition."""
        for name in names:
            key = self.names.get(COND if name in self.guidance.perturbations else name, name)
            group = (
                self.weak[0].conds["positive"] if name == WEAK and self.weak else self.conds[key]
            )
            for cond in group:
                for what, rows in image_rows(cond):
                    one_condition(rows, f"{what} of {name}")


def on_one_device(options: dict[str, Any]) -> dict[str, Any]:
    """Model options without the clones on other GPUs, which the host runs without a graph."""
    return {key: value for key, value in options.items() if key != "multigpu_clones"}


def make_guider(
    model: Any, conds: Mapping[str, Conditioning], guidance: Guidance, *,
    weak: Any = None, share_pure_noise: bool = False,
) -> Guider:  # fmt: skip
    """GUIDER over a native MODEL from conditionings by branch; ``weak``: the MODEL of that branch.

    Raises ValueError for a weak model that cannot stand beside the MODEL.
    """
    if weak is not None:
        require_partner(model, weak)
    guider = Guider(model)
    guider.set_branches(conds)
    guider.set_guidance(guidance)
    guider.weak_model, guider.share_pure_noise = weak, share_pure_noise
    return guider


def require_partner(model: Any, weak: Any) -> None:
    """Raises ValueError unless ``weak`` has the MODEL's states and latents, and weights of its own."""
    if weak.is_clone(model):
        raise ValueError(
            "weak_model: it is the MODEL's own network, which can only have one set of weights at a time; "
            "load another file, or use PAG, SEG or Skip-Layer"
        )
    here, there = (m.get_model_object("model_sampling") for m in (model, weak))
    if (is_flow(here), wants_vp(here)) != (is_flow(there), wants_vp(there)):
        raise ValueError(
            f"weak_model: its noise levels ({names(there)}) are not those of the MODEL ({names(here)})"
        )
    ours, theirs = (m.model.latent_format.latent_channels for m in (model, weak))
    if ours != theirs:
        raise ValueError(f"weak_model: its latents have {theirs} channels, the MODEL's {ours}")


def probed(guider: Any, holder: Holder) -> Guider:
    """The same guider, which puts the report of every run into ``holder``."""
    if not isinstance(guider, Guider):
        raise TypeError(
            f"guider: connect a Guider of the Sampling Kit, not a {type(guider).__name__}"
        )
    copied = copy.copy(guider)
    copied.holder = holder
    return copied
