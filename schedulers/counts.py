"""A number of things, in words."""


def counted(count: float, noun: str, plural: str = "") -> str:
    """ "1 step", "2 steps"; ``plural`` where it is not the noun and an s."""
    return f"{count} {noun if count == 1 else plural or noun + 's'}"
