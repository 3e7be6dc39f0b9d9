"""OpenAI's streaming chat completions over a function, for peers that are libraries. Knows nothing of ours."""

import base64
import io
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from PIL import Image


def serve(port, answer):
    """`answer(text, picture, max_tokens)` gives the pieces of one answer as they come; threads may call it at once."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            image, text = body["messages"][0]["content"]
            data = base64.b64decode(image["image_url"]["url"].partition(",")[2])
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            for piece in answer(text["text"], Image.open(io.BytesIO(data)).convert("RGB"), body["max_tokens"]):
                self.send({"choices": [{"delta": {"content": piece}}]})
            self.send({"choices": [], "usage": {"completion_tokens": body["max_tokens"]}})

        def send(self, chunk):
            self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
            self.wfile.flush()

        def log_message(self, *arguments):
            """Nothing."""

    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
