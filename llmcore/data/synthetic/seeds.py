"""What all synthetic worlds share: randomness that depends on the world, the seed and the index only."""

from random import Random


def seeded(world: str, seed: int, index: int) -> Random:
    """The generator of item `index` of a world, so that a longer list begins with the shorter one.

    >>> seeded("arithmetic", 0, 3).random() == seeded("arithmetic", 0, 3).random()
    True
    """
    return Random(f"{world} {seed} {index}")


def check_count(count: int) -> None:
    """Raise ValueError for a negative count."""
    if count < 0:
        raise ValueError(f"count must be at least 0, got {count}")
