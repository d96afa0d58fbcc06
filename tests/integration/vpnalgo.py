"""A vantage6 algorithm as it was written for vantage6's VPN; it knows nothing of the overlay."""

import socket
import threading
import time

from vantage6.algorithm.client import AlgorithmClient
from vantage6.algorithm.tools.decorators import algorithm_client

PORT = 8888


@algorithm_client
def echo(client: AlgorithmClient, peers: int, linger: float = 8):
    """Answer whoever connects, ask everybody in the address book, and say who answered."""
    server = socket.create_server(("0.0.0.0", PORT))
    threading.Thread(target=serve, args=(server,), daemon=True).start()
    deadline = time.monotonic() + 60
    while len(book := client.vpn.get_addresses(label="echo")) < peers:
        if time.monotonic() > deadline:
            raise RuntimeError(f"the address book has {len(book)} of {peers} peers")
        time.sleep(0.5)
    answers = [{**entry, "answer": ask(entry["ip"], entry["port"])} for entry in book]
    time.sleep(linger)  # the peers ask too, and so may strangers
    return answers


@algorithm_client
def knock(client: AlgorithmClient, targets: list[list]):
    """Try addresses of a task that this run is no part of."""
    return [ask(ip, port, tries=1) for ip, port in targets]


def serve(server: socket.socket) -> None:
    while True:
        connection, _ = server.accept()
        with connection:
            connection.sendall(b"echo:" + connection.recv(100))


def ask(ip: str, port: int, tries: int = 20) -> str:
    for _ in range(tries):
        try:
            with socket.create_connection((ip, port), timeout=3) as connection:
                connection.sendall(b"hi")
                return connection.recv(100).decode()
        except OSError as error:
            failure = type(error).__name__
            time.sleep(0.5)
    return failure
