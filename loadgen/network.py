"""How a connection reaches a server: TLS settings, and the proxy that the environment names.

Certificates are verified unless the operator turns this off with --insecure. `SSL_CERT_FILE` and --ca-file name a private
certificate authority. The variables `http_proxy`, `https_proxy`, `all_proxy` and `no_proxy` are honored as curl does. No
error message contains a password.

This module opens no connection and knows nothing of HTTP messages.
"""

import base64
import ipaddress
import ssl
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from loadgen.errors import UsageError


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy."""

    host: str
    port: int
    authorization: str | None
    """Value of the `Proxy-Authorization` header."""


def tls_context(ca_file: Path | None, *, verify: bool) -> ssl.SSLContext:
    """Return a context that trusts the system's authorities and those of `ca_file`.

    Raises UsageError where `ca_file` cannot be read or holds no certificate.
    """
    context = ssl.create_default_context()
    if ca_file is not None:
        try:
            context.load_verify_locations(ca_file)
        except OSError as error:
            raise UsageError(f"--ca-file {ca_file}: {error.strerror or error}: give a PEM file") from None
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def proxy_url(url: str) -> SplitResult | None:
    """Return the URL of the proxy for `url`, of any kind; None where the environment names none or excludes the host."""
    target = urlsplit(url)
    proxies = getproxies()
    named = proxies.get(target.scheme) or proxies.get("all")
    if not named or proxy_bypass(target.netloc.rpartition("@")[2]):
        return None
    return urlsplit(named if "://" in named else f"http://{named}")


def http_proxy(url: str) -> Proxy | None:
    """Return the proxy for `url`. Raises UsageError where it is not an HTTP proxy."""
    proxy = proxy_url(url)
    if proxy is None:
        return None
    variable = f"{urlsplit(url).scheme}_proxy"
    if proxy.scheme != "http" or not proxy.hostname:
        raise UsageError(f"{variable}: only http:// proxies are supported, not {proxy.scheme}://")
    try:
        where = address(proxy)
    except ValueError:
        raise UsageError(f"{variable}: its port is not a number from 0 to 65535") from None
    if not proxy.username:
        return Proxy(*where, None)
    pair = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return Proxy(*where, f"Basic {base64.b64encode(pair.encode()).decode()}")


def address(url: SplitResult) -> tuple[str, int]:
    """Return host and port, which defaults to that of the scheme."""
    return url.hostname or "", url.port or (443 if url.scheme == "https" else 80)


def bracketed(host: str) -> str:
    """Return a host as it is written in a URL: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host else host


def origin(url: str) -> tuple[str, str, int]:
    """Return scheme, host and port of a URL. A URL that is not valid has an origin that no server has."""
    try:
        parts = urlsplit(url)
        return (parts.scheme, *address(parts))
    except ValueError:
        return ("", url, 0)


def is_loopback(url: str) -> bool:
    """Tell whether a URL leads to this machine by its text alone, without asking a name server."""
    host = origin(url)[1]
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
