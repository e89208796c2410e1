"""`python -m imajin_aesthetic_client`: the command `aesthetic`."""

import sys

from imajin_aesthetic_client.command import main

sys.exit(main())
