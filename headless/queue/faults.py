"""What may go wrong with a server, by what follows from it."""

from __future__ import annotations

import errno
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..workflow import NodeFailure

#: What concerns this file's name alone; other errors of this machine end the run.
OF_THE_NAME = {
    errno.ENAMETOOLONG,
    errno.EILSEQ,
    errno.EINVAL,
    errno.EISDIR,
    errno.ENOTDIR,
    errno.ELOOP,
}


class Lost(Exception):
    """No connection, or what is as good as none (502, a web page): it is tried again while patience lasts."""


class Strange(Exception):
    """An answer that no ComfyUI gives. It is asked for again a few times; then the job, or the server, is given up."""


class Refuses(NodeFailure):
    """The server does not want us, or is no ComfyUI. It is not asked again."""


class JobFails(Exception):
    """This job cannot be done; the others can."""


class Gone(JobFails):
    """A file that a node says it wrote is not on the server."""


class GraphRefused(JobFails):
    """The server finds mistakes in the graph."""


class LocalFailure(NodeFailure):
    """This machine cannot write results: no room, no right. The run ends, and the same command goes on."""


class Unreachable(ConnectionError, NodeFailure):
    """No server has answered for as long as the patience lasts."""


@contextmanager
def local_errors(target: Path, of_the_job: Collection[int] = OF_THE_NAME) -> Iterator[None]:
    """Tell an error of this machine as such, with the file's name: JobFails for ``of_the_job``, else LocalFailure."""
    try:
        yield
    except (ConnectionError, TimeoutError):
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in of_the_job:
            raise JobFails(f"{target.name!r} cannot be written here: {reason}") from None
        raise LocalFailure(
            f"{target} cannot be written: {reason}. Mend that and run the same command again: finished jobs are kept"
        ) from None
