# SPDX-License-Identifier: Apache-2.0
"""What the exerciser is made of, one part a module; each owns its registers."""
