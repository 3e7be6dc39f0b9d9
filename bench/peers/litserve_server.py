"""The LitServe server of the comparison: paced text over its own streaming. `python litserve_server.py PORT`.

Runs in an environment of its own with litserve 0.2.19 in it; knows nothing of ours.
"""

import asyncio
import json
import os
import sys

import litserve

PERIOD_S = float(os.environ["BENCH_PERIOD_S"])


class Paced(litserve.LitAPI):
    def setup(self, device):
        """Nothing to load."""

    async def decode_request(self, request):  # LitServe makes its routes of annotations: none here
        return request["input"]["max_tokens"]

    async def predict(self, num_tokens):
        for _ in range(num_tokens):
            await asyncio.sleep(PERIOD_S)
            yield "word "

    async def encode_response(self, pieces):
        index = 0
        async for piece in pieces:
            yield "event: output\ndata: " + json.dumps({"chunk": piece, "index": index}) + "\n\n"
            index += 1


if __name__ == "__main__":
    api = Paced(stream=True, enable_async=True, api_path="/predictions")
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1, timeout=False)
    server.run(port=int(sys.argv[1]), host="127.0.0.1", num_api_servers=1, generate_client_file=False)
