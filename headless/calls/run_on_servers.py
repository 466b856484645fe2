"""Run a workflow on ComfyUI servers."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

from ..prompt import Registry
from ..settings_flags import only as part_of
from ..settings_flags import with_seed, with_settings
from .preparation import Settings, Source, nodes_for_queue, opened, seeds_to_run, setting_texts
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
    may stand in the environment (SAMPLING_KIT_BEARER_TOKEN, COMFY_API_KEY). ``wait``: for the results, or only submit;
    ``patience``: seconds to wait for a server that does not answer. ``watcher`` is told what happens.

    Raises WorkflowError if every graph is refused, NodeFailure if no server is left or results cannot be written.
    """
    from ..queue import Job, Queue, access, object_info, to_api, with_uploads

    plan, watcher = seeds_to_run(seed, seeds), watcher or Watcher()
    way_in = access(headers, api_key, os.environ, environment_proxies)
    read = opened(workflow, lambda ui: to_api(ui, servers[0], way_in))
    nodes: Registry = {}
    if settings or only or plan != [None]:
        nodes = nodes_for_queue(read, lambda: object_info(servers, way_in, patience, watcher.note))
    part = part_of(with_settings(read, nodes, setting_texts(settings)), nodes, only)
    chosen, uploads = with_uploads(part, Path(input))
    variants = [(one, with_seed(chosen, nodes, one)) for one in plan]
    jobs = [
        Job("" if one is None else f"seed{one}", w.prompt, w.ui, uploads) for one, w in variants
    ]
    watcher.begin(len(jobs))
    line = Queue(servers, Path(output), watcher, patience, wait, previews=previews, access=way_in)
    return tuple(asyncio.run(line.run(jobs)))
