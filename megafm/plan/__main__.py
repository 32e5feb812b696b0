"""`megafm plan`, `python -m megafm.plan`."""

from __future__ import annotations

from megafm.config import job
from megafm.plan.config import PlanJob


@job("plan")
def main(config: PlanJob) -> None:
    from megafm.plan.job import plan

    plan(config)


if __name__ == "__main__":
    main()
