"""Hosts find each other before JAX does, over plain TCP, so that who is missing or differs is named.

Host 0 listens at the coordinator's port. Every other host sends a line of JSON, what `greeting.hello` makes, and waits
for one in return: `{"roll_call": "jaxgpt", "refused": null}`, or the reason instead of null. Whatever else comes to the
port is turned away. Imports no jax.
"""

import selectors
import socket
import time
from collections.abc import Callable

from jaxgpt.errors import UserError
from jaxgpt.train.greeting import Host, differences, hello, host_of, line, parse

Say = Callable[[str], None]

_LONGEST = 1 << 20  # bytes of a line
_SILENCE = 5.0  # seconds until a connection that has not said who it is gets closed
_WORD_EVERY = 10.0  # seconds between two lines about missing hosts
_GRACE = 10.0  # seconds after a problem in which others can still come, to hear of it and not wait in vain
_RETRY = 0.5  # seconds between two tries to reach host 0
_SHOWN = 3  # differing fields in a message


def split_address(address: str) -> tuple[str, int]:
    """HOST:PORT as two, also of an IPv6 address in brackets."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise UserError(f"parallel.coordinator is {address}; it must be HOST:PORT with a port of 1 to 65535")
    return host.removeprefix("[").removesuffix("]"), int(port)


def call(own: Host, address: str, wait: float, say: Say) -> None:
    """Host 0's side: returns when all others are here and alike, with the port free again.

    wait: seconds until UserError names the missing hosts. It also names indices given twice, another count and other
    identities, on every host that came.
    """
    port = split_address(address)[1]
    say(f"host 0 of {own.count}: {own.name}")
    listener = _listen(port)
    with selectors.DefaultSelector() as selector:
        held = _RollCall(own, listener, selector, say)
        try:
            reason = held.gather(address, wait)
            listener.close()  # before the answers: JAX's service takes over the port
            held.dismiss(reason)
        finally:
            listener.close()
            held.close()
    if reason:
        raise UserError(reason)


def answer(own: Host, address: str, wait: float, say: Say) -> None:
    """Any other host's side: returns when host 0 says that all are here and alike.

    wait: seconds until UserError says that host 0 was not reached. Reasons of host 0 become UserErrors, too.
    """
    target = split_address(address)
    say(f"host {own.index} of {own.count}: {own.name}, waits for host 0 at {address}, {wait:g} s at most")
    deadline = time.monotonic() + wait
    while True:
        try:
            with socket.create_connection(
                target, timeout=max(0.1, min(_SILENCE, deadline - time.monotonic()))
            ) as host_0:
                host_0.sendall(hello(own))
                # Host 0 began before this connection, so it gives up within `wait` from here.
                host_0.settimeout(wait + _GRACE)
                with host_0.makefile("rb") as lines:
                    heard = lines.readline(_LONGEST)
            reply = parse(heard)
            if reply is not None and "refused" in reply:
                if reply["refused"] is None:
                    return
                raise UserError(str(reply["refused"]))
            trouble = (
                "something else answers there, maybe a run that has begun" if heard else "the connection was closed"
            )
        except OSError as error:
            trouble = str(error)
        if time.monotonic() + _RETRY > deadline:
            raise UserError(
                f"host 0 did not answer at {address} within {wait:g} s ({trouble}); start the same command on host 0, "
                f"check that parallel.coordinator names it and that its firewall lets port {target[1]} through"
            )
        time.sleep(_RETRY)


class _Guest:
    """A connection to host 0. host: None until it has said who it is."""

    def __init__(self, connection: socket.socket):
        connection.setblocking(False)
        self.connection = connection
        self.since = time.monotonic()
        self.received = bytearray()
        self.host: Host | None = None


class _RollCall:
    """What host 0 knows: everybody connected, and those of them who are the hosts 1 to n - 1."""

    def __init__(self, own: Host, listener: socket.socket, selector: selectors.BaseSelector, say: Say):
        self._own, self._listener, self._selector, self._say = own, listener, selector, say
        self._guests: set[_Guest] = set()
        self._present: dict[int, _Guest] = {}
        self._problems: list[str] = []
        selector.register(listener, selectors.EVENT_READ)

    @property
    def _missing(self) -> list[int]:
        return [index for index in range(1, self._own.count) if index not in self._present]

    def gather(self, address: str, wait: float) -> str | None:
        """Returns when all are here or the time is over: None, or the reason why the run cannot begin."""
        began = time.monotonic()
        deadline, next_word = began + wait, began + _WORD_EVERY
        while self._missing and time.monotonic() < deadline:
            for key, _ in self._selector.select(min(0.2, max(0.0, deadline - time.monotonic()))):
                if key.fileobj is self._listener:
                    self._accept()
                else:
                    self._hear(key.data)
            now = time.monotonic()
            for guest in [guest for guest in self._guests if not guest.host and now - guest.since > _SILENCE]:
                self._drop(guest)
            if self._problems:
                deadline = min(deadline, now + _GRACE)
            elif now >= next_word and self._missing:
                self._say(f"waiting for {self._names_of_missing()}, {deadline - now:.0f} s more")
                next_word += _WORD_EVERY
        if self._problems:
            return "; ".join(dict.fromkeys(self._problems))
        if self._missing:
            return (
                f"{self._names_of_missing()} did not come to {address} within {wait:g} s; start the same command "
                f"there, each with its own parallel.process_id, and check that the firewall of {self._own.name} lets "
                f"port {split_address(address)[1]} through"
            )
        return None

    def _names_of_missing(self) -> str:
        missing = self._missing
        numbers = ", ".join(map(str, missing))
        return f"host{'s' if len(missing) > 1 else ''} {numbers} of {self._own.count}"

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:  # it is gone again
            return
        guest = _Guest(connection)
        self._guests.add(guest)
        self._selector.register(connection, selectors.EVENT_READ, guest)

    def _hear(self, guest: _Guest) -> None:
        try:
            data = guest.connection.recv(1 << 16)
        except OSError:
            data = b""
        guest.received += data
        if not data or guest.host or len(guest.received) > _LONGEST:  # it left, or it is no host that waits
            self._drop(guest)
        elif b"\n" in data:
            guest.host = host_of(parse(bytes(guest.received)))
            if guest.host is None:
                self._drop(guest)
            else:
                self._receive(guest, guest.host)

    def _receive(self, guest: _Guest, host: Host) -> None:
        own, twin = self._own, self._present.get(host.index)
        if host.count != own.count:
            self._problems.append(
                f"{host} says there are {host.count} hosts, {own} says {own.count}; start all of them with the same "
                "parallel.num_processes"
            )
        if not 0 <= host.index < own.count:
            self._problems.append(
                f"{host.name} says it is host {host.index}, but the hosts are 0 to {own.count - 1}; start it with "
                "another parallel.process_id, or not at all"
            )
        elif host.index == 0 or (twin and twin.host):
            other = twin.host.name if twin and twin.host else own.name
            self._problems.append(
                f"two processes say that they are host {host.index}: {other} and {host.name}; give each its own "
                "parallel.process_id"
            )
        else:
            self._present[host.index] = guest
            self._say(f"host {host.index} of {own.count}: {host.name}")
        differing = differences(own.identity, host.identity)
        if differing:
            more = f" and {len(differing) - _SHOWN} more" if len(differing) > _SHOWN else ""
            self._problems.append(
                f"{host} and {own} are not alike: {', '.join(differing[:_SHOWN])}{more}; start the same code with the "
                "same configuration on every host"
            )

    def _drop(self, guest: _Guest) -> None:
        self._selector.unregister(guest.connection)
        guest.connection.close()
        self._guests.discard(guest)
        if guest.host and self._present.get(guest.host.index) is guest:
            del self._present[guest.host.index]
            self._say(f"{guest.host} went away again")

    def dismiss(self, reason: str | None) -> None:
        for guest in self._guests:
            if guest.host:
                try:
                    guest.connection.sendall(line({"refused": reason}))
                except OSError:  # it left a moment ago; if all is well JAX waits for it, and not for ever
                    continue

    def close(self) -> None:
        for guest in self._guests:
            guest.connection.close()


def _listen(port: int) -> socket.socket:
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    try:
        listener = socket.create_server(("", port), family=family, backlog=1024, dualstack_ipv6=both)
    except OSError as error:
        raise UserError(
            f"host 0 cannot wait at port {port} of this machine ({error.strerror}); end what uses it, or give another "
            "port in parallel.coordinator on every host"
        ) from error
    listener.setblocking(False)
    return listener
