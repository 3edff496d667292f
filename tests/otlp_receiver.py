"""An OTLP/HTTP receiver as a process of its own: what a collector's front does, and nothing behind it.

It decodes what it is sent by the official protobuf definitions (``opentelemetry-proto``) and writes each span
as one JSON line. ``python tests/otlp_receiver.py FILE`` prints the port it listens on. While ``FILE.down``
exists it answers 503.
"""

from __future__ import annotations

import gzip
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)


def spans_of(body: bytes) -> list[dict[str, Any]]:
    """The spans of a request, with ids in hexadecimal and attributes as plain values."""
    request = ExportTraceServiceRequest.FromString(body)
    found = []
    for resource_spans in request.resource_spans:
        resource = _attributes(resource_spans.resource.attributes)
        for scope_spans in resource_spans.scope_spans:
            for span in scope_spans.spans:
                found.append(
                    {
                        "name": span.name,
                        "trace": span.trace_id.hex(),
                        "span": span.span_id.hex(),
                        "parent": span.parent_span_id.hex(),
                        "kind": span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
                        "start": span.start_time_unix_nano,
                        "end": span.end_time_unix_nano,
                        "status": span.status.StatusCode.Name(span.status.code).removeprefix("STATUS_CODE_"),
                        "attributes": _attributes(span.attributes),
                        "links": [[link.trace_id.hex(), link.span_id.hex()] for link in span.links],
                        "scope": scope_spans.scope.name,
                        "resource": resource,
                    }
                )
    return found


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}


def handler(file: Path) -> type[BaseHTTPRequestHandler]:
    down = file.with_suffix(".down")

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if down.exists() or self.path != "/v1/traces":
                self._answer(503 if down.exists() else 404, b"")
                return
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            lines = "".join(json.dumps(span) + "\n" for span in spans_of(body))
            with file.open("a", encoding="utf-8") as output:
                output.write(lines)
            self._answer(200, ExportTraceServiceResponse().SerializeToString())

        def _answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            return None

    return Handler


def main() -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(Path(sys.argv[1])))
    print(server.server_address[1], flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
