"""Reliability, measured: every promise about training is tried on real runs, and it is counted how often it held.

    python -m train.reliability --out results/              # all of it, about 20 minutes on one core
    python -m train.reliability --divide 50 --out /tmp/r    # a fiftieth of the trials
    python -m train.reliability.peers --out results/        # the same questions to others; needs the [peers] extra

`trials` makes and compares tiny runs, `promises` and `endings` try what training promises, `malformed` what loading
promises, with the damage of `damage`, `forgery` and `tokenizers`. Nothing in the report is written by hand.
"""
