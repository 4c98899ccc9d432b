"""Whether a name is this machine's own loopback."""

import ipaddress


def is_loopback(name: str) -> bool:
    """Of a bare name or address: `localhost`, all of 127.0.0.0/8, `::1`."""
    if name.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def is_target_here(target: str) -> bool:
    """Of a gRPC target: whether all it can lead to is this machine."""
    scheme, found, rest = target.partition(":")
    if found and scheme in ("unix", "unix-abstract"):
        return True
    if found and scheme in ("ipv4", "ipv6"):
        return all(is_loopback(_host(each)) for each in rest.lstrip("/").split(","))
    return is_loopback(_host(target.removeprefix("dns:").lstrip("/")))


def _host(address: str) -> str:
    """The host of `host:port`, without the brackets of an IPv6 address."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdecimal() and (":" not in host or host.startswith("[")):
        address = host
    return address.strip("[]")
