"""The OpenAPI document: FastAPI's, with errors in the media type they are really sent in, and examples."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from moodq_producer.gateway.problems import MEDIA_TYPE

#: A result as /v1/analyze answers its first example; a test sends it and compares.
RESULT_EXAMPLE: dict[str, Any] = {
    "v": 1,
    "id": "6f1c0e2a9b7d4c5f8e3a1b2c3d4e5f60",
    "status": "done",
    "results": {
        "sentiment": {
            "label": "positive",
            "probability": 0.97,
            "scores": {"positive": 0.97, "negative": 0.03},
        },
        "reply": {"text": "恭喜您！实验成功真是太好了。", "finish_reason": "stop", "tokens": 11},
    },
    "model": {"id": "default", "revision": "5a1b2c3d", "precision": "bf16"},
    "timings_ms": {"queue": 1.25, "batch": 0.5, "prefill": 21.0, "decode": 310.75, "total": 334.0},
    "worker": "worker-1",
    "attempt": 1,
    "finished_at": "2026-01-02T03:04:05.678+00:00",
    "revisions": {"sentiment": "8677df16a67b", "reply": "0d52e1d431b4"},
}


class GatewayApp(FastAPI):
    """A FastAPI app whose document tells problems as problems."""

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is not None:
            return self.openapi_schema
        document = super().openapi()
        for operations in document["paths"].values():
            for operation in operations.values():
                for status, answer in operation["responses"].items():
                    if int(status) >= 400:
                        [content] = answer["content"].values()
                        answer["content"] = {MEDIA_TYPE: content}
        return document
