"""Make trl.json and verl.json anew: an environment for each oracle, then each oracle's script in it.

python tests/golden/make_goldens.py [--trl-venv .venv-trl] [--verl-venv .venv-verl]
Needs uv (`make` installs it into .venv). An environment that is there already is used as it is.
"""

import argparse
import os
import shutil
import subprocess
from pathlib import Path

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]
PYTHON = "3.11"
TRL_PACKAGES = ["trl==1.16.0", "torch==2.13.0", "torchvision==0.28.0", "transformers==5.19.0", "pillow"]
# verl pins an older transformers and asks for much that its arithmetic never imports: it comes without dependencies.
VERL_PACKAGES = [
    *("torch==2.13.0", "transformers==5.19.0", "accelerate", "datasets", "peft", "pandas", "numpy", "pyarrow"),
    *("ray", "torchdata", "pillow", "hydra-core", "omegaconf", "codetiming", "cloudpickle", "orjson", "requests"),
    *("aiohttp", "uvicorn", "fastapi", "msgpack", "protobuf", "importlib-metadata", "pyvers", "cachetools"),
    "jsonschema",
]
VERL_ALONE = ["verl==0.9.1", "tensordict==0.10.0"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trl-venv", type=Path, default=ROOT / ".venv-trl")
    parser.add_argument("--verl-venv", type=Path, default=ROOT / ".venv-verl")
    arguments = parser.parse_args()
    if not arguments.trl_venv.exists():
        _make_environment(arguments.trl_venv, TRL_PACKAGES, [])
    if not arguments.verl_venv.exists():
        _make_environment(arguments.verl_venv, VERL_PACKAGES, VERL_ALONE)
    _run_oracle(arguments.trl_venv, "trl_oracle.py")
    _run_oracle(arguments.verl_venv, "verl_oracle.py")


def _make_environment(folder: Path, packages: list[str], alone: list[str]) -> None:
    uv = shutil.which("uv", path=f"{ROOT / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}")
    if uv is None:
        raise SystemExit("uv is not installed; `make` puts it into .venv")
    subprocess.run([uv, "venv", "--python", PYTHON, folder], check=True)
    install = [uv, "pip", "install", "--python", folder / "bin" / "python"]
    subprocess.run([*install, *packages], check=True)
    if alone:
        subprocess.run([*install, "--no-deps", *alone], check=True)


def _run_oracle(folder: Path, script: str) -> None:
    python = folder.absolute() / "bin" / "python"
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run([python, "-W", "ignore", FOLDER / script], check=True, env=one_thread)


if __name__ == "__main__":
    main()
