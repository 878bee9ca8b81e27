"""`python -m ctmr` is the program `ctmr`."""

from ctmr.cli import main

main()
