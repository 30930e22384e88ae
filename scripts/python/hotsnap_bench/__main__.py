# SPDX-License-Identifier: GPL-2.0-or-later
import sys

from .core import main

sys.exit(main())
