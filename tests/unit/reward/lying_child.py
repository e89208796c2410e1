"""A decode child that an image has taken over: it answers what LYING_CHILD_REPLY says."""

from __future__ import annotations

import os
import socket
import sys

if __name__ == "__main__":
    connection = socket.socket(fileno=int(sys.argv[1]))
    connection.sendall(b"\n")
    connection.recv(2**20)
    connection.sendall(bytes.fromhex(os.environ["LYING_CHILD_REPLY"]) + bytes(200_000))
    while connection.recv(2**20):
        pass
