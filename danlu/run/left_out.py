"""What a stage leaves out of its input: counted by reason, with an example of each."""

import sys
from dataclasses import dataclass, field


@dataclass(kw_only=True)
class LeftOut:
    """Stages write both fields into `figures.json` as `dropped` and `dropped_examples`."""

    counts: dict[str, int] = field(default_factory=dict)
    """Reason and number."""
    examples: list[str] = field(default_factory=list)
    """What was left out first for each reason, and why."""

    def add(self, reason: str, what: str, detail: str = "") -> None:
        """One more; `what` names it to the user. `detail` is said in the example where it says more than the reason."""
        if reason not in self.counts:
            self.examples.append(f"{what}: {detail or reason}")
        self.counts[reason] = self.counts.get(reason, 0) + 1

    def tell(self, stage: str) -> None:
        """The examples on standard error."""
        for example in self.examples:
            print(f"{stage}: left out, for example: {example}", file=sys.stderr)
