"""Send 100 kB over TCP to a host where `transfer.py listen` runs.

    transfer.py listen ADDRESS | transfer.py send ADDRESS
"""

import socket
import sys

mode, address = sys.argv[1:]
if mode == "listen":
    connection, _ = socket.create_server((address, 5001)).accept()
    connection.settimeout(2)
    received = 0
    try:
        while data := connection.recv(65536):
            received += len(data)
        print(f"received {received} bytes")
    except TimeoutError:
        print(f"received {received} bytes, and then nothing for two seconds")
else:
    sock = socket.create_connection((address, 5001))
    sock.settimeout(2)
    try:
        sock.sendall(bytes(100_000))
        sock.shutdown(socket.SHUT_WR)
        sock.recv(1)
    except OSError:
        pass
