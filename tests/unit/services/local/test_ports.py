import os
import socket

from services.local.ports import HOST, accepts, free_ports, is_free, listens


def test_free_ports_differ_and_are_free() -> None:
    ports = free_ports(20)
    assert len(set(ports)) == 20
    assert all(is_free(port) and not accepts(port) for port in ports)


def test_a_port_somebody_listens_on_is_not_free() -> None:
    with socket.socket() as listening:
        listening.bind((HOST, 0))
        listening.listen()
        port = listening.getsockname()[1]
        assert not is_free(port)
        assert accepts(port)
        assert listens(os.getpid(), port)
        assert not listens(os.getppid(), port)
        assert not listens(None, port)
