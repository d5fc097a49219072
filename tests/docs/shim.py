"""What stands in PATH under a command's name: hands its words and streams to the warm process.

python -S -E shim.py NAME SOCKET WORDS...
"""

import json
import os
import socket
import sys

name, path, *words = sys.argv[1:]
connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
connection.connect(path)
message = json.dumps({"words": [name, *words], "cwd": os.getcwd(), "env": dict(os.environ)})
socket.send_fds(connection, [message.encode()], [0, 1, 2])
sys.exit(int(connection.recv(16) or b"70"))
