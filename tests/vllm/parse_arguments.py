"""Runs in vLLM's environment (test_vllm_accepts.py): parses argument lists from stdin and prints the parsed values."""

import importlib
import json
import sys


def parser():  # noqa: ANN201 - the type belongs to vLLM and depends on its version
    """The argument parser of vLLM's server, whose module moved between 0.26 and 0.32, and again in 0.33."""
    argparse_utils = importlib.import_module("vllm.utils.argparse_utils")
    for name in (f"vllm.entrypoints.{package}.cli_args" for package in ("common", "launchers", "openai")):
        try:
            make = importlib.import_module(name).make_arg_parser
        except ModuleNotFoundError:
            continue
        return make(argparse_utils.FlexibleArgumentParser())
    raise SystemExit("this vLLM has no make_arg_parser in the known modules")


def main() -> None:
    """Print one JSON object with the values of each configuration."""
    make = parser()
    keys = (
        *("tensor_parallel_size", "speculative_config", "async_scheduling", "enable_prefix_caching", "max_model_len"),
        *("max_num_batched_tokens", "generation_config", "reasoning_parser", "dtype", "quantization"),
    )
    found = {name: vars(make.parse_args(words)) for name, words in json.load(sys.stdin).items()}
    print(json.dumps({name: {key: values.get(key) for key in keys} for name, values in found.items()}))


if __name__ == "__main__":
    main()
