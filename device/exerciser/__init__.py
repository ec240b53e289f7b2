# SPDX-License-Identifier: Apache-2.0
"""The exerciser, one part in each module; each part owns its registers."""
