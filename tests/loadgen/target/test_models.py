"""The list of models in its shapes, and which model a run asks for."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.errors import UsageError
from loadgen.options import RunOptions
from loadgen.target.control_api import ControlApi
from loadgen.target.preflight import inspect, listed, similar_name
from tests.fixtures.control import ControlServer
from tests.fixtures.emulated import loadgen

ROW = {"id": "org/model-7b", "object": "model"}


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"object": "list", "data": [ROW | {"max_model_len": 4096}]}, [("org/model-7b", 4096)]),
        ([ROW | {"context_length": 8192}], [("org/model-7b", 8192)]),
        ({"data": [ROW | {"max_model_len": "4096"}]}, [("org/model-7b", 4096)]),
        ({"data": [ROW | {"max_model_len": "long"}]}, [("org/model-7b", None)]),
        ({"data": [ROW | {"max_model_len": -1, "context_window": 9.0}]}, [("org/model-7b", 9)]),
        ({"data": [ROW | {"max_model_len": 10**400}]}, [("org/model-7b", None)]),
        ({"models": [{"name": "a:latest"}]}, [("a:latest", None)]),
        (["a", "b"], [("a", None), ("b", None)]),
        ({"data": [None, 1, [], {"id": 5}, {"id": ""}, {"id": "x\nVALID"}, {"id": "y" * 501}]}, []),
        ({"data": {"id": "m"}}, []),
        ("m", []),
        (None, []),
    ],
)
def test_every_shape_of_the_list_is_read(said: Any, expected: list[tuple[str, int | None]]) -> None:
    assert [(server.model, server.max_model_len) for server in listed(said)] == expected


LEAF = st.none() | st.booleans() | st.floats() | st.text(max_size=3)
ROWS = LEAF | st.dictionaries(st.sampled_from(["id", "name", "max_model_len"]), LEAF)
LISTS = ROWS | st.lists(ROWS, max_size=3)


@given(LISTS | st.dictionaries(st.sampled_from(["data", "models"]), LISTS))
def test_no_list_raises(said: Any) -> None:
    for server in listed(said):
        assert server.model.isprintable()


@pytest.mark.parametrize(
    ("name", "similar"),
    [
        ("org/modle-7b", "org/model-7b"),
        ("model-7b", "org/model-7b"),
        ("ORG/Model-7B", "org/model-7b"),
        ("org/model-8b", None),  # another size is another model
        ("gpt-x", None),
    ],
)
def test_a_typing_mistake_is_told_from_another_model(name: str, similar: str | None) -> None:
    assert similar_name(name, ["org/model-7b", "other"]) == similar


def test_a_mistyped_model_stops_before_the_first_request() -> None:
    server = ControlServer({"/v1/models": {"data": [ROW]}})
    with server.running() as target:
        options = RunOptions(target=target, model="org/mdoel-7b")
        with pytest.raises(UsageError, match=r"it serves org/model-7b; did you mean 'org/model-7b'\?$"):
            inspect(options, ControlApi(options))
    assert server.paths() == []


def test_a_model_that_is_not_listed_is_asked_with_a_warning(tmp_path: Path) -> None:
    server = ControlServer({"/v1/models": [ROW]})
    with server.running() as target:
        done = loadgen(
            "--target", target, "--model", "gateway-alias", "--dataset", "sample", "--problems", "2", "--budgets", "8",
            "--out", str(tmp_path / "run"),
        )  # fmt: skip
    assert "does not list 'gateway-alias'; it lists org/model-7b" in done.stderr
    assert [body["model"] for body in server.bodies()] == ["gateway-alias"] * 2


def test_a_model_that_is_not_listed_and_that_the_server_refuses_stops() -> None:
    def refuse(_: Any) -> tuple[int, Any]:
        return 404, {"error": {"message": "The model `gateway-alias` does not exist."}}

    server = ControlServer({"/v1/models": {"data": [ROW]}, "/v1/chat/completions": refuse})
    with server.running() as target:
        done = loadgen("--target", target, "--model", "gateway-alias", "--dataset", "sample", "--budgets", "8")
    assert done.returncode == 2
    assert "HTTP 404" in done.stderr.splitlines()[-1]
    assert "does not exist" in done.stderr.splitlines()[-1]
    assert server.bodies() == []
