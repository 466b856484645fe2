"""The workers of a sweep: Ray actors, replaced when they die."""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .cluster import cluster
from .items import Item
from .worker import Files, Record, Worker

TRIES = 3  # workers that may die over one item
AHEAD = 2  # items handed to a worker at a time


@dataclass
class Crew:
    """Ray actors that work a list off. ``workers`` None: one per GPU, else one per core."""

    workers: int | None = None
    address: str | None = None
    device: str = "auto"
    threads: int = 1
    input: Path = Path("input")
    models: Path = Path("models")
    typed: frozenset[str] = frozenset()

    def ray(self) -> AbstractContextManager[Any]:
        """A cluster of its own on this machine, or the one at ``address``."""
        return cluster(self.address, max(self.workers or 0, os.cpu_count() or 1))

    def hire(self, ray: Any) -> Callable[[], Any]:
        """How to make one more worker; sets ``workers`` if it is None."""
        resources = ray.cluster_resources()
        gpus = int(resources.get("GPU", 0)) if self.device in ("auto", "cuda") else 0
        self.workers = self.workers or gpus or max(1, int(resources.get("CPU", 1)))
        share = dict(num_cpus=min(1.0, resources.get("CPU", 1) / self.workers))
        if gpus:
            share["num_gpus"] = min(1.0, gpus / self.workers)
        actor = ray.remote(**share)(Worker)
        folders = str(self.input.resolve()), str(self.models.resolve())
        return lambda: actor.remote(self.device, self.threads, *folders, self.typed)

    def work(
        self, items: Sequence[Item], finished: Callable[[Item, Record, Files], None]
    ) -> dict[str, str]:
        """Run all; ``finished`` in this process once per item. Returns {item: why it failed}."""
        failed: dict[str, str] = {}
        deaths: Counter[str] = Counter()
        left = deque(items)
        # what was with a worker when it died: which of them it died of is only known where each is alone with one
        suspects = set[str]()
        with self.ray() as ray:
            hire = self.hire(ray)
            team = [hire() for _ in range(min(self.workers or 1, len(items)))]
            busy: dict[Any, tuple[int, Item]] = {}

            def at(place: int) -> list[Any]:
                """What a worker is at, the oldest first."""
                return [ref for ref, (p, _) in busy.items() if p == place]

            while left or busy:
                for place in range(len(team)):
                    while left and room(
                        [busy[r][1].name for r in at(place)], left[0].name, suspects
                    ):
                        item = left.popleft()
                        busy[team[place].run.remote(item.name, item.prompt)] = place, item
                for ready in ray.wait(list(busy))[0]:
                    # a worker does its items in order, so the oldest is ready, and the one that killed it
                    place = busy[ready][0]
                    ref = at(place)[0]
                    item = busy.pop(ref)[1]
                    try:
                        finished(item, *ray.get(ref))
                    except ray.exceptions.RayActorError as error:
                        lost = [busy.pop(r)[1] for r in at(place)]
                        left.extendleft(reversed(lost))
                        suspects |= {item.name, *(i.name for i in lost)}
                        deaths[item.name] += 1
                        if deaths[item.name] < TRIES:
                            left.appendleft(item)
                        else:
                            failed[item.name] = f"{TRIES} workers died: {first_line(error)}"
                        team[place] = hire()
                    except ray.exceptions.RayTaskError as error:
                        failed[item.name] = first_line(error.cause or error)
        return failed


def room(at: Sequence[str], name: str, suspects: set[str]) -> bool:
    """Whether a worker takes this item behind those that are ``at`` it."""
    return not at or (len(at) < AHEAD and suspects.isdisjoint((*at, name)))


def first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
