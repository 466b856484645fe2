"""What goes to a server; what comes back, and who is told, stands in ``job_results.py``."""

from __future__ import annotations

import copy
import json
import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ..job_results import Done as Done
from ..job_results import Watcher as Watcher
from ..workflow import Prompt
from .answers import Picture
from .limits import FRAMES_BYTES
from .uploads import Upload

SENDERS = {"SaveImageWebsocket"}  # classes that send their pictures over the websocket alone
AGAIN = "run_again"  # an input that no node has: ComfyUI ignores it, and does not take the node from its cache


@dataclass(frozen=True)
class Job:
    """One graph to run. ``label`` names its files and its line of the ledger; the server must have ``uploads`` first."""

    label: str
    prompt: Prompt
    ui: dict[str, Any] | None = None
    uploads: tuple[Upload, ...] = ()
    chosen: Mapping[str, str] = field(default_factory=dict)  # texts that came of choices in prompts

    def id(self, folder: str, attempt: int = 0) -> str:
        """The prompt id: a UUID of the graph within the folder called ``folder``, another for each attempt."""
        text = json.dumps(self.prompt, sort_keys=True, separators=(",", ":"))
        return str(uuid.uuid5(uuid.UUID(folder), f"{text}#{attempt}" if attempt else text))

    def again(self, attempt: int, nodes: Collection[str]) -> Job:
        """The same job, whose ``nodes`` a server does not take from its cache."""
        prompt = copy.deepcopy(self.prompt)
        for node in nodes & prompt.keys():
            prompt[node]["inputs"][AGAIN] = attempt
        return replace(self, prompt=prompt)

    @property
    def senders(self) -> set[str]:
        """Nodes that send their pictures over the websocket alone."""
        return {key for key, node in self.prompt.items() if node.get("class_type") in SENDERS}

    @property
    def ends(self) -> set[str]:
        """Nodes whose outputs no other node takes."""
        inputs = (v for node in self.prompt.values() for v in node["inputs"].values())
        taken = {
            link[0]
            for link in inputs
            if isinstance(link, list) and len(link) == 2 and isinstance(link[0], str)
        }
        return self.prompt.keys() - taken


@dataclass
class Task:
    """A job on its way. ``key`` is its id in the ledger, ``id`` that of the prompt it is now."""

    key: str
    job: Job
    folder: str
    id: str = ""
    attempt: int = 0
    again: set[str] = field(default_factory=set)  # nodes not to be taken from the server's cache
    reruns: int = (
        0  # attempts since this process began that were for what is not on the server any more
    )
    strange: int = 0  # strange answers in a row
    lost: int = 0  # connections lost in a row
    deaths: int = 0  # how often the server forgot it while it ran
    ran_when_lost: bool = False
    there: bool = False  # a server has had it in its queue
    suspect: bool = False  # a server forgot it, perhaps because it died of it: it runs alone
    heard_end: bool = False  # the websocket said that it ended, or was waited for
    frames: list[Picture] = field(default_factory=list)
    missed: bool = False  # frames may have gone by unseen

    def __post_init__(self) -> None:
        self.id = self.id or self.key

    def next_attempt(self) -> None:
        self.attempt += 1
        self.id = self.job.id(self.folder, self.attempt)
        self.there = self.heard_end = False
        self.frames.clear()

    def keep(self, frame: Picture) -> None:
        """A result that came over the websocket, up to FRAMES_BYTES of them."""
        if sum(len(f.data) for f in self.frames) + len(frame.data) <= FRAMES_BYTES:
            self.frames.append(frame)
        else:
            self.missed = True

    def to_submit(self) -> Job:
        return self.job.again(self.attempt, self.again) if self.again else self.job
