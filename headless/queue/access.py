"""Where a server is and how it knows us: its address, headers, keys; which redirects are followed. No network here."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote, urljoin, urlsplit

from ..workflow import WorkflowError
from .faults import Refuses

BEARER = "SAMPLING_KIT_BEARER_TOKEN"  # environment variable: Authorization: Bearer ...
API_KEY = "COMFY_API_KEY"  # environment variable: key for nodes that call paid services
HIDDEN = "(hidden)"
SHORTEST_SECRET = 4  # characters; what is shorter stands in every text by chance
PLAIN_HEADERS = {"accept", "accept-language", "user-agent", "referer", "origin"}  # hold no secret


@dataclass(frozen=True)
class Access:
    """What lets us in. Its repr shows no value; :meth:`hide` removes them from other texts."""

    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    api_key: str = field(default="", repr=False)
    environment_proxies: bool = False

    def hide(self, text: str, *more: str) -> str:
        """``text`` without the secrets, wherever a server repeats them."""
        values = [v for k, v in self.headers.items() if k.lower() not in PLAIN_HEADERS]
        values += [v.partition(" ")[2] for v in values]  # the token of "Bearer token"
        for secret in sorted({*values, self.api_key, *more}, key=len, reverse=True):
            if len(secret) >= SHORTEST_SECRET:
                text = text.replace(secret, HIDDEN)
        return text


def access(
    headers: Sequence[str] = (),
    api_key: str = "",
    environment: Mapping[str, str] | None = None,
    environment_proxies: bool = False,
) -> Access:
    """From ``--header NAME=VALUE`` and the environment. Raises WorkflowError for what is no header."""
    environment = environment or {}
    pairs: dict[str, str] = {}
    if environment.get(BEARER):
        pairs["Authorization"] = f"Bearer {environment[BEARER]}"
    for text in headers:
        name, equals, value = text.partition("=")
        if not equals or not _is_token(name) or not value.isprintable():
            raise WorkflowError(f"--header {name[:60]!r} does not have the form NAME=VALUE")
        pairs = {k: v for k, v in pairs.items() if k.lower() != name.lower()} | {name: value}
    return Access(pairs, api_key or environment.get(API_KEY, ""), environment_proxies)


def _is_token(name: str) -> bool:
    return (
        bool(name) and name.isascii() and all(c.isalnum() or c in "-_.!#$%&'*+^`|~" for c in name)
    )


@dataclass(frozen=True)
class Address:
    """``base`` is scheme://host:port/path and may be shown; query and user:password are secrets."""

    base: str
    query: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    authorization: str = field(default="", repr=False)
    password: str = field(default="", repr=False)

    @property
    def secrets(self) -> tuple[str, ...]:
        login = self.authorization.partition(" ")[2], self.password
        return (*(value for _, value in self.query), *login)


def address(server: str) -> Address:
    """The address in http://host:port, host:port, with user:password@ or ?token=... or not.

    Raises WorkflowError for what is no address; the error repeats no secret.
    """
    try:
        parts = urlsplit(server if "//" in server else f"http://{server}")
        host, port = parts.hostname, parts.port
    except ValueError:
        parts, host, port = urlsplit(""), None, None
    if parts.scheme not in ("http", "https") or not host:
        shown = server.split("?")[0].rpartition("@")[2]
        raise WorkflowError(f"--server {shown!r} is not an address such as http://127.0.0.1:8188")
    place = (f"[{host}]" if ":" in host else host) + (f":{port}" if port else "")
    login, password = "", unquote(parts.password or "")
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{password}"
        login = "Basic " + base64.b64encode(pair.encode()).decode()
    query = tuple(parse_qsl(parts.query, keep_blank_values=True))
    return Address(f"{parts.scheme}://{place}{parts.path.rstrip('/')}", query, login, password)


PORTS = {"http": 80, "https": 443}


def redirected(url: str, location: str | None) -> str:
    """Where a redirect leads: the same host by the same or a safer scheme. Raises Refuses for another."""
    try:
        target = urljoin(url, location or "")
        here, there = urlsplit(url), urlsplit(target)
        ports = [p.port or PORTS.get(p.scheme, 0) for p in (here, there)]
    except ValueError:
        target, here, there, ports = "", urlsplit(url), urlsplit(""), [0, 0]
    same = there.hostname == here.hostname and there.username is None
    safer = (here.scheme, there.scheme) == ("http", "https")
    if (
        not location
        or not same
        or not (safer or (here.scheme == there.scheme and ports[0] == ports[1]))
    ):
        host = there.netloc.rpartition("@")[2][:100] if location else ""
        raise Refuses(
            f"it redirects to {f'{there.scheme}://{host}' if host else 'nowhere'}, which is not followed: "
            "name the server itself with --server"
        )
    return target
