"""Run by vLLM's own Python (test_vllm_accepts.py): parse each argument list on stdin, print what vLLM understood."""

import importlib
import json
import sys


def parser():  # noqa: ANN201 - vLLM's own type, of whichever version
    """VLLM's server parser; its module moved between 0.26 and 0.32."""
    argparse_utils = importlib.import_module("vllm.utils.argparse_utils")
    for name in ("vllm.entrypoints.launchers.cli_args", "vllm.entrypoints.openai.cli_args"):
        try:
            make = importlib.import_module(name).make_arg_parser
        except ModuleNotFoundError:
            continue
        return make(argparse_utils.FlexibleArgumentParser())
    raise SystemExit("this vLLM has no make_arg_parser where it is looked for")


def main() -> None:
    """One JSON object by configuration on the last line."""
    make = parser()
    keys = (
        *(
            "tensor_parallel_size",
            "speculative_config",
            "async_scheduling",
            "enable_prefix_caching",
            "max_model_len",
        ),
        *("max_num_batched_tokens", "generation_config", "reasoning_parser", "dtype", "quantization"),
    )
    found = {name: vars(make.parse_args(words)) for name, words in json.load(sys.stdin).items()}
    print(json.dumps({name: {key: values.get(key) for key in keys} for name, values in found.items()}))


if __name__ == "__main__":
    main()
