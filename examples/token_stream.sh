#!/bin/sh
# Stream an answer of `llmstream serve` with curl: token_stream.sh [http://127.0.0.1:3030]
set -eu
url=${1:-http://127.0.0.1:3030}

# --no-buffer shows each token as it comes; --fail-with-body turns an error's status into curl's.
curl --silent --show-error --no-buffer --fail-with-body "$url/token_stream" \
    -H 'Content-Type: application/json' \
    -d '{"query": "Where is Paris?", "temperature": 0, "max_tokens": 24}'
echo

# Whoever closes the connection stops the generation: here, head has enough after 40 bytes.
curl --silent --no-buffer "$url/token_stream" -H 'Content-Type: application/json' \
    -d '{"query": "Count to a thousand.", "temperature": 0, "max_tokens": 200}' | head -c 40
echo
echo stopped
