#!/bin/sh
# The HTTP gateway by curl: sh messages.sh     (`moodq up`, or `moodq gateway` beside a Redis and a worker)
# All routes are in ../../gateway.md. With keys, set MOODQ_KEY.
set -eu
url=${MOODQ_URL:-http://127.0.0.1:8080}

call() {  # call METHOD PATH [JSON]: prints the answer's body; curl says what went wrong otherwise
  curl -sS -X "$1" "$url$2" -H "Authorization: Bearer ${MOODQ_KEY:-none}" \
    ${3:+-H 'Content-Type: application/json' --data-binary "$3"}
  echo
}

echo "# Wait for the result"
call POST /v1/analyze '{"text": "今天的实验终于成功了，太棒了！", "tasks": ["sentiment", "reply"], "wait_s": 30}'

echo "# Send now, read later; the id makes it safe to send twice"
call POST /v1/jobs '{"id": "order-17", "text": "My order is late again.", "tasks": ["sentiment", "reply"]}'
call POST /v1/jobs '{"id": "order-17", "text": "My order is late again.", "tasks": ["sentiment", "reply"]}'

echo "# Follow it: the label first, then the reply as it is written, at last the result"
curl -sSN "$url/v1/stream/order-17" -H "Authorization: Bearer ${MOODQ_KEY:-none}"
call GET /v1/results/order-17

echo "# Many at once; one that cannot be sent is told by its place"
call POST /v1/batch '{"items": [{"id": "row-1", "text": "谢谢"}, {"text": "  "}, {"id": "row-2", "text": "so bad"}]}'
until call GET '/v1/results?ids=row-1,row-2' | grep -vq null; do sleep 0.1; done
call GET '/v1/results?ids=row-1,row-2'

echo "# It has ended: nothing is left to cancel"
call DELETE /v1/jobs/order-17

echo "# What is wrong has a code"
call POST /v1/analyze '{"text": "x", "tasks": ["mood"]}'
