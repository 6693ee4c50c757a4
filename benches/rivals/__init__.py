"""What others reach on the machine that runs this, beside warpnorm, all in one process: see README.md."""
