"""Run a workflow on ComfyUI servers."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

from ..prompt import Registry
from .preparation import Settings, Source, nodes_for_queue, opened, queue_jobs, seeds_to_run
from .results import Done, Watcher

SERVER = "http://127.0.0.1:8188"


def queue(
    workflow: Source,
    *,
    servers: Sequence[str] = (SERVER,),
    headers: Sequence[str] = (),
    api_key: str = "",
    environment_proxies: bool = False,
    settings: Settings = (),
    seed: int | None = None,
    seeds: Sequence[int] | None = None,
    only: Sequence[str] = (),
    choices: bool = True,
    input: Path | str = "input",
    output: Path | str = "output",
    wait: bool = True,
    previews: bool = False,
    patience: float = 600.0,
    watcher: Watcher | None = None,
) -> tuple[Done, ...]:
    """Run ``workflow`` on a ComfyUI server, or several that share the jobs, once per seed; fetch the results.

    A result each, with its files below ``output``; one that failed has an ``error``, the others go on. The same call
    again goes on where it was stopped. ``headers``: NAME=VALUE each, sent with every request; bearer token and API key
    may stand in the environment (SAMPLING_KIT_BEARER_TOKEN, COMFY_API_KEY). ``choices``: {a|b} in prompts are made, by the seed; ``wait``: for the results, or only submit;
    ``patience``: seconds to wait for a server that does not answer. ``watcher`` is told what happens.

    Raises WorkflowError if every graph is refused, NodeFailure if no server is left or results cannot be written.
    """
    from ..dynamic_prompts import may_choose
    from ..queue import Queue, access, object_info, to_api

    plan, watcher = seeds_to_run(seed, seeds), watcher or Watcher()
    way_in = access(headers, api_key, os.environ, environment_proxies)
    read = opened(workflow, lambda ui: to_api(ui, servers[0], way_in))
    nodes: Registry = {}
    if settings or only or plan != [None] or (choices and may_choose(read)):
        nodes = nodes_for_queue(read, lambda: object_info(servers, way_in, patience, watcher.note))
    jobs = queue_jobs(read, nodes, settings, only, plan, Path(input), choices)
    watcher.begin(len(jobs))
    line = Queue(servers, Path(output), watcher, patience, wait, previews=previews, access=way_in)
    return tuple(asyncio.run(line.run(jobs)))
