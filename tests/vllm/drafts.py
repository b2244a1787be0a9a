"""Runs in vLLM's environment: reads [k, min, max, contexts] as JSON and prints vLLM's n-gram drafts."""

import json
import sys

import numpy as np
from vllm.v1.spec_decode.ngram_proposer import _find_longest_matched_ngram_and_propose_tokens as propose

k, min_n, max_n, contexts = json.load(sys.stdin)
drafts = [propose(np.array(context, dtype=np.int32), min_n, max_n, 4096, k).tolist() for context in contexts]
print(json.dumps(drafts))
