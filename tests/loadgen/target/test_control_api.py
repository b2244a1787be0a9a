"""Control requests take the same way to the server as the load."""

import pytest

from loadgen.options import RunOptions
from loadgen.target.control_api import ControlApi
from tests.fixtures.hostile import HostileServer


@pytest.mark.parametrize("variable", ["http_proxy", "all_proxy"])
def test_control_requests_go_through_the_proxy(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An http URL is requested in absolute form, and the proxy's password is sent to the proxy."""
    for name in ("http_proxy", "all_proxy", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with HostileServer().running() as server:
        monkeypatch.setenv(variable, f"http://user:s3cret@127.0.0.1:{server.port}")
        api = ControlApi(RunOptions(target="http://elsewhere.example:81/500-empty/v1"))
        assert api.get(f"{api.target}/models").status == 500
        line, headers, _ = server.requests[-1]
    assert line == "GET http://elsewhere.example:81/500-empty/v1/models HTTP/1.1"
    assert headers["proxy-authorization"] == "Basic dXNlcjpzM2NyZXQ="


def test_a_proxy_that_cannot_be_used_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "socks5://u:s3cret@127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "")
    response = ControlApi(RunOptions()).get("http://host/v1/models")
    assert (response.status, response.reached) == (None, False)
    assert "http_proxy: only http:// proxies" in response.error
    assert "s3cret" not in response.error
