"""What people type into the search of nodes: the names that ComfyUI, A1111/Forge and diffusers have, and Chinese ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ...schedulers.solver import Solver
from ...schedulers.solver.published import BY_NAME, NEAR, ROWS

#: A1111's list had a sampler and a spacing in one entry, and people still ask so: "DPM++ 2M Karras".
WITH_SPACING = ("Karras", "Exponential")
SPACED = ("DPM", "LMS", "Euler", "Heun", "DEIS", "UniPC", "SEEDS")

#: ComfyUI's schedulers, A1111's and Forge's schedule types, and what diffusers' schedulers call theirs.
SCHEDULERS = (
    "normal", "karras", "exponential", "sgm_uniform", "simple", "ddim_uniform", "beta", "linear_quadratic", "kl_optimal",
    "Automatic", "Uniform", "Polyexponential", "SGM Uniform", "KL Optimal", "Align Your Steps", "DDIM Uniform", "Turbo",
    "AYS GITS", "leading", "trailing", "linspace", "use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas",
    "use_lu_lambdas", "BasicScheduler", "KarrasScheduler", "ExponentialScheduler", "PolyexponentialScheduler",
    "SDTurboScheduler", "BetaSamplingScheduler", "AlignYourStepsScheduler", "GITSScheduler",
)  # fmt: skip

CHINESE = {
    "Sample": ("采样器", "K采样器", "采样", "文生图", "图生图"),
    "solver": ("采样器", "求解器"),
    "Euler": ("欧拉", "欧拉采样器"),
    "EulerAncestral": ("欧拉 a", "欧拉祖先"),
    "Steps": ("调度器", "步数", "噪声水平", "降噪强度"),
    "fewer": ("减少步数", "少步数", "加速", "蒸馏"),
}
FEWER = ("fewer steps", "faster", "distill", "speed up", *CHINESE["fewer"])


def solver_words(solver: type[Solver] | None = None) -> list[str]:
    """All names of the solvers of one class, or of all of them, as people write them; each once, whatever its case."""
    rows = [row for row in ROWS if solver is None or type(row.solver) is solver]
    near = [n.name for n in NEAR if solver is None or type(BY_NAME[n.row].solver) is solver]
    labels = [word for row in rows for word in (row.name, *row.labels)] + near
    foreign = [word for row in rows for word in (*row.comfy, *row.diffusers)]
    return once([*labels, *foreign, *_spaced(labels)])


def _spaced(labels: Iterable[str]) -> Iterator[str]:
    """ "DPM++ 2M Karras", "dpm 2m karras", "DPM 2M"."""
    for label in labels:
        if "_" in label or not label.startswith(SPACED):
            continue
        plain = label.replace("++", "")
        yield plain
        for spacing in WITH_SPACING:
            yield f"{label} {spacing}"
            yield f"{plain} {spacing}"


def once(words: Iterable[str]) -> list[str]:
    """The words in their order, without those that another is but for the case of its letters."""
    first: dict[str, str] = {}
    for word in words:
        first.setdefault(word.casefold(), word)
    return list(first.values())
