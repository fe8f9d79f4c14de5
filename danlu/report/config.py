"""The table `[report]` of a recipe. Imports nothing heavy."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """What the page says of itself."""

    run: Path = Path("runs/demo")
    """Folder of the run."""

    title: str = "Danlu 丹炉"
    """Heading of the page."""
