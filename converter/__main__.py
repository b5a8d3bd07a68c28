"""``python -m converter`` is ``biasopt``: the launcher beside this folder, whatever else is called like that."""

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

if __name__ == "__main__":
    spec = spec_from_file_location("biasopt", Path(__file__).resolve().parents[1] / "biasopt.py")
    assert spec is not None
    assert spec.loader is not None
    launcher = module_from_spec(spec)
    spec.loader.exec_module(launcher)
    launcher.main()
