"""Names for containers that the client does not name."""

import random

_LEFT = (
    "amber", "brave", "calm", "clever", "daring", "eager", "fair", "gentle", "happy", "honest", "jolly", "keen", "kind",
    "lively", "lucid", "merry", "mighty", "modest", "noble", "patient", "proud", "quick", "quiet", "ready", "sharp",
    "silent", "steady", "stoic", "swift", "tidy", "vivid", "warm", "wise", "witty", "young", "zealous",
)  # fmt: skip
_RIGHT = (
    "babbage", "bell", "bohr", "boole", "cray", "curie", "darwin", "dijkstra", "einstein", "euclid", "euler", "faraday",
    "fermi", "galileo", "gauss", "goodall", "hamilton", "hopper", "hypatia", "kepler", "knuth", "lamport", "liskov",
    "lovelace", "maxwell", "mendel", "newton", "noether", "pascal", "perlman", "ritchie", "shannon", "tesla", "turing",
    "volta", "wright",
)  # fmt: skip


def random_name(attempt: int) -> str:
    """adjective_surname; later attempts append a digit."""
    name = f"{random.choice(_LEFT)}_{random.choice(_RIGHT)}"
    return name if attempt < 5 else f"{name}{random.randrange(10 ** (attempt - 4))}"
