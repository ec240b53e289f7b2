# SPDX-License-Identifier: Apache-2.0
"""Names for addresses of kernel code: functions, files and lines."""
