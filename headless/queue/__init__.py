"""Run workflows on ComfyUI servers through their queues, and lose nothing on the way.

A *job* is one API graph. Its prompt id is made from the graph and the output folder, so the same job
has the same id however often anything restarts. What is finished stands in ``queue.jsonl`` of the
output folder, one line per job, written after its files; everything else is asked of the server:

    in its history          → fetch the results
    in its queue            → wait
    neither                 → submit (again: a server that restarts forgets its queue)

A failure in the history from before this process submitted is no result: the job gets the id of its
next attempt. The websocket only speeds this up and draws the bar; without it the server is asked every
few seconds. What servers say is checked in ``answers.py``, what may go wrong stands in ``faults.py``,
how much and how long in ``limits.py``. Needs aiohttp and tqdm (the extra ``queue``).
"""

from .access import Access, access
from .client import Queue
from .editor_format import to_api
from .jobs import Done, Job, Watcher
from .node_list import object_info
from .uploads import with_uploads

__all__ = [
    "Access",
    "Done",
    "Job",
    "Queue",
    "Watcher",
    "access",
    "object_info",
    "to_api",
    "with_uploads",
]
