"""How much and how long: every bound on what a server may send. Sizes in bytes, times in seconds."""

from __future__ import annotations

ANSWER_BYTES = 64 * 2**20  # of one JSON answer, unpacked
ANSWER_SECONDS = 60.0  # for one JSON answer, from the request to its last byte
CONNECT_SECONDS = 10.0
SILENCE_SECONDS = 60.0  # between two pieces of a download
FILE_BYTES = 4 * 2**30  # of one result file
UPLOAD_BYTES = 512 * 2**20  # of one picture that is sent
UPLOAD_SECONDS = 600.0
FILE_HEAD = 512  # bytes in which a file shows its type
SLOWEST = 1024  # bytes per second of a download, on average after GRACE_SECONDS
GRACE_SECONDS = 60.0
FILES = 4096  # result files of a job
TEXT_CHARACTERS = 2**20  # in all texts that a job's nodes show
LINE_CHARACTERS = 300  # of a server's words in an error
MESSAGE_BYTES = 64 * 2**20  # of one websocket message
MESSAGE_CHARACTERS = 2**20  # of a text message that is read; longer ones are none of ours
FRAMES_BYTES = 512 * 2**20  # of all pictures that a job sends over the websocket
NAME_BYTES = 255  # of a file's name on this machine

LOOK = 5.0  # seconds after which the server is asked, whatever the websocket says
NEWS = 1.0  # between two looks at what other processes have written down
REST = 0.02  # between two looks
SOCKET_PATIENCE = 2.0  # to wait for the websocket before the first job, and before one whose pictures come over it
SOCKET_PAUSE = 15.0  # the longest between two tries to open the websocket
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 10.0  # between tries to reach a lost server
HANDOVER = 10.0  # a server is lost for so long: its jobs go to the others
CANCEL_SECONDS = 10.0  # for taking prompts off the servers at the end

AHEAD = 16  # jobs in the server's queue at a time
TRIES = 3  # runs of a job that a server dies of, and strange answers in a row
TIMES_LOST = (
    8  # connections in a row that one job's own requests may lose while the server answers others
)
ATTEMPTS = 1000  # failed runs of one job in a server's history that are passed over
