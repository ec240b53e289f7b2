# SPDX-License-Identifier: Apache-2.0
"""An endpoint whose module takes longer to import than any test waits."""

import time

time.sleep(60)
