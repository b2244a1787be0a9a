"""The choice of GPUs for a server."""

import pytest

from server.launch.gpus import allocate


@pytest.mark.parametrize(
    ("wanted", "present", "taken", "given"),
    [
        (1, 4, set(), (0,)),
        (2, 4, {0}, (2, 3)),  # an aligned block is preferred, because its GPUs often share a switch
        (2, 4, {0, 2}, (1, 3)),
        (4, 4, set(), (0, 1, 2, 3)),
        (4, 4, {3}, None),
        (2, 1, set(), None),
        (1, 0, set(), None),
    ],
)
def test_lowest_free_block(wanted: int, present: int, taken: set[int], given: tuple[int, ...] | None) -> None:
    assert allocate(wanted, set(range(present)) - taken) == given


def test_servers_at_once_never_share_a_gpu() -> None:
    taken: set[int] = set()
    for wanted in (1, 2, 4, 1):
        given = allocate(wanted, set(range(8)) - taken)
        assert given is not None
        assert not taken & set(given)
        taken |= set(given)
    assert allocate(1, set(range(8)) - taken) is None
