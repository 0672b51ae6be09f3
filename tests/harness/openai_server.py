"""A small OpenAI-compatible server over real weights, in a thread, for tests of HTTP clients."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

Answer = Callable[[str, dict[str, Any]], dict[str, Any]]
"""(path, request body) → response body; a body with ``status`` is an error of that number."""


class Server:
    """Where it listens, and what it was asked.

    Attributes:
        url: Without a path.
        requests: (path, headers, body) of each request, in order.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.requests: list[tuple[str, dict[str, str], dict[str, Any]]] = []


@contextmanager
def serving(answer: Answer) -> Iterator[Server]:
    """Serve *answer* on a free port until the block ends."""
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                server.requests.append((self.path, dict(self.headers), body))
                found = answer(self.path, body)
            data = json.dumps(found).encode()
            self.send_response(found.get("status", 200))
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_GET(self) -> None:
            self.send_error(404)

        def log_message(self, *_: Any) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server = Server(f"http://127.0.0.1:{httpd.server_address[1]}")
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        httpd.shutdown()
        httpd.server_close()
        thread.join()


def saying(reply: str, finish: str = "stop") -> dict[str, Any]:
    """A chat response of one choice."""
    message = {"role": "assistant", "content": reply}
    return {"choices": [{"index": 0, "message": message, "finish_reason": finish}]}


def model_at(checkpoint: Path) -> Answer:
    """Chats and completions by the causal language model in *checkpoint*, greedily.

    The last message is the prompt as it stands; completions take text or token ids and, with
    ``echo``, give the log-probabilities of the prompt, as vLLM's server does.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = AutoModelForCausalLM.from_pretrained(checkpoint).eval()

    def generate(ids: list[int], limit: int) -> tuple[str, int, str]:
        with torch.no_grad():
            whole = model.generate(torch.tensor([ids]), max_new_tokens=limit, do_sample=False)
        new = whole[0, len(ids) :].tolist()
        ended = new[-1] == tokenizer.eos_token_id
        text = tokenizer.decode(new, skip_special_tokens=True)
        return text, len(new) - ended, "stop" if ended else "length"

    def echo(ids: list[int]) -> dict[str, Any]:
        with torch.no_grad():
            logp = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        best = logp.max(-1)
        steps = range(len(ids) - 1)
        values = [None, *(logp[i, ids[i + 1]].item() for i in steps), best.values[-1].item()]
        tops = [
            None,
            *(
                {
                    str(best.indices[i].item()): best.values[i].item(),
                    str(ids[i + 1]): logp[i, ids[i + 1]].item(),
                }
                for i in steps
            ),
            {str(best.indices[-1].item()): best.values[-1].item()},
        ]
        return {"token_logprobs": values, "top_logprobs": tops}

    def answer(path: str, body: dict[str, Any]) -> dict[str, Any]:
        if path.endswith("/chat/completions"):
            ids = tokenizer(body["messages"][-1]["content"])["input_ids"]
            text, count, finish = generate(ids, body["max_tokens"])
            return saying(text, finish) | {"usage": {"completion_tokens": count}}
        prompts = body["prompt"]
        prompts = prompts if isinstance(prompts[0], list) else [prompts]
        choices: list[dict[str, Any]] = []
        for index, prompt in enumerate(prompts):
            ids = tokenizer(prompt)["input_ids"] if isinstance(prompt, str) else prompt
            if body.get("echo"):
                choices.append({"index": index, "text": "", "logprobs": echo(ids)})
            else:
                text, _, finish = generate(ids, body["max_tokens"])
                choices.append({"index": index, "text": text, "finish_reason": finish})
        return {"choices": choices}

    return answer
