# SPDX-License-Identifier: GPL-2.0-or-later
import sys

from .program import main

sys.exit(main())
