"""Interfaces of this host: the addresses at which a node can be found from the LAN, and the subnets that are near.

A node listens everywhere and announces what others can reach it by: not the addresses of loopback, of bridges that
every host with containers has alike, of tunnels, nor the link-local ones of IPv6, which mean nothing without a scope.
"""

from __future__ import annotations

import fcntl
import ipaddress
import socket
import struct
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Final, NamedTuple

import ifaddr

from peerfabric.errors import ConfigError

LEFT_OUT: Final = ("docker*", "br-*", "veth*", "virbr*", "cni*", "flannel*", "tun*", "wg*", "tailscale*")
"""Names of interfaces that are not announced unless `interfaces=` names them."""

ADDRESSES_MAX: Final = 8

_REMEMBERED_MAX: Final = 4096
_SIOCGIFFLAGS: Final = 0x8913
_IFF_UP: Final = 1


class Found(NamedTuple):
    """One address of an interface; `why_not` says why it is not announced, and is empty if it is."""

    interface: str
    address: str
    prefix: int
    why_not: str = ""

    @property
    def subnet(self) -> str:
        """As `10.0.0.0/24`."""
        return str(ipaddress.ip_network((self.address, self.prefix), strict=False))


def survey(interfaces: Sequence[str] = ()) -> list[Found]:
    """Every address of this host, those to announce first, in the order in which they are announced.

    Args:
        interfaces: Names or patterns such as `eth*`: only these are announced, whatever they are called. Without any,
            all but those of `LEFT_OUT`.
    """
    found = sorted(_all(interfaces), key=lambda each: (bool(each.why_not), _rank(each.address)))
    announced = 0
    for at, each in enumerate(found):
        if not each.why_not:
            announced += 1
            if announced > ADDRESSES_MAX:
                found[at] = each._replace(why_not=f"there are {ADDRESSES_MAX} before it; choose by interfaces=")
    return found


def _all(interfaces: Sequence[str]) -> Iterator[Found]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        for adapter in sorted(ifaddr.get_adapters(), key=lambda each: each.index or 0):
            for ip in adapter.ips:
                # An address that was given a label, such as `eth0:1`, has that for a name.
                name = ip.nice_name or adapter.name
                address = ip.ip if isinstance(ip.ip, str) else ip.ip[0]
                why_not = _why_not(name, ipaddress.ip_address(address), interfaces, asked)
                yield Found(name, address, ip.network_prefix, why_not)


def _why_not(
    name: str,
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
    interfaces: Sequence[str],
    asked: socket.socket,
) -> str:
    if address.is_loopback or address.is_unspecified:
        return "leads to this host only"
    if address.version == 6 and address.is_link_local:
        return "link-local: others cannot use it without a scope"
    if not _is_up(name, asked):
        return "the interface is down"
    if interfaces:
        named = any(fnmatchcase(name, pattern) for pattern in interfaces)
        return "" if named else f"not named by interfaces={list(interfaces)!r}"
    if any(fnmatchcase(name, pattern) for pattern in LEFT_OUT):
        return f"a bridge or tunnel; give interfaces=[{name!r}] to announce it"
    return ""


def _is_up(name: str, asked: socket.socket) -> bool:
    try:
        answer = fcntl.ioctl(asked, _SIOCGIFFLAGS, struct.pack("16sH14x", name.encode()[:15], 0))
    except OSError:
        return True  # who lists it should know
    return bool(struct.unpack("16sH14x", answer)[1] & _IFF_UP)


def _rank(address: str) -> tuple[bool, bool]:
    """IPv4 first, as it is what most LANs route; addresses that hosts gave themselves last."""
    ip = ipaddress.ip_address(address)
    return ip.is_link_local, ip.version == 6


def addresses(interfaces: Sequence[str] = ()) -> list[str]:
    """The numeric addresses to announce, at most `ADDRESSES_MAX`."""
    return [each.address for each in survey(interfaces) if not each.why_not]


def subnets(interfaces: Sequence[str] = ()) -> tuple[str, ...]:
    """The subnets that this host is in by the addresses that it announces, as `10.0.0.0/24`."""
    return tuple(dict.fromkeys(each.subnet for each in survey(interfaces) if not each.why_not))


class Near:
    """Says of numeric addresses whether they are in one of our subnets. Remembers what it said, of the last few.

    Args:
        subnets: As of `subnets`.
    """

    def __init__(self, subnets: Sequence[str]) -> None:
        self._networks = [ipaddress.ip_network(each) for each in subnets]
        self._said: dict[str, bool] = {}

    def __call__(self, host: str) -> bool:
        found = self._said.get(host)
        if found is None:
            if len(self._said) >= _REMEMBERED_MAX:
                self._said.clear()
            found = self._said[host] = self._judge(host)
        return found

    def _judge(self, host: str) -> bool:
        try:
            address = ipaddress.ip_address(host.strip("[]"))
        except ValueError:
            return False
        return any(address in network for network in self._networks)


class Advertised(NamedTuple):
    """What `advertise=` names: an address, and the port of the first inbox there; None: the one that is bound."""

    host: str
    port: int | None


def parse_advertised(text: str) -> Advertised:
    """Read `10.0.0.5`, `10.0.0.5:7700`, `fd00::1` or `[fd00::1]:7700`, with or without `tcp://`.

    Raises:
        ConfigError: It is none of these; names are not resolved.
    """
    rest = text.removeprefix("tcp://")
    host, colon, port = rest.rpartition(":")
    if not colon or rest.endswith("]") or (":" in host and not host.startswith("[")):
        host, port = rest, ""
    try:
        ip = ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
        number = int(port) if port else None
    except ValueError:
        raise _not_advertised(text) from None
    if ip.is_unspecified or (number is not None and not 0 < number < 65536):
        raise _not_advertised(text)
    return Advertised(str(ip), number)


def _not_advertised(text: str) -> ConfigError:
    return ConfigError(
        f"advertise={text!r} is no address at which others reach this node; give numbers, such as '10.0.0.5', "
        f"or '10.0.0.5:7700' where a port is forwarded"
    )
