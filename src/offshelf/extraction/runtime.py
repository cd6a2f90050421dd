"""OpenVINO, imported so that it cannot call out."""

from __future__ import annotations

import sys
from typing import Any


def load_openvino() -> Any:
    """Import OpenVINO without its telemetry.

    OpenVINO imports `openvino_telemetry` if it can and uses a stub if it cannot. Its telemetry asks for no consent and
    would send from clinics, so here it cannot: an entry of None in `sys.modules` makes any import of it fail.

    Returns
    -------
    module
        `openvino`.
    """
    for name in [module for module in sys.modules if module.startswith("openvino_telemetry.")]:
        del sys.modules[name]
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # the documented way to forbid an import
    import openvino

    return openvino
