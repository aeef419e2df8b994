"""A process that serves the loop without a model, signals and all:

`python -m tests.serve.fake_server TOKENIZER_FOLDER`.
"""

import sys
from pathlib import Path

from mpsplit.runtime.talk.text import Text
from mpsplit.serve.http.security import allowed_hosts
from mpsplit.serve.http.serving import listen, run, url
from mpsplit.serve.service.service import Service
from tests.serve.fake_loop import FakeLoop

if __name__ == "__main__":
    loop = FakeLoop(Text(Path(sys.argv[1])), places=2, seconds=0.02)
    sock, address = listen("127.0.0.1", 0)
    print(url(sock), flush=True)
    run(Service(loop, "fake", hosts=allowed_hosts("127.0.0.1", address, ())), sock)
    print("ended", flush=True)
