"""The host's side of the rig: makes the environment, runs the VM, collects the verdict."""

from importlib.util import find_spec as _find_spec
from pathlib import Path as _Path

# A `device.py` of the user's, in a folder that Python looks in first, would be ours by its name.
_spec = _find_spec("device")
_OWN = _Path(__file__).resolve().parent.parent / "device"
if _spec is None or str(_OWN / "__init__.py") != str(_Path(_spec.origin or "").resolve()):
    raise ImportError(
        f"dma-rehearsal: {_spec.origin if _spec else 'nothing'} is found as `device`, which is the "
        f"name of dma-rehearsal's own package ({_OWN}); next: rename that file or folder"
    )
