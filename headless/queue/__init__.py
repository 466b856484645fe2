"""Run workflows on a ComfyUI server through its queue, and lose nothing on the way.

A *job* is one API graph. Its prompt id is made from the graph and the output folder, so the same job
has the same id however often anything restarts. What is finished stands in ``queue.jsonl`` of the
output folder, one line per job, written after its files; everything else is asked of the server:

    in its history          → fetch the results
    in its queue            → wait
    neither                 → submit (again: a server that restarts forgets its queue)

The websocket only speeds this up and draws the bar; a message that is lost costs a few seconds.
Needs aiohttp and tqdm (the extra ``queue``).
"""

from .client import Queue
from .editor_format import to_api
from .jobs import Done, Job, Watcher

__all__ = ["Done", "Job", "Queue", "Watcher", "to_api"]
