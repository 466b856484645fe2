"""Many variants of one workflow, on as many workers as there are: the cartesian product as a work list.

    folder/sweep.json          the workflow, the grid and the seeds: a folder holds one sweep
    folder/items/000012/       one per item, there whole or not at all: its files and record.json
    folder/manifest.jsonl      all records, in order          folder/sheet.png    one picture of each
    folder/table.md            the same for reading

An item is done when its folder is there with all files as they were written. The folder is on the disk
before its one rename: whatever is killed or cut off, and whenever, the next sweep over the folder does
what is missing and nothing twice; a damaged item goes to aside/ and is done again. Workers are Ray actors
that keep what they loaded; they return their files, and only this process writes to the folder, so the
other machines of a cluster need not share a disk. Noise is made per image and seed, and a worker has a
fixed number of threads, so that pictures do not depend on how many workers there are.

Needs ray, filelock and tqdm (the extra ``scale``).
"""

from .crew import Crew
from .folder import Folder
from .items import Item, axes, work_list
from .run import sweep
from .worker import Worker, digest

__all__ = ["Crew", "Folder", "Item", "Worker", "axes", "digest", "sweep", "work_list"]
