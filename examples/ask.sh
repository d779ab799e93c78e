#!/bin/sh
# Ask from a shell script: the answer is the output, and the exit code tells whether there is one.
set -eu

capital=$(llmstream ask "What is the capital of France?" --system "Answer in one word." \
    --temperature 0 --max-tokens 16 </dev/null)
echo "The model says: $capital"

# Standard input is appended to the question.
printf 'Paris is in France.\nRome is in Italy.\n' |
    llmstream ask "Repeat this list." --temperature 0 --max-tokens 32
echo
